"""The data of a run: splits of one file, pool truth, clear refusals."""

import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raylabel.config import Config, EvaluationConfig, LabelledPortion, SplitFraction, load_config
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.report.console import format_check
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.manifest import ensure_manifest
from raylabel.stages.check import check_run


@pytest.fixture
def split_config(config: Config) -> Config:
    part = SplitFraction(fraction=0.2)
    return replace(config, data=replace(config.data, calibration=part, validation=part, pool=part, pool_truth=None))


def test_fractions_part_the_labelled_set(config: Config, split_config: Config) -> None:
    whole, data = RunData(config).labelled, RunData(split_config)
    parts = [data.labelled, data.calibration, data.validation, data.pool_truth]
    ids = [image.image_id for part in parts if part is not None for image in part.images]
    assert sorted(ids, key=str) == sorted((image.image_id for image in whole.images), key=str)
    assert data.pool_truth is not None
    assert {image.image_id for image in data.list_pool()} == {image.file_name for image in data.pool_truth.images}


def with_portion(config: Config, fraction: float, *, seed: int = 0, pool: str | None = None) -> Config:
    portion = LabelledPortion(file=config.data.labelled_file, fraction=fraction, seed=seed)
    return replace(config, data=replace(config.data, labelled=portion, pool=pool, pool_truth=None))


def test_what_a_portion_leaves_is_the_pool(config: Config) -> None:
    whole, data = RunData(config).labelled, RunData(with_portion(config, 0.3))
    assert data.pool_truth is not None
    assert len(data.labelled) == int(0.3 * len(whole))
    assert sorted([*ids_of(data.labelled), *ids_of(data.pool_truth)]) == ids_of(whole)
    assert {image.image_id for image in data.list_pool()} == set(data.pool_truth.images.file_names())
    assert set(data.truth_uris) == set(data.pool_truth.images.uris())
    assert set(ids_of(RunData(with_portion(config, 0.2)).labelled)) < set(ids_of(data.labelled))


def test_a_portion_leaves_the_splits_by_fraction_as_they_are(split_config: Config) -> None:
    whole, data = RunData(replace(split_config, data=replace(split_config.data, pool="pool"))), None
    for fraction in (0.2, 0.6):
        data = RunData(with_portion(split_config, fraction))
        for name in ("calibration", "validation"):
            assert ids_of(getattr(data, name)) == ids_of(getattr(whole, name))
        assert sorted([*ids_of(data.labelled), *ids_of(data.pool_truth)]) == ids_of(whole.labelled)


def test_a_portions_rest_joins_a_pool_that_is_a_place(config: Config, tmp_path: Path) -> None:
    """An image that both have is listed once, and its truth is the portion's file."""
    rest = RunData(with_portion(config, 0.5)).pool_truth
    assert rest is not None
    pool = tmp_path / "pool.txt"
    pool.write_text("\n".join([rest.images[0].uri, *map(str, sorted(Path(str(config.data.pool)).iterdir()))]))
    both = with_portion(config, 0.5, pool=str(pool))
    both = replace(both, data=replace(both.data, allowed_roots=(str(config.data.pool),)))
    listed = list(RunData(both).list_pool())
    assert len({image.uri for image in listed}) == len(listed) == len(rest) + 32
    assert not any(image.refusal for image in listed)
    with_truth = replace(both, data=replace(both.data, pool=config.data.pool, pool_truth=config.data.pool_truth))
    given, data = RunData(config).pool_truth, RunData(with_truth)
    assert ids_of(data.pool_truth) == sorted([*ids_of(rest), *ids_of(given)])
    assert {image.uri for image in data.list_pool()} == set(data.truth_uris)
    assert all(image.height for image in data.list_pool())


def test_two_images_of_one_name_are_refused(config: Config, tmp_path: Path) -> None:
    rest = RunData(with_portion(config, 0.5)).pool_truth
    assert rest is not None
    shutil.copy(rest.images[0].uri, tmp_path / rest.images[0].file_name)
    name = re.escape(rest.images[0].file_name)
    with pytest.raises(InputError, match=rf"data.pool: {tmp_path}/{name} and .*/images/{name}, .* names, got {name}\."):
        list(RunData(with_portion(config, 0.5, pool=str(tmp_path))).list_pool())


@pytest.mark.parametrize("pool", [None, "place"])
def test_check_says_how_large_a_portion_is(config: Config, pool: str | None, tmp_path: Path) -> None:
    portion = with_portion(config, 0.25, pool=pool and config.data.pool)
    num, found = len(RunData(config).labelled), check_run(portion, RunFolder(str(tmp_path / "run")))
    said = f"{num // 4} of {num} labelled images (25%, seed 0); the other {num - num // 4} join the pool"
    text = format_check(found)
    assert text.count(said) == 1
    assert found["pool"]["num_images"] == num - num // 4 + (32 if pool else 0)
    assert found["pool"]["truth_known"]
    assert "truth_misses" not in found["pool"]
    assert "portion" not in check_run(config, RunFolder(str(tmp_path / "other")))


