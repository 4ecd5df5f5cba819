"""Stage 4: the teacher over the pool; shard after shard of soft pseudo-labels, each committed exactly once."""

import time
import uuid
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import ReliabilityBins
from raylabel.config import Config, config_dict
from raylabel.dataset.pool import pool_shards
from raylabel.errors import InputError
from raylabel.kept_labels import count_kept
from raylabel.labels import STATUS_OK, committed_shards, shard_uri
from raylabel.pipeline.calibrate import fit_to_pool, load_corrector
from raylabel.pipeline.corrected_shards import apply_corrector
from raylabel.pipeline.data import RunData, load_classes
from raylabel.pipeline.disk_need import check_disk
from raylabel.pipeline.drift import compare_with_pool
from raylabel.pipeline.expected_bins import bins_of_shard
from raylabel.pipeline.inference import map_shards
from raylabel.pipeline.label_shard import LabelShard
from raylabel.pipeline.live_calibration import live_calibration
from raylabel.pipeline.pool_histogram import HISTOGRAM_BINS, histogram_from_json
from raylabel.pipeline.preflight import check_nodes, check_teacher_fits
from raylabel.pipeline.session import connect, live_progress
from raylabel.pipeline.stage import execute_stage, finished, stage_folder
from raylabel.schema import ERRORS
from raylabel.storage import RunFolder, commit_json, commit_table, digest, read_table, read_table_metadata, remove

