"""Both decoders yield the same images in order, within bounds, with a reason for each bad image, whatever dies."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from raylabel.cluster import decoding
from raylabel.cluster.decoding import (
    Decoder,
    Lookahead,
    TaskDecoder,
    ThreadDecoder,
    build_decoder,
    read_one,
)
from raylabel.config import Config
from raylabel.dataset.content import content_digest
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.images import ImageError
from raylabel.run.labels.attempts import KILLED_ITS_WORKER

LIMIT = 10_000


@pytest.fixture(params=["threads", "tasks"])
def make(request: pytest.FixtureRequest) -> Callable[[Lookahead], Decoder]:
    if request.param == "tasks":
        request.getfixturevalue("ray_session")
        return lambda lookahead: TaskDecoder(LIMIT, lookahead)
    return lambda lookahead: ThreadDecoder(LIMIT, lookahead)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageSource]:
    """20 images whose pixels are their number. The sixth is damaged, the seventh too large, the eighth missing."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(20):
        Image.fromarray(np.full((8, 8 + number, 3), number, np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "06.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(folder / "07.png")
    (folder / "08.png").unlink()
    return [ImageSource(str(folder / f"{number:02d}.png")) for number in range(20)]


def test_which_way_up(tmp_path: Path) -> None:
    """Pool images are turned as viewers show them. Annotated images fit their annotations, or are refused."""
    uri = str(tmp_path / "turned.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(uri, exif=exif)
    for size_hw, seen_hw in ((None, (30, 20)), ((20, 30), (20, 30)), ((30, 20), (30, 20))):
        image, content = read_one(ImageSource(uri, size_hw), LIMIT)
        assert content == content_digest(Path(uri).read_bytes())
        assert isinstance(image, np.ndarray)
        assert image.shape[:2] == seen_hw
    found = read_one(ImageSource(uri, (5, 5)), LIMIT)
    assert str(found.image) == "another size: 20 x 30 pixels (width x height), annotated as 5 x 5"


@pytest.mark.ray
@pytest.mark.parametrize("max_images", [1, 3, 100])
def test_images_come_in_order_and_bad_ones_as_reasons(
    max_images: int, make: Callable[[Lookahead], Decoder], images: list[ImageSource]
) -> None:
    lookahead = Lookahead(max_images=max_images, max_pixels=10**6)
    decode = make(lookahead)
    for _ in range(2):  # because one decoder serves many shards
        found = list(decode(images))
        assert [position for position, _ in found] == list(range(20))
        for position, (image, content) in found:
            path = Path(images[position].uri)
            assert content == (content_digest(path.read_bytes()) if position != 8 else None)
            if position in (6, 7, 8):
                assert str(image).split(":")[0] == {6: "not an image", 7: "too large", 8: "missing"}[position]
            else:
                np.testing.assert_array_equal(image, np.full((8, 8 + position, 3), position, np.uint8))
    assert list(decode([])) == []
    assert lookahead.largest == 8 * 27


@pytest.mark.ray
def test_no_more_is_begun_than_the_pixels_allow(
    make: Callable[[Lookahead], Decoder], images: list[ImageSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound has room for three images of the seen size, so at most three are begun beyond those taken."""
    lookahead = Lookahead(max_images=100, max_pixels=3 * 8 * 27)
    begun = 0
    decode = make(lookahead)
    if isinstance(decode, ThreadDecoder):
        submit = decode._threads.submit

        def counted(*args: object) -> object:
            nonlocal begun
            begun += 1
            return submit(*args)

        monkeypatch.setattr(decode._threads, "submit", counted)
    else:
        submit_task = decode._submit

        def counted_task(sources: list[ImageSource]) -> object:
            nonlocal begun
            begun += len(sources)
            return submit_task(sources)

        monkeypatch.setattr(decode, "_submit", counted_task)
    most = max(begun - position for position, _ in decode(images[::-1]))
    assert 1 < most <= 3 + 1  # the image taken just now counts


def test_lookahead_follows_the_largest_image() -> None:
    lookahead = Lookahead(max_images=48, max_pixels=1 << 25)
    assert (lookahead.num_images, lookahead.num_images_a_task) == (2, 1), "the size is not known yet"
    lookahead.saw(np.zeros((480, 640, 3), np.uint8))
    assert (lookahead.num_images, lookahead.num_images_a_task) == (48, 8)
    lookahead.saw(ImageError("truncated"))
    lookahead.saw(np.zeros((3000, 4000, 3), np.uint8))
    assert (lookahead.num_images, lookahead.num_images_a_task) == (2, 1), "33 million pixels hold two of 12 million"
    lookahead.saw(np.zeros((7000, 7000, 3), np.uint8))
    assert lookahead.num_images == 1, "one may always be in flight"


@pytest.mark.ray
def test_the_way_is_chosen_by_setting(config: Config, ray_session: None) -> None:
    def kind(**label: object) -> type:
        return type(build_decoder(replace(config.label, **label), max_pixels=config.data.max_image_pixels))

    assert kind() is ThreadDecoder
    assert kind(num_gpus=1) is TaskDecoder
    assert kind(num_gpus=1, decoding="threads") is ThreadDecoder
    assert kind(decoding="tasks") is TaskDecoder
    settings = replace(config.label, decoding="tasks", num_workers=10_000)
    many = build_decoder(settings, max_pixels=config.data.max_image_pixels)
    assert 1 <= many.lookahead.max_pixels < 1 << 25, "a share of the object store"


@pytest.fixture
def lethal_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the decoding of 03.png end the process."""
    original = decoding._decode_task

    def lethal(sources: list[ImageSource], max_pixels: int) -> object:
        if any(Path(source.uri).name == "03.png" for source in sources):
            os.kill(os.getpid(), signal.SIGKILL)
        images = [read_one(source, max_pixels) for source in sources]
        return images if len(images) > 1 else images[0]

    import ray

    monkeypatch.setattr(decoding, "_decode_task", ray.remote(num_cpus=0.5, max_retries=0)(lethal))
    yield
    assert original is not decoding._decode_task


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session", "lethal_reader")
def test_an_image_that_kills_its_decoder_is_the_only_one_lost(images: list[ImageSource]) -> None:
    lookahead = Lookahead(max_images=12, max_pixels=10**6, largest=8 * 27)
    assert lookahead.num_images_a_task > 1
    found = list(TaskDecoder(LIMIT, lookahead)(images[:6]))
    assert [position for position, _ in found] == list(range(6))
    for position, (image, _) in found:
        if position == 3:
            assert str(image) == KILLED_ITS_WORKER
        else:
            assert not isinstance(image, ImageError)