def test_a_portion_without_an_image_is_refused(config: Config) -> None:
    with pytest.raises(InputError, match=r"data.labelled.fraction: 0.001 of \d+ images of .* are none. Give a larger"):
        _ = RunData(with_portion(config, 0.001)).labelled


def ids_of(part: AnnotatedSet | None) -> list[str]:
    return [] if part is None else sorted(str(image.image_id) for image in part.images)


@pytest.mark.parametrize(
    ("setting", "value", "part"),
    [
        ("labelled", "val.json", "labelled"),
        ("calibration", "labelled.json", "calibration"),
        ("validation", "labelled.json", "validation"),
        ("pool_truth", None, "pool_truth"),
    ],
)
def test_the_data_of_a_config(setting: str, value: str | None, part: str, generated: Path) -> None:
    """Each part is read from its file, and from the images' folder."""
    config = load_config(generated / "config.yaml")
    other = load_config(generated / "config.yaml", {f"data.{setting}": value or "null"})
    for name in ("labelled", "calibration", "validation", "pool_truth"):
        found, before = (ids_of(getattr(RunData(one), name)) for one in (other, config))
        assert (found != before) == (name == part), name
    assert ids_of(getattr(RunData(other), part)) == (ids_of(read_annotations(generated / value)) if value else [])


def test_images_and_pool_are_where_the_config_says(generated: Path) -> None:
    data = RunData(load_config(generated / "config.yaml", {"data.images": "pool", "data.pool": "images"}))
    for part in (data.labelled, data.calibration, data.validation):
        assert {Path(image.uri).parent for image in part.images} == {generated / "pool"}
    assert {Path(image.uri).parent for image in data.list_pool()} == {generated / "images"}


def test_groups_belong_to_the_images_that_the_student_learns_from(config: Config) -> None:
    without = replace(config, student=replace(config.student, learn_from_calibration=False))
    assert ids_of(RunData(without).student_labelled) == ids_of(RunData(without).labelled)
    data = RunData(config)
    assert ids_of(data.student_labelled) == sorted([*ids_of(data.labelled), *ids_of(data.calibration)])
    counts = data.labelled.class_image_counts() + data.calibration.class_image_counts()
    assert data.student_labelled.class_image_counts().tolist() == counts.tolist()
    assert data.frequency_groups.tolist() == data.student_labelled.frequency_groups().tolist()


def test_with_folds_all_of_it_is_learnt_from(split_config: Config) -> None:
    folded = replace(split_config, calibration=replace(split_config.calibration, folds=3))
    kept_aside, data = RunData(split_config), RunData(folded)
    assert len(data.labelled) == len(kept_aside.labelled) + len(kept_aside.calibration)
    assert [one.image_id for one in data.validation.images] == [one.image_id for one in kept_aside.validation.images]
    assert data.labelled_digest != kept_aside.labelled_digest
    without = replace(folded, data=replace(folded.data, calibration=None))
    assert len(RunData(without).labelled) + len(RunData(without).validation) > len(data.labelled)


def test_digests_change_with_what_they_stand_for(config: Config, split_config: Config) -> None:
    data, split = RunData(config), RunData(split_config)
    assert data.labelled_digest != split.labelled_digest
    assert RunData(replace(split_config, seed=1)).labelled_digest != split.labelled_digest
    assert RunData(replace(config, seed=1)).labelled_digest == data.labelled_digest
    assert split.part_digest("calibration") != split.part_digest("validation")
    portions = [with_portion(config, 0.2), with_portion(config, 0.3), with_portion(config, 0.2, seed=1)]
    assert len({RunData(one).labelled_digest for one in [config, *portions]}) == 4
    assert len({RunData(one).pool_source for one in [*portions, with_portion(config, 0.2, pool="pool")]}) == 4
    assert RunData(replace(portions[0], seed=1)).labelled_digest == RunData(portions[0]).labelled_digest


def test_check_counts_and_spends_nothing(config: Config, tmp_path: Path) -> None:
    found = check_run(config, RunFolder(str(tmp_path / "run")))
    compared = "0 of 32 images may be in a split, by their size in bytes; 0 of them were compared, none are in one"
    assert found["pool"] == {
        "num_images": 32,
        "num_shards": 4,
        "truth_known": True,
        "as_stored": True,
        "compared": compared,
    }
    assert set(found["stages"].values()) == {"would run"}
    assert "federated" in format_check(found)
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["data"], "what was read of annotation files is kept"


