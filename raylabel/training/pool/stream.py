"""Pseudo-labelled images, read from the committed shards of a run during training."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raylabel.dataset.image_source import ImageSource
from raylabel.models.segmenter import Target
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import instances_from_structs, shard_uri
from raylabel.schema import INSTANCE
from raylabel.threads import READING_THREADS, map_on_threads
from raylabel.training.augment.views import Augment, strong_augmentation, weak_augmentation
from raylabel.training.examples import image_tensor
from raylabel.training.pool.choice import ChosenShard, PoolChoice, read_chosen
from raylabel.training.pool.index import PoolIndex
from raylabel.training.pool.order import PoolOrder, Window
from raylabel.training.pool.targets import PoolTargets

WINDOWS_HELD = 2
"""Windows in memory: two, because a batch may span the end of a window."""

_FIELDS = (
    "image_id",
    "uri",
    "height",
    "width",
    "as_stored",
    *(field.name for field in INSTANCE if field.name != "context"),
)


@dataclass(frozen=True)
class _OpenWindow:
    shards: list[ChosenShard]
    places: NDArray[np.int64]
    images: NDArray[np.int64]


class PoolStream:
    """An ExampleStream of a run's chosen pseudo-labels. Only the shards of open windows are in memory.

    Args:
        run: the run with the committed shards.
        index: index of these shards.
        choice: the rules by which predictions are chosen.
        targets: the rules by which predictions become targets.
        seed: seed of the order.
        max_pixels: largest image to read; larger images raise InputError.
        augment: the student's view; strong by default.
        weak_view: the view that a Relabeller predicts on.
        unlabelled_from: first draw without objects. From there on images get the weak view, because a Relabeller adds
            the objects and makes the student's view.
    """

    def __init__(
        self,
        run: RunFolder,
        index: PoolIndex,
        choice: PoolChoice,
        targets: PoolTargets,
        *,
        seed: int,
        max_pixels: int,
        augment: Augment = strong_augmentation,
        weak_view: Augment = weak_augmentation,
        unlabelled_from: int | None = None,
    ) -> None:
        self._run, self._index, self._choice, self._targets = run, index, choice, targets
        self._order = PoolOrder(index.shard_factors, seed)
        self._max_pixels, self._unlabelled_from = max_pixels, unlabelled_from
        self._augment, self._weak_view = augment, weak_view
        self._open: OrderedDict[tuple[int, int], _OpenWindow] = OrderedDict()
        self._lock = Lock()

    def image_id(self, draw: int) -> str:
        """See `ExampleStream`."""
        shard, image = self._located(draw)
        return shard.table["image_id"][image].as_py()

    def load(self, draw: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """See `ExampleStream`."""
        shard, image = self._located(draw)
        [row] = shard.table.slice(image, 1).to_pylist()
        size_hw = (row["height"], row["width"])
        # Shards of earlier versions lack the column.
        source = ImageSource(row["uri"], size_hw, as_stored=bool(row.get("as_stored")))
        pixels = image_tensor(source, max_pixels=self._max_pixels)
        if self._unlabelled_from is not None and draw >= self._unlabelled_from:
            return self._weak_view(pixels, Target.empty(size_hw, self._choice.num_classes), rng)
        structs = [struct | {"context": None} for struct in row["instances"] or []]
        instances, scores = instances_from_structs(structs, size_hw, self._choice.num_classes)
        is_kept = shard.keep[shard.offsets[image] : shard.offsets[image + 1]]
        return self._augment(pixels, self._targets.of(instances, scores, is_kept), rng)

    def _located(self, draw: int) -> tuple[ChosenShard, int]:
        """Find the shard of a draw, and the image's row in that shard."""
        with self._lock:
            window, place = self._order.locate(draw)
            opened = self._opened(window)
        return opened.shards[opened.places[place]], int(opened.images[place])

    def _opened(self, window: Window) -> _OpenWindow:
        if window.key not in self._open:
            while len(self._open) >= WINDOWS_HELD:
                self._open.popitem(last=False)
            uris = [shard_uri(self._run, int(self._index.shard_ids[shard])) for shard in window.shards]
            shards = list(
                map_on_threads(
                    lambda uri: read_chosen(uri, self._choice, fields=_FIELDS), uris, num_threads=READING_THREADS
                )
            )
            ends = [np.cumsum(shard.image_factors(self._index.class_factors)) for shard in shards]
            self._open[window.key] = _OpenWindow(shards, *window.images(ends, self._order.seed))
        self._open.move_to_end(window.key)
        return self._open[window.key]
