"""A shard of other settings in the labels' folder: every reader refuses it, and `label` makes it again."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import raylabel as rl
import without_ray as here
from generated_set import Prepare
from prepared import prepared_run
from raylabel.config import Config, load_config
from raylabel.errors import InputError
from raylabel.export import export_labels
from raylabel.files.tables import read_table_metadata
from raylabel.run.calibration import load_corrector
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, commit_config
from raylabel.run.labels.corrected import apply_corrector
from raylabel.run.labels.histograms import bins_of_shard
from raylabel.run.labels.kept import count_class_fates, kept_images
from raylabel.run.labels.ledger import read_ledger
from raylabel.run.labels.ownership import ForeignShardError
from raylabel.run.labels.shards import (
    committed_shards,
    label_batches,
    labelled_images,
    read_fields,
    shard_sizes,
    shard_uri,
)
from raylabel.run.labels.survey import survey_labels
from raylabel.stages import label, label_shards
from raylabel.stages.training_jobs import ensure_pool_index, pool_stream
from stored_labels import label_rows

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture(scope="module")
def labelled(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: `run`, and `foreign`, whose pool is labelled with another threshold."""
    folder, config = tmp_path_factory.mktemp("labelled"), load_config(generated / "config.yaml")
    with pytest.MonkeyPatch.context() as patch:
        here.put_stages_here(patch)
        for name, threshold in (("run", config.label.score_threshold), ("foreign", 0.5)):
            labels = replace(config, label=replace(config.label, score_threshold=threshold))
            run = prepared_run(labels, folder / name)
            label.run_stage(labels, run)
            commit_config(run, labels)
    return folder


@pytest.fixture
def run(labelled: Path, tmp_path: Path) -> RunFolder:
    """A run whose pool is labelled."""
    return RunFolder(shutil.copytree(labelled / "run", str(tmp_path / "run")))


@pytest.fixture
def foreign(labelled: Path) -> RunFolder:
    """A run with the same shards, labelled with another threshold."""
    return RunFolder(str(labelled / "foreign"))


def all_of(stream: Iterator[Any]) -> list[Any]:
    return list(stream)


READERS: dict[str, Callable[[Config, RunFolder, str], object]] = {
    "fields": lambda config, run, uri: read_fields(uri, ["status"]),
    "batches": lambda config, run, uri: all_of(label_batches(uri)),
    "images": lambda config, run, uri: all_of(labelled_images(uri, 6)),
    "kept": lambda config, run, uri: all_of(
        kept_images(uri, config.selection, rl.Run(run.uri).classes.frequency_groups)
    ),
    "fates": lambda config, run, uri: count_class_fates(run, config.selection, load_classes(run)),
    "histogram": lambda config, run, uri: bins_of_shard(uri, num_classes=6, num_bins=5),
    "public": lambda config, run, uri: all_of(rl.Run(run.uri).labels()),
    "survey": lambda config, run, uri: survey_labels(run, config.selection, load_classes(run)),
    "recalibrate": lambda config, run, uri: apply_corrector(run, load_corrector(run), num_classes=6),
    "export": lambda config, run, uri: export_labels(run.uri, "coco", run.path("export")),
    "pool index": lambda config, run, uri: ensure_pool_index(config, run),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_foreign_shard(config: Config, run: RunFolder, foreign: RunFolder, reader: str) -> None:
    uri = shard_uri(run, 2)
    READERS[reader](config, run, uri)
    for left_over in ("export", "student"):
        shutil.rmtree(run.path(left_over), ignore_errors=True)
    shutil.copy(shard_uri(foreign, 2), uri)
    with pytest.raises(ForeignShardError, match=r"shard-00000002\.parquet: made with other settings or data than"):
        READERS[reader](config, run, uri)


def test_the_students_stream_refuses_a_shard_that_came_after_its_index(
    config: Config, run: RunFolder, foreign: RunFolder
) -> None:
    stream = pool_stream(config, run)
    shutil.copy(shard_uri(foreign, 2), shard_uri(run, 2))
    with pytest.raises(ForeignShardError, match=r"shard-00000002"):
        stream.image_id(0)


def test_a_shard_under_another_number_is_foreign(config: Config, run: RunFolder) -> None:
    shutil.copy(shard_uri(run, 1), shard_uri(run, 2))
    with pytest.raises(ForeignShardError):
        read_fields(shard_uri(run, 2), ["status"])


def test_label_makes_foreign_shards_again(
    config: Config, run: RunFolder, foreign: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before, artifact = label_rows(run), run.artifact("labels")
    assert artifact is not None
    shutil.copy(shard_uri(foreign, 2), shard_uri(run, 2))
    shutil.copy(shard_uri(foreign, 3), shard_uri(run, 7))  # a number that the pool does not have
    Path(run.path("labels", "shards.parquet")).unlink()
    assert read_ledger(run, shard_sizes(run))["shard_id"].to_pylist() == [0, 1, 3]
    again = label.run_stage(config, run)
    assert label_rows(run) == before
    assert [again[name] for name in ("num_images", "num_instances", "selection", "drift")] == [
        artifact[name] for name in ("num_images", "num_instances", "selection", "drift")
    ]
    maker = read_table_metadata(shard_uri(foreign, 2))["fingerprint"]
    aside = Path(run.path("superseded", f"labels-foreign-{maker[:8]}"))
    assert sorted(path.name for path in aside.iterdir()) == ["shard-00000002.parquet", "shard-00000007.parquet"]
    assert f"{shard_uri(run, 2)} was made with other settings or data; moved to {aside}" in capsys.readouterr().out
    label.run_stage(config, run)
    assert "label: finished before, skipped" in capsys.readouterr().out


def test_a_late_worker_of_another_driver_is_noticed_before_the_stage_ends(
    config: Config, foreign: RunFolder, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker overwrites a shard that this driver's worker has committed."""
    run = prepare(config, tmp_path / "run")
    num_calls = 0

    def map_shards(*args: Any, **how: Any) -> Iterator[pa.Table]:
        nonlocal num_calls
        num_calls += 1
        for table in here.map_shards(*args, **how):
            if num_calls == 1:
                shutil.copy(shard_uri(foreign, table["shard_id"][0].as_py()), run.path("labels"))
            yield table

    monkeypatch.setattr(label_shards, "map_shards", map_shards)
    artifact = label.run_stage(config, run)
    assert artifact["num_images"] == 32
    fingerprints = {read_table_metadata(uri)["fingerprint"] for uri in committed_shards(run).values()}
    assert fingerprints == {artifact["fingerprint"]}


def test_a_refusal_is_bad_input(config: Config, run: RunFolder, foreign: RunFolder) -> None:
    shutil.copy(shard_uri(foreign, 2), shard_uri(run, 2))
    with pytest.raises(InputError) as refused:
        export_labels(run.uri, "coco", run.path("export"))
    assert str(refused.value).endswith("Run label again: it sets the file aside and makes the shard again.")
    assert len(str(refused.value).splitlines()) == 1
