"""Settings of calibration, labels, selection and prototypes change what the stages make."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from every_setting import CCECE, override
from fakes import FakeSegmenter
from prepared import prepared_run
from raylabel.calibration import Detections, ReliabilityBins
from raylabel.config import Config, load_config
from raylabel.errors import InputError
from raylabel.files.tables import read_table
from raylabel.run.calibration import fit_and_commit, load_corrector, load_detections
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.survey import survey_labels
from raylabel.stages import calibrate, label, prototypes
from stored_labels import label_rows

pytestmark = pytest.mark.usefixtures("without_ray")

Rows = list[dict[str, Any]]


def labelled(config: Config, folder: Path) -> tuple[Rows, dict[str, Any]]:
    run = prepared_run(config, folder)
    artifact = label.run_stage(config, run)
    return [one for row in label_rows(run) for one in row["instances"]], artifact


OF_LABELS: dict[str, Callable[[Rows, dict[str, Any]], bool]] = {
    "label.shard_size": lambda rows, artifact: artifact["num_shards"] == 7,  # 32 images
    "label.score_threshold": lambda rows, artifact: min(one["raw_score"] for one in rows) >= 0.5,
    "label.max_per_image": lambda rows, artifact: len(rows) < 32,
    "label.top_k": lambda rows, artifact: {len(one["soft_classes"]) for one in rows} == {2},
    "label.mask_quality": lambda rows, artifact: min(one["mask_quality"] for one in rows) < 1,
}
"""Setting -> a fact about the labels that holds with its other value alone."""


@pytest.mark.parametrize("setting", OF_LABELS)
def test_a_setting_of_the_labels_changes_them(setting: str, generated: Path, tmp_path: Path) -> None:
    path = generated / "config.yaml"
    before = labelled(load_config(path), tmp_path / "before")
    after = labelled(load_config(path, override(setting)), tmp_path / "after")
    assert not OF_LABELS[setting](*before)
    assert OF_LABELS[setting](*after)
    assert after[0]


def test_a_share_of_bad_images_is_allowed(config: Config, tmp_path: Path) -> None:
    """One of four images can't be read."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / "pool" / f"{number}.png")
    (tmp_path / "pool" / "3.png").write_bytes(b"no image")
    config = replace(config, data=replace(config.data, pool=str(tmp_path / "pool")))
    with pytest.raises(InputError, match=r"label\.max_bad_fraction"):
        labelled(replace(config, label=replace(config.label, max_bad_fraction=0.24)), tmp_path / "strict")
    _, artifact = labelled(replace(config, label=replace(config.label, max_bad_fraction=0.25)), tmp_path / "lenient")
    assert artifact["num_quarantined"] == 1


SELECTIONS: list[dict[str, Any]] = [
    {},
    {"min_score": 0.25},
    {"min_score_by_group": {"r": 0.25, "f": 0.9}},
    {"min_mask_quality": 0.25},
    {"min_area": 170},
    {"max_per_image": 1},
]


def test_the_selection_is_counted_by_hand(config: Config, tmp_path: Path) -> None:
    """Each image keeps its best predictions that pass all limits. The mask quality of agreement varies."""
    config = replace(config, label=replace(config.label, mask_quality="agreement"))
    run = prepared_run(config, tmp_path / "run")
    label.run_stage(config, run)
    classes, counts = load_classes(run), []
    groups = classes.frequency_groups
    for limits in SELECTIONS:
        selection = replace(config.selection, **limits)
        fates = survey_labels(run, selection, classes).fates
        by_group = {"r": 0, "c": 0, "f": 0}
        for row in label_rows(run):
            passing = [
                one
                for one in row["instances"]
                if one["calibrated_score"]
                >= selection.min_score_by_group.get(groups[one["class_index"]], selection.min_score)
                and one["mask_quality"] >= selection.min_mask_quality
                and one["mask_area"] >= selection.min_area
            ]
            for one in sorted(passing, key=lambda one: -one["calibrated_score"])[: selection.max_per_image]:
                by_group[groups[one["class_index"]]] += 1
        assert {group: fates.num_kept[groups == group].sum() for group in by_group} == by_group
        num_kept = int(fates.num_kept.sum())
        assert num_kept + sum(fates.dropped.values()) == sum(len(row["instances"]) for row in label_rows(run))
        counts.append(num_kept)
    assert all(0 < count < counts[0] for count in counts[1:])


Calibrated = tuple[RunFolder, dict[str, Any]]


def num_bins_of(calibrated: Calibrated) -> int:
    run, _ = calibrated
    return ReliabilityBins.from_table(read_table(run.path("calibration", "bins.parquet"))).num_bins


