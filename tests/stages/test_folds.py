"""Cross-fitted calibration: the images that each teacher sees."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from prepared import prepared_run
from raylabel.calibration import Detections
from raylabel.cluster.ddp import Training
from raylabel.config import Config, config_dict
from raylabel.dataset.image_source import read_source
from raylabel.dataset.images import read_image
from raylabel.files.digests import digest
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.run.calibration import load_corrector, load_detections
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import context_from_structs, instances_from_structs
from raylabel.stages import calibrate, label, training_jobs
from raylabel.stages.training_jobs import fold_rows, fold_teacher_job
from stored_labels import label_rows


@given(num_images=st.integers(4, 60), num_folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_every_image_is_held_out_of_one_fold(num_images: int, num_folds: int, seed: int) -> None:
    parts = [fold_rows(num_images, fold, num_folds, seed) for fold in range(num_folds)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_fold_teacher_learns_from_the_other_folds_alone(config: Config, tmp_path: Path) -> None:
    folded = replace(config, calibration=replace(config.calibration, folds=3))
    run, everything = prepared_run(folded, tmp_path / "run"), RunData(folded).labelled
    seen: list[set[Any]] = []
    for fold in range(3):
        _, job = fold_teacher_job(config_dict(folded), run, fold)
        assert (job.start_step, job.steps) == (0, folded.teacher.steps), (
            "from scratch, because the embedder saw every fold"
        )
        images = {image.image_id for image in job.labelled.annotated.images}
        held_out = {
            everything.images[row].image_id for row in fold_rows(len(everything), fold, 3, folded.seed).tolist()
        }
        assert images == {image.image_id for image in everything.images} - held_out
        seen.append(images)
    assert set.union(*seen) == {image.image_id for image in everything.images}


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray")
def test_each_fold_is_predicted_by_its_teacher_and_the_pool_by_the_final_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fold teachers have different weights, and the corrector uses context. Their training counts as done here."""
    config = replace(
        config,
        teacher=replace(config.teacher, model="tiny_maskrcnn"),
        student=replace(config.student, model="tiny_maskrcnn"),
        calibration=replace(config.calibration, folds=2, corrector="contextual"),
        label=replace(config.label, score_threshold=0.02, max_per_image=6),
    )
    run, trained = prepared_run(config, tmp_path / "run"), []

    def train(trainings: Sequence[Training], **_: Any) -> None:
        for training in trainings:
            if not training.is_saved(run):
                trained.append(training.folder)
                build_segmenter, _ = training.build()
                description = {**training.description, "identity": digest(training.identity)}
                save_segmenter(build_segmenter(), run.path(training.folder), description)

    transfers: list[tuple[Detections, Detections]] = []

    def transfer(detections: Detections, source: Detections, target: Detections, **_: Any) -> Detections:
        transfers.append((source, target))
        return detections

    monkeypatch.setattr(calibrate, "transfer_scores", transfer)
    monkeypatch.setattr(calibrate, "train_on_ray", train)
    seeds, seeded = iter([1, 2]), training_jobs.new_segmenter
    monkeypatch.setattr(
        "raylabel.stages.training_jobs.new_segmenter",
        lambda settings, *, num_classes, seed: seeded(settings, num_classes=num_classes, seed=next(seeds)),
    )
    calibrate.run_stage(config, run)
    assert trained == ["calibration/fold-0", "calibration/fold-1"]
    detections, image_ids = load_detections(run)
    assert set(image_ids) == {str(image.image_id) for image in RunData(config).labelled.images}
    assert read_json(run.path("calibration", "corrector.json"))["kind"] == "contextual"
    assert np.isfinite(detections.context).all()
    everything = RunData(config).labelled
    for fold in range(2):
        row = int(fold_rows(len(everything), fold, 2, config.seed)[0])
        image = everything.images[row]
        pixels = read_source(image.source, max_pixels=10**6)
        found = np.sort(detections.raw_scores[detections.image_indices == image_ids.index(str(image.image_id))])
        np.testing.assert_allclose(found, _scores(config, run, f"calibration/fold-{fold}", pixels), atol=1e-5)
        assert not np.allclose(found, _scores(config, run, f"calibration/fold-{1 - fold}", pixels), atol=1e-3)

    # Every pool image is scored by the teacher, and by one fold's teacher.
    [(source, target)] = transfers
    images = [read_image(one.uri, max_pixels=10**6, as_displayed=True) for one in RunData(config).list_pool()]
    of_teacher = np.sort(np.concatenate([_scores(config, run, "teacher", pixels) for pixels in images]))
    np.testing.assert_allclose(np.sort(target.raw_scores), of_teacher, atol=1e-5)
    assert len(source) == len(target) == 6 * len(images)
    assert not np.allclose(np.sort(source.raw_scores), of_teacher, atol=1e-3)

    # Interrupted before the end with one teacher saved: the other is made again, and the outcome is the same.
    before = read_table(run.path("calibration", "detections.parquet"))
    Path(run.path("calibration", "artifact.json")).unlink()
    Path(run.path("calibration", "fold-1", "model.json")).unlink()
    seeds = iter([2])
    calibrate.run_stage(config, run)
    assert trained[2:] == ["calibration/fold-1"]
    assert read_table(run.path("calibration", "detections.parquet")).equals(before)

    assert label.run_stage(config, run)["corrector"] == "contextual"
    [first, *_] = label_rows(run)
    pixels = read_image(first["uri"], max_pixels=10**6, as_displayed=True)
    found = np.sort([one["raw_score"] for one in first["instances"]])
    np.testing.assert_allclose(found, _scores(config, run, "teacher", pixels), atol=1e-5)
    instances, scores = instances_from_structs(first["instances"], (first["height"], first["width"]), 6)
    corrected = load_corrector(run)(
        Detections.of_scores(
            instances.class_indices,
            instances.raw_scores,
            num_classes=6,
            context=context_from_structs(first["instances"]),
        )
    )
    np.testing.assert_allclose(scores, corrected, atol=1e-6)


def _scores(config: Config, run: RunFolder, folder: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the scores of a model of the run on one image, lowest first."""
    segmenter, _ = load_segmenter(run.path(folder))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    limits = {"score_threshold": config.label.score_threshold, "max_per_image": config.label.max_per_image}
    [found] = segmenter.predict([image], **limits)
    return np.sort(found.raw_scores)