def test_what_a_listing_leaves_out_is_said_once(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, run = tmp_path / "pool", RunFolder(str(tmp_path / "run"))
    shutil.copytree(config.data.pool, pool)
    for name in ("a.zip", "b.zip", "notes"):
        (pool / name).write_text("")
    config = replace(config, data=replace(config.data, pool=str(pool)))
    said = "3 files of other kinds left out (2 .zip, 1 no suffix)"
    assert format_check(check_run(config, run)).count(said) == 1
    assert not capsys.readouterr().out.count(said)
    ensure_manifest(run, RunData(config), shard_size=8)
    assert capsys.readouterr().out.splitlines() == [
        "label: listing the pool",
        f"label: the pool has 32 images in 4 shards; {said}",
    ]


@pytest.mark.parametrize("is_listed", [False, True])
def test_check_counts_images_without_a_partner(config: Config, tmp_path: Path, is_listed: bool) -> None:
    run, truth = RunFolder(str(tmp_path / "run")), read_json(config.data.pool_truth or "")
    if is_listed:
        ensure_manifest(run, RunData(config), shard_size=config.label.shard_size)
    names = [image["file_name"] for image in truth["images"]]
    data = replace(config.data, pool_truth=str(tmp_path / "truth.json"))

    def write(folder_of: Callable[[int], str]) -> None:
        for number, image in enumerate(truth["images"]):
            image["file_name"] = folder_of(number) + names[number]
        commit_json(str(tmp_path / "truth.json"), truth)

    write(lambda number: "pool/" if number < 2 else "")
    text = format_check(check_run(replace(config, data=data), run))
    assert "truth known (WARNING: 30 of 32 images of" in text
    assert "are in the pool, and 2 of 32 images of the pool have no truth)" in text
    write(lambda number: "pool/")
    with pytest.raises(InputError, match=r"pool_truth: 0 of 32 images of .* and 32 of 32 images of the pool have no"):
        check_run(replace(config, data=data), run)


def test_the_rule_for_tars_reaches_the_listing_and_no_fingerprint(config: Config, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pool.tar", "w") as tar:
        for name in ("1.png", "1.mask.png"):
            tar.addfile(tarfile.TarInfo(name))
    data = replace(config.data, pool=str(tmp_path / "pool.tar"))
    for rule, listed in (("files", ["1.png", "1.mask.png"]), ("webdataset", ["1.png"])):
        of_rule = RunData(replace(config, data=replace(data, tar_samples=rule)))
        assert [image.image_id for image in of_rule.list_pool()] == listed
        assert of_rule.pool_source == RunData(replace(config, data=data)).pool_source


def test_check_names_a_missing_image(config: Config, tmp_path: Path) -> None:
    missing = replace(config, data=replace(config.data, images=str(tmp_path)))
    with pytest.raises(InputError, match=rf"data.labelled: {tmp_path}/.*: no such images, \d+ of \d+ are missing"):
        check_run(missing, RunFolder(str(tmp_path / "run")))


def test_check_finds_images_of_any_name(config: Config, tmp_path: Path) -> None:
    images, annotations = Path(config.data.images), read_json(config.data.labelled)
    shutil.copytree(images, tmp_path / "images %20")
    odd = [".a.png", "b#1 [x].png", "x.tar#犬.png", "c%20.png"]
    for image, name in zip(annotations["images"], odd, strict=False):
        (tmp_path / "images %20" / image["file_name"]).rename(tmp_path / "images %20" / name)
        image["file_name"] = name
    commit_json(str(tmp_path / "labelled.json"), annotations)
    for root in (tmp_path / "images %20", (tmp_path / "images %20").as_uri()):
        data = replace(config.data, labelled=str(tmp_path / "labelled.json"), images=str(root))
        check_run(replace(config, data=data), RunFolder(str(tmp_path / "run")))


def test_an_empty_pool_and_an_unknown_model_are_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        check_run(
            replace(config, data=replace(config.data, pool=str(tmp_path / "empty"))), RunFolder(str(tmp_path / "run"))
        )
    with pytest.raises(InputError, match="unknown model"):
        check_run(
            replace(config, student=replace(config.student, init="weights", model="resnet51")),
            RunFolder(str(tmp_path / "run")),
        )


def test_ap_is_measured_by_the_groups_that_the_validation_file_declares(config: Config, tmp_path: Path) -> None:
    """Or by what the student learns from, if a setting says so or the file does not."""
    data = RunData(config)
    declared = {one["id"]: one["frequency"] for one in read_json(str(config.data.validation))["categories"]}
    counted = dict(zip(data.labelled.category_ids.tolist(), data.frequency_groups.tolist(), strict=True))
    assert declared != counted, "the generated set declares the groups of its own training split"
    assert data.measured_groups == ("declared", declared)

    by_setting = replace(config, evaluation=EvaluationConfig(frequency="labelled"))
    assert RunData(by_setting).measured_groups == ("labelled", counted)

    content = read_json(str(config.data.validation))
    del content["categories"][2]["frequency"]
    commit_json(str(tmp_path / "val.json"), content)
    by_file = replace(config, data=replace(config.data, validation=str(tmp_path / "val.json")))
    assert RunData(by_file).measured_groups == ("labelled", counted)