OF_CALIBRATION: dict[str, Callable[[Calibrated], Any]] = {
    "calibration.corrector": lambda calibrated: (load_corrector(calibrated[0]).kind, calibrated[1]["corrector"]),
    "calibration.num_bins": num_bins_of,
    "calibration.iou_threshold": lambda calibrated: calibrated[1]["num_correct"],
    "label.score_threshold": lambda calibrated: -calibrated[1]["num_detections"],
    "label.max_per_image": lambda calibrated: calibrated[1]["num_detections"] <= calibrated[1]["num_split_images"],
}
"""Setting -> what it changes, in rising order."""


@pytest.mark.parametrize("setting", OF_CALIBRATION)
def test_a_setting_of_the_calibration_changes_it(setting: str, generated: Path, tmp_path: Path) -> None:
    found = []
    for number, overrides in enumerate((CCECE, {**CCECE, **override(setting)})):
        config = load_config(generated / "config.yaml", overrides)
        run = prepared_run(config, tmp_path / str(number))
        (tmp_path / str(number) / "calibration" / "artifact.json").unlink()
        found.append(OF_CALIBRATION[setting]((run, calibrate.run_stage(config, run))))
    exact = {"calibration.corrector": [("ccece", "ccece"), ("isotonic", "isotonic")], "calibration.num_bins": [15, 5]}
    assert found == exact.get(setting, found)
    assert setting == "calibration.num_bins" or found[0] < found[1]


@pytest.mark.parametrize("layer", [None, "classes"])
def test_prototypes_are_made_of_the_layer(
    layer: str | None, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, int]] = []
    embed = FakeSegmenter.embed

    def spy(self: FakeSegmenter, images: list[torch.Tensor], targets: Any, *, layer: str | None = None) -> Any:
        asked.append((layer, len(images)))
        return embed(self, images, targets, layer=layer)

    monkeypatch.setattr(FakeSegmenter, "embed", spy)
    config = replace(
        config,
        smoothing=replace(config.smoothing, layer=layer),
        label=replace(config.label, batch_size=3, shard_size=8),
    )
    prototypes.run_stage(config, RunFolder(str(tmp_path / "run")))
    assert {one for one, _ in asked} == {layer}
    assert [num for _, num in asked[:3]] == [3, 3, 2]


def test_weights_are_fitted_as_they_are_stored(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refit on the stored detections must be the same fit."""
    fitted: list[Detections] = []
    monkeypatch.setattr(
        calibrate, "weigh_by_verification", lambda found, _: replace(found, weights=np.full(len(found), 4 / 3))
    )

    def fit(run: RunFolder, settings: Any, detections: Detections, *rest: Any, **more: Any) -> dict[str, Any]:
        fitted.append(detections)
        return fit_and_commit(run, settings, detections, *rest, **more)

    monkeypatch.setattr(calibrate, "fit_and_commit", fit)
    config = load_config(generated / "config.yaml", CCECE)
    run = prepared_run(config, tmp_path / "run")
    (tmp_path / "run" / "calibration" / "artifact.json").unlink()
    calibrate.run_stage(config, run)
    stored, _ = load_detections(run)
    np.testing.assert_array_equal(fitted[0].weights, stored.weights)
    np.testing.assert_array_equal(fitted[0].raw_scores, stored.raw_scores)


def test_every_image_of_a_shard_keeps_its_own_labels(config: Config, generated: Path, tmp_path: Path) -> None:
    """The second of three images lies outside of the pool, and is refused before the others are predicted."""
    names = sorted(path.name for path in (generated / "pool").iterdir())[:8]
    rows = {}
    for with_refused in (True, False):
        folder = tmp_path / str(with_refused)
        shutil.copytree(generated / "pool", folder)
        lines = [f"{number}0,{name}" for number, name in enumerate(names, start=1)]
        lines += ["15,../x.png"] if with_refused else []
        (folder / "list.csv").write_text("\n".join(["image_id,uri", *lines]))
        data = replace(config.data, pool=str(folder / "list.csv"), pool_truth=None)
        run = prepared_run(replace(config, data=data), tmp_path / f"run-{with_refused}")
        allowed = replace(config.label, max_bad_fraction=0.5, shard_size=16)
        label.run_stage(replace(config, data=data, label=allowed), run)
        rows[with_refused] = {row["image_id"]: row for row in label_rows(run)}
    assert list(rows[True]) == ["10", "15", *[f"{number}0" for number in range(2, 9)]]
    refused = rows[True].pop("15")
    assert refused["status"] != "ok"
    assert refused["instances"] == []
    assert sum(len(row["instances"]) for row in rows[False].values()) > 4
    for image_id, row in rows[False].items():
        assert rows[True][image_id]["status"] == row["status"] == "ok"
        assert rows[True][image_id]["height"] == row["height"] == 64
        assert rows[True][image_id]["instances"] == row["instances"]