FOLDER = stage_folder("label")


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Label the pool: only shards that are not committed yet are worked on.

    Another corrector or selection is applied to the stored labels, without the teacher.

    Raises:
        InputError: the pool is empty, the cluster or the disk too small, teacher and labelled set don't fit, or more
            than `label.max_bad_fraction` of the images are quarantined (the labels of the others stay committed).
    """
    data = RunData(config)
    inputs = {
        "teacher": finished(run, "teacher")["fingerprint"],
        "pool": data.part_digest("pool"),
        "label": {
            name: getattr(config.label, name) for name in ("shard_size", "score_threshold", "max_per_image", "top_k")
        },
        "max_image_pixels": config.data.max_image_pixels,
    }
    check_teacher_fits(run, data, load_corrector(run))
    execute_stage(run, "label", inputs, lambda: _label_pool(config, run, data.pool, digest(inputs)))
    return refresh(config, run)


def refresh(config: Config, run: RunFolder) -> dict[str, Any]:
    """Bring stored labels and their artifact up to the run's corrector and the config's selection.

    A corrector that uses the pool's scores is fitted to them first: they are known only now. Drift against the
    calibration split is measured where that, or the pool, has changed.

    Raises:
        InputError: nothing was labelled yet.
    """
    artifact = finished(run, "label")
    fit_to_pool(config, run)
    corrector, classes = load_corrector(run), load_classes(run)
    apply_corrector(run, corrector, num_classes=classes.num_classes)
    current = {"corrector_digest": digest(corrector.to_json()), "selection_settings": config_dict(config.selection)}
    if any(artifact.get(name) != value for name, value in current.items()):
        artifact |= {**current, "corrector": corrector.kind, "selection": count_selection(config, run)}
        run.commit_artifact(FOLDER, artifact)
    if artifact.get("drift", {}).get("calibration") != finished(run, "calibrate")["fingerprint"]:
        artifact |= {"drift": compare_with_pool(run)}
        run.commit_artifact(FOLDER, artifact)
    kept, groups = artifact["selection"]["kept"], artifact["selection"]["kept_by_group"]
    by_group = ", ".join(f"{groups[group]} {group}" for group in ("r", "c", "f"))
    print(f"label: {kept} of {artifact['num_instances']} predictions kept as pseudo-labels ({by_group})", flush=True)
    if artifact["drift"]["warning"]:
        print(f"label: WARNING: {artifact['drift']['warning']}", flush=True)
    return artifact


def count_selection(config: Config, run: RunFolder) -> dict[str, Any]:
    """How many stored predictions the selection keeps, by frequency group, and why the others are dropped."""
    groups = load_classes(run).frequency_groups
    kept, dropped = np.zeros(len(groups), np.int64), Counter[str]()
    for uri in committed_shards(run).values():
        kept_of_shard, dropped_of_shard = count_kept(uri, config.selection, groups)
        kept += kept_of_shard
        dropped.update(dropped_of_shard)
    by_group = {letter: int(kept[groups == letter].sum()) for letter in ("r", "c", "f")}
    return {"kept": int(kept.sum()), "kept_by_group": by_group, "dropped": dict(dropped)}


def _label_pool(config: Config, run: RunFolder, pool: Any, fingerprint: str) -> dict[str, Any]:
    check_disk(config, run, num_images=len(pool))
    connect()
    check_nodes(run, uses_gpus=config.label.num_gpus > 0)
    classes, corrector = load_classes(run), load_corrector(run)
    shards = pool_shards(pool, config.label.shard_size)
    commit_json(
        run.path(FOLDER, "plan.json"),
        {"num_shards": len(shards), "num_images": len(pool), "fingerprint": fingerprint, "started": time.time()},
    )
    committed = committed_shards(run)
    missing = [shard for shard in shards if shard.shard_id not in committed]
    num_images_before = sum(len(shard.images) for shard in shards if shard.shard_id in committed)

    def recount(shard_id: int) -> pa.Table:
        uri = shard_uri(run, shard_id)
        return bins_of_shard(uri, num_classes=classes.num_classes, num_bins=HISTOGRAM_BINS).to_table()

    with (
        live_calibration(
            run, "label", num_bins=HISTOGRAM_BINS, num_shards=len(shards), is_matched=False, recount=recount
        ) as live,
        live_progress("label", len(pool), unit="images", run=run, folder=FOLDER, done=num_images_before) as counter,
    ):
        live.finished(committed)
        for done in map_shards(
            LabelShard,
            config=config,
            worker_args={
                "run": run.uri,
                "corrector": corrector.to_json(),
                "fingerprint": fingerprint,
                "driver_id": uuid.uuid4().hex[:12],
                "counter": counter,
                "calibration_actor": live.actor,
            },
            shards=[
                {"shard_id": shard.shard_id, "images": [[image.image_id, image.uri] for image in shard.images]}
                for shard in missing
            ],
        ):
            live.finished(done["shard_id"].to_pylist())
    remove(run.path(FOLDER, "attempts"))
    return _summarise(config, run, num_images=len(pool), num_shards=len(shards))


def _summarise(config: Config, run: RunFolder, *, num_images: int, num_shards: int) -> dict[str, Any]:
    """Totals, always from committed shards; quarantined images go into errors.parquet."""
    totals: Counter[str] = Counter()
    errors: list[pa.Table] = [ERRORS.empty_table()]
    histogram = ReliabilityBins.zeros(load_classes(run).num_classes, HISTOGRAM_BINS)
    for uri in committed_shards(run).values():
        metadata = read_table_metadata(uri)
        totals.update({name: int(metadata[name]) for name in ("num_images", "num_instances", "num_quarantined")})
        histogram += ReliabilityBins.from_table(histogram_from_json(metadata["histogram"]))
        if int(metadata["num_quarantined"]):
            rows = read_table(uri).select(["image_id", "uri", "status"]).to_pylist()
            bad = [{"reason": row.pop("status"), **row} for row in rows if row["status"] != STATUS_OK]
            errors.append(pa.Table.from_pylist(bad, schema=ERRORS))
    quarantined = pa.concat_tables(errors)
    commit_table(run.path(FOLDER, "errors.parquet"), quarantined)
    commit_table(run.path(FOLDER, "histogram.parquet"), histogram.to_table())
    if totals["num_images"] != num_images:
        raise RuntimeError(f"{totals['num_images']} images are committed, the pool has {num_images}")
    if totals["num_quarantined"] > config.label.max_bad_fraction * num_images:
        [first] = quarantined.slice(0, 1).to_pylist()
        raise InputError(
            f"{totals['num_quarantined']} of {num_images} images of the pool are quarantined, more than "
            f"label.max_bad_fraction {config.label.max_bad_fraction:g}; the first is {first['uri']} "
            f"({first['reason']}), all are in {run.path(FOLDER, 'errors.parquet')}"
        )
    reasons = Counter(quarantined["reason"].to_pylist())
    return {
        "num_shards": num_shards,
        **{name: totals[name] for name in ("num_images", "num_instances", "num_quarantined")},
        "quarantined_by_reason": dict(reasons),
    }
