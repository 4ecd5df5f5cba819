"""Label the pending shards of a manifest on Ray. Each shard is committed exactly once."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.cluster.live_calibration import live_calibration
from raylabel.cluster.map_shards import map_shards
from raylabel.cluster.nodes import check_nodes
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.prometheus import ImagesLeft
from raylabel.cluster.session import connect
from raylabel.config import Config
from raylabel.dataset.pool.manifest import ShardManifest, ShardReferences
from raylabel.run.calibration import load_corrector
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.attempts import forget_attempts
from raylabel.run.labels.disk_need import check_disk
from raylabel.run.labels.failing import FailingShards
from raylabel.run.labels.histograms import HISTOGRAM_BINS, bins_of_shard
from raylabel.run.labels.ledger import Ledger
from raylabel.run.labels.manifest import missing_shards
from raylabel.run.labels.shards import shard_uri
from raylabel.run.labels.survey import unlabelled_images
from raylabel.run.labels.totals import too_many_bad, write_errors
from raylabel.stages.label_worker import LabelShard

FOLDER = stage_folder("label")


def label_pending_shards(
    config: Config, run: RunFolder, manifest: ShardManifest, *, model_uri: str, fingerprint: str, driver_id: str
) -> None:
    """Label the shards of a manifest that the run does not have yet.

    Args:
        config: the run's config.
        run: the run folder, with classes and corrector.
        manifest: the run's manifest.
        model_uri: folder of the saved model.
        fingerprint: fingerprint of the labels.
        driver_id: who holds the run's lease.

    Raises:
        InputError: the cluster or the disk is too small, the model fails at every image, or more than
            `label.max_bad_fraction` of the images are quarantined. Committed labels stay.
    """
    if len(missing := missing_shards(run, manifest)):
        ledger = Ledger(run)
        _check_quarantined(config, run, manifest, ledger)
        check_disk(config.label, run, num_images=manifest.num_images)
        _label_shards(
            config, run, manifest, ledger, missing, model_uri=model_uri, fingerprint=fingerprint, driver_id=driver_id
        )


def _label_shards(
    config: Config,
    run: RunFolder,
    manifest: ShardManifest,
    ledger: Ledger,
    missing: NDArray[np.int64],
    *,
    model_uri: str,
    fingerprint: str,
    driver_id: str,
) -> None:
    connect()
    check_nodes(run, uses_gpus=config.label.num_gpus > 0)
    classes, corrector = load_classes(run), load_corrector(run)
    # Markers of this process's earlier calls do not count, because users may have stopped those calls.
    forget_attempts(run)

    def recount(shard_id: int) -> pa.Table:
        uri = shard_uri(run, shard_id)
        return bins_of_shard(uri, num_classes=classes.num_classes, num_bins=HISTOGRAM_BINS).to_table()

    with (
        live_calibration(
            "label",
            run=run,
            folder=FOLDER,
            num_bins=HISTOGRAM_BINS,
            num_shards=manifest.num_shards,
            is_matched=False,
            recount=recount,
        ) as live,
        live_progress(
            "label",
            manifest.num_images,
            unit="images",
            run=run,
            folder=FOLDER,
            done=ledger.num_images,
            quarantined=ledger.num_quarantined,
            show_left=ImagesLeft(run).show,
        ) as counter,
    ):
        live.finished(np.setdiff1d(np.arange(manifest.num_shards), missing).tolist())

        def label(shard_ids: NDArray[np.int64], *, holds_back: bool) -> Iterator[pa.Table]:
            return map_shards(
                LabelShard,
                config=config,
                worker_args={
                    "run": run.uri,
                    "model": model_uri,
                    "corrector": corrector.to_json(),
                    "fingerprint": fingerprint,
                    "driver_id": driver_id,
                    "holds_back": holds_back,
                    "counter": counter,
                    "calibration_actor": live.actor,
                },
                shards=ShardReferences(manifest, shard_ids),
                title=run.title("label"),
            )

        def label_twice() -> Iterator[pa.Table]:
            failing = FailingShards(
                has_predicted=ledger.num_predicted > 0,
                most_images=config.label.max_bad_fraction * manifest.num_images - ledger.num_quarantined,
            )
            yield from failing.hold_back(label(missing, holds_back=True))
            if failing.shard_ids:
                yield from label(np.array(failing.shard_ids, np.int64), holds_back=False)

        try:
            for done in label_twice():
                live.finished(done["shard_id"].to_pylist())
                ledger.add(done)
                _check_quarantined(config, run, manifest, ledger)
        finally:
            ledger.write()
    forget_attempts(run)


def _check_quarantined(config: Config, run: RunFolder, manifest: ShardManifest, ledger: Ledger) -> None:
    """End the stage as soon as the remaining images can't bring the share below `label.max_bad_fraction`."""
    if ledger.num_quarantined > config.label.max_bad_fraction * manifest.num_images:
        raise too_many_bad(
            run,
            write_errors(
                run, [unlabelled_images(shard_uri(run, shard_id)) for shard_id in ledger.shards_with_quarantined()]
            ),
            num_images=manifest.num_images,
            num_left=manifest.num_images - ledger.num_images,
            max_bad_fraction=config.label.max_bad_fraction,
        )
