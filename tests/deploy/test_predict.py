"""`raylabel predict`: the same predictions as `label`, in every format, exactly once, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raylabel as rl
from raylabel.cli import main
from raylabel.cluster import capacity
from raylabel.deploy import predict as command
from raylabel.deploy import work_folder
from raylabel.deploy.pictures import picture_name
from raylabel.deploy.predict import predict_files
from raylabel.external import correct_results
from raylabel.files.committing import commit_bytes
from raylabel.files.reading import list_files, read_bytes
from raylabel.predictions.drawing import encode_picture
from raylabel.predictions.results_parts import iter_parts
from raylabel.run.folder import RunFolder
from raylabel.run.labels.kept import kept_images
from raylabel.run.labels.shards import committed_shards
from raylabel.schema import LABELS
from stored_labels import label_table


@pytest.fixture
def pool(generated: Path) -> Path:
    return generated / "pool"


def entries(path: Path) -> list[dict[str, Any]]:
    return [one for part in iter_parts(str(path)) for one in part.entries()]


def rows(path: Path) -> pa.Table:
    return pq.read_table(path).sort_by("image_id")


def test_predictions_are_those_that_label_writes(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    """Every field of every prediction, before selection. `as_stored` is known only to a run with the pool's truth."""
    counts = predict_files(trained.uri, pool, tmp_path / "out.parquet", teacher=True, min_score=0.0)
    found, expected = rows(tmp_path / "out.parquet"), label_table(trained).sort_by("image_id")
    assert counts["objects"] == len(expected["instances"].combine_chunks().flatten()) > 0
    for name in LABELS.names:
        if name != "as_stored":
            assert found[name].to_pylist() == expected[name].to_pylist(), name


def test_the_selection_is_that_of_the_run(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    run, classes = rl.Run(trained), rl.Run(trained).classes
    predict_files(trained.uri, pool, tmp_path / "out.parquet", teacher=True)
    kept = {
        image.image_id: image.structs
        for uri in committed_shards(trained).values()
        for image in kept_images(uri, run.config.selection, classes.frequency_groups)
    }
    found = rows(tmp_path / "out.parquet")
    assert dict(zip(found["image_id"].to_pylist(), found["instances"].to_pylist(), strict=True)) == kept


@pytest.mark.slow
@pytest.mark.ray
def test_ray_makes_the_same_file(
    trained: RunFolder, pool: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU of the tests' cluster is only a number, so it is hidden."""
    nodes = [{**node, "GPU": 0.0} for node in capacity.live_nodes()]
    monkeypatch.setattr(capacity, "live_nodes", lambda: nodes)
    for name, use_ray in (("here", False), ("ray", True)):
        predict_files(trained.uri, pool, tmp_path / f"{name}.parquet", use_ray=use_ray)
    assert rows(tmp_path / "here.parquet").equals(rows(tmp_path / "ray.parquet"))


def test_the_student_has_its_own_corrector(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    """The student's corrector on its raw scores gives the calibrated scores, by `raylabel correct` too."""
    corrector = Path(trained.uri, "student-calibration", "calibration", "corrector.json")
    predict_files(trained.uri, pool, tmp_path / "calibrated.json", min_score=0.0)
    predict_files(trained.uri, pool, tmp_path / "raw.json", raw=True)
    summary = correct_results(corrector, tmp_path / "raw.json", tmp_path / "corrected.json")
    assert summary["num_detections"] > 0
    calibrated, corrected = entries(tmp_path / "calibrated.json"), entries(tmp_path / "corrected.json")
    assert [one["image_id"] for one in calibrated] == [one["image_id"] for one in corrected]
    for name in ("score", "raw_score"):
        values = [[one[name] for one in each] for each in (calibrated, corrected)]
        np.testing.assert_allclose(*values, atol=1e-6)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_every_format_is_read_back(
    trained: RunFolder, generated: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `evaluate --predictions`, which knows images by file name too, and by `correct`, which keeps the format."""
    images, out = str(generated / "images"), tmp_path / f"out{suffix}"
    assert main(["predict", trained.uri, images, "--out", str(out), "--raw"]) == 0
    truth = json.loads((generated / "val.json").read_text())
    truth["images"] += [
        {**image, "id": 10_000 + image["id"]}
        for name in ("labelled", "calibration", "calibration_full")
        for image in json.loads((generated / f"{name}.json").read_text())["images"]
    ]
    by_name = {image["file_name"]: image for image in truth["images"][::-1]}
    truth["images"] = list(by_name.values())
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    capsys.readouterr()
    argv = ["evaluate", "--predictions", str(out), "--annotations", str(tmp_path / "truth.json"), "--json"]
    assert main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = rl.evaluate_results(truth, [{**one, "image_id": by_name[one["image_id"]]["id"]} for one in entries(out)])
    assert figures == pytest.approx(expected, nan_ok=True)
    corrector = str(Path(trained.uri, "student-calibration", "calibration", "corrector.json"))
    corrected = tmp_path / f"corrected{suffix}"
    correct_results(corrector, out, corrected)
    assert len(entries(corrected)) == len(entries(out)) > 0
    with pytest.raises(rl.InputError, match="corrected before"):
        correct_results(corrector, corrected, tmp_path / f"again{suffix}")


def test_the_three_formats_hold_the_same(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "parquet"):
        predict_files(trained.uri, pool, tmp_path / f"out.{suffix}")
    of_json, of_lines, of_rows = (entries(tmp_path / f"out.{suffix}") for suffix in ("json", "jsonl", "parquet"))
    assert of_json == of_lines == of_rows
    assert {"image_id", "category_id", "bbox", "segmentation", "score", "raw_score"} <= set(of_json[0])


def test_no_prediction_is_an_empty_file_of_each_format(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "parquet"):
        counts = predict_files(trained.uri, pool, tmp_path / f"out.{suffix}", min_score=1.0)
        assert counts == {"images": 32, "objects": 0, "unreadable": 0}
        assert entries(tmp_path / f"out.{suffix}") == []


def test_images_come_as_pools_do(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    """One image, a pattern, a manifest and a tar give the entries that the folder gives for the same image."""
    names = sorted(path.name for path in pool.iterdir())[:2]
    predict_files(trained.uri, pool, tmp_path / "all.json")
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name in names:
            tar.add(pool / name, name)
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({"uri": f"{pool}/{one}"}) + "\n" for one in names))
    first = str(pool / names[0])
    (tmp_path / "linked").mkdir()
    os.link(first, tmp_path / "linked" / names[0])
    for number, (images, expected) in enumerate(
        [
            (first, names[:1]),
            (f"{pool}/{Path(names[0]).stem}.*", names[:1]),
            (f"{tmp_path}/two.tar", names),
            (f"{tmp_path}/linked", names[:1]),
        ]
    ):
        out = tmp_path / f"{number}.json"
        assert predict_files(trained.uri, images, out)["images"] == len(expected)
        assert entries(out) == [one for one in entries(tmp_path / "all.json") if one["image_id"] in expected]
    with pytest.raises(rl.InputError, match=r"outside of the pool"):
        predict_files(trained.uri, tmp_path / "two.jsonl", tmp_path / "outside.json")


def test_unreadable_images_are_listed_and_the_others_predicted(
    trained: RunFolder, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(pool, folder)
    for number in range(11):
        (folder / f"bad-{number:02d}.jpg").write_bytes(b"no image")
    assert main(["predict", trained.uri, str(folder), "--out", str(tmp_path / "out.parquet")]) == 0
    printed = capsys.readouterr().out
    assert f"predict: not readable: {folder}/bad-00.jpg: not an image" in printed
    assert "1 more are not readable" in printed
    assert "43 images" in printed
    assert "11 unreadable" in printed
    listed = [json.loads(line) for line in (tmp_path / "out.parquet.unreadable.jsonl").read_text().splitlines()]
    assert len(listed) == 11
    assert listed[0] == {"image_id": "bad-00.jpg", "uri": f"{folder}/bad-00.jpg", "reason": "not an image"}
    assert rows(tmp_path / "out.parquet")["status"].to_pylist().count("not an image") == 11


def test_nothing_readable_is_bad_input(trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert main(["predict", trained.uri, str(tmp_path / "bad.jpg"), "--out", str(tmp_path / "out.json")]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("raylabel: ")]
    assert (
        line
        == f"raylabel: none of 1 images can be used, so nothing is written. First: {tmp_path}/bad.jpg (zero bytes)."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


def test_pictures_of_small_images_are_enlarged(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    assert (
        main(["predict", trained.uri, str(pool), "--out", f"{tmp_path}/out.json", "--draw", f"{tmp_path}/drawn"]) == 0
    )
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == sorted(path.name for path in pool.iterdir())
    found = {one["image_id"] for one in entries(tmp_path / "out.json")}
    for name in drawn:
        with Image.open(tmp_path / "drawn" / name) as picture, Image.open(pool / name) as image:
            assert picture.size == (640, 640)
            plain = encode_picture(image.convert("RGB").resize((640, 640), Image.Resampling.BICUBIC))
        assert ((tmp_path / "drawn" / name).read_bytes() != plain) == (name in found)
    with pytest.raises(rl.InputError, match=r"drawn: the folder is not empty"):
        predict_files(trained.uri, pool, tmp_path / "second.json", draw=tmp_path / "drawn")


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("a.jpg", "a.jpg"),
        ("b/a.PNG", "b/a.PNG.jpg"),
        ("s3://bucket/b/a.jpeg", "bucket/b/a.jpeg"),
        ("/root/a.jpg", "root/a.jpg"),
        ("../../a.jpg", "a.jpg"),
        ("000000007", "000000007.jpg"),
        ("..", "image.jpg"),
    ],
)
def test_pictures_stay_in_their_folder(image_id: str, name: str) -> None:
    assert picture_name(image_id) == name


def test_a_second_call_is_refused(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    predict_files(trained.uri, pool, out)
    before = out.read_bytes()
    with pytest.raises(rl.InputError, match=r"out\.json: exists already\. Remove it, or give another --out\."):
        predict_files(trained.uri, pool, out, raw=True)
    assert out.read_bytes() == before


def test_an_interrupted_call_continues(
    trained: RunFolder, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished shards are kept, and nothing appears at the output before its end. Other settings start again."""
    from raylabel.stages import label_worker

    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    predict_files(trained.uri, pool, whole)
    commit, num_committed = label_worker.commit_shard, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal num_committed
        if num_committed == 2:
            raise KeyboardInterrupt
        num_committed += 1
        commit(*arguments)

    def interrupt() -> None:
        nonlocal num_committed
        num_committed = 0
        with monkeypatch.context() as patch:
            patch.setattr(label_worker, "commit_shard", interrupted)
            with pytest.raises(KeyboardInterrupt):
                predict_files(trained.uri, pool, out)

    interrupt()
    assert not out.exists()
    work = tmp_path / f".{out.name}.unfinished"
    shards = sorted((work / "labels").glob("shard-*"))
    assert len(shards) == 2
    capsys.readouterr()
    predict_files(trained.uri, pool, out)
    assert "continuing, 2 of 4 shards are done" in capsys.readouterr().out
    assert rows(out).equals(rows(whole))
    assert not work.exists()
    out.unlink()
    interrupt()
    predict_files(trained.uri, pool, out, raw=True)
    assert "continuing" not in capsys.readouterr().out
    assert {one["score"] for one in entries(out)} >= {one["raw_score"] for one in entries(whole)}


def test_a_copied_model_says_what_is_missing(
    trained: RunFolder, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class of the user's is imported only for a run that names it, so the copy has the tiny model."""
    import torch

    from raylabel.models.build import build_segmenter
    from raylabel.models.saved import save_segmenter

    torch.manual_seed(0)
    save_segmenter(build_segmenter("tiny_maskrcnn", num_classes=6), str(tmp_path / "model"), {"model": "tiny_maskrcnn"})
    assert main(["predict", str(tmp_path / "model"), str(pool), "--out", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "predict: WARNING: no run around the model, so no corrector and no selection" in printed
    assert "no classes.json: the 6 classes are named by their index" in printed
    shutil.copy(Path(trained.uri, "classes.json"), tmp_path / "model")
    with pytest.warns(UserWarning, match="no corrector and no selection"):
        model = rl.load_model(tmp_path / "model")
    assert model.class_names == rl.Run(trained).classes.names


def test_the_output_may_lie_among_the_images(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    shutil.copytree(pool, tmp_path / "images")
    for number in range(2):
        assert predict_files(trained.uri, tmp_path / "images", tmp_path / "images" / f"{number}.json")["images"] == 32


def test_a_retrained_student_has_no_corrector(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.uri, run)
    artifact = json.loads((run / "student" / "artifact.json").read_text())
    (run / "student" / "artifact.json").write_text(json.dumps(artifact | {"fingerprint": "another"}))
    with pytest.warns(UserWarning, match="trained again after its corrector was fitted"):
        assert rl.load_model(run).folder.corrector is None
    shutil.rmtree(run / "student-calibration")
    with pytest.warns(UserWarning, match=r"no corrector: .* Run evaluate"):
        rl.load_model(run / "student")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rl.load_model(run, raw=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["RUN", "POOL", "--out", "out.txt"], r"out\.txt: the name must end with \.json, \.jsonl, \.parquet"),
        (["absent", "POOL", "--out", "out.json"], r"absent: neither a run \(config\.yaml\) nor a saved model"),
        (["RUN", "absent", "--out", "out.json"], r"absent: no such pool"),
        (["RUN", "POOL", "--out", "out.json", "--min-score", "2"], r"min_score must be in \[0, 1\], got 2"),
        (["RUN/student", "POOL", "--out", "out.json", "--teacher"], r"A teacher is chosen from a run"),
        (["RUN", "POOL", "--out", "out.json", "--frob"], r"predict: unknown argument --frob"),
        (["RUN", "POOL"], r"the following arguments are required: --out"),
        (["RUN", "\udcff.jpg", "--out", "out.json"], r"udcff\.jpg': no file can have this name"),
        (["RUN", "POOL", "--out", "\udcff.json"], r"udcff\.json': no file can have this name"),
        (["RUN", "a\0.jpg", "--out", "out.json"], r"\.jpg': no file can have this name"),
        (["RUN", "a\nb.jpg", "--out", "out.json"], r"a\\nb\.jpg: no such pool"),
        (["RUN", "POOL", "--out", f"{'x' * 300}.json"], r"no file can have this name: it is too long"),
        (["RUN", "POOL", "--out", f"{'x' * 240}.json"], r"no file can have this name: it is too long"),
        (["RUN", "POOL", "--out", "out.json", "--draw", "out.json"], r"out\.json: --draw must be a folder, got a file"),
        (["RUN", "POOL", "--out", "out.json", "--draw", "RUN/config.yaml"], r"--draw must be a folder, got a file"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    trained: RunFolder,
    pool: Path,
    tmp_path: Path,
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": trained.uri, "POOL": str(pool)}
    named = [re.sub(r"^(RUN|POOL)\b", lambda found: places[found[0]], one) for one in argv]
    assert main(["predict", *named]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_student_says_so(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.uri, run, ignore=shutil.ignore_patterns("student*"))
    with pytest.raises(rl.InputError, match=r"run: the run has no student yet\. Run distill first, or give --teacher"):
        predict_files(run, pool, tmp_path / "out.json")
    assert predict_files(run, pool, tmp_path / "out.json", teacher=True)["images"] == 32


def test_small_inputs_start_no_ray(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    """More than 256 images, or --ray, go to Ray."""
    script = (
        "import sys; from raylabel.cli import main; code = main(sys.argv[1:])\n"
        "import ray; print(code, ray.is_initialized(), 'ray.data' in sys.modules)"
    )
    argv = ["predict", trained.uri, str(pool), "--out", str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False", done.stdout
    asked: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_folder, "_label_on_ray", lambda *arguments: asked.append(True))
        patch.setattr(work_folder, "HERE_AT_MOST", 31)
        patch.setattr(command, "_write", lambda *arguments: {})
        predict_files(trained.uri, pool, tmp_path / "many.json")
    assert asked == [True]


def test_images_and_output_in_a_store(trained: RunFolder, pool: Path, tmp_path: Path, s3_bucket: str) -> None:
    for path in sorted(pool.iterdir())[:3]:
        commit_bytes(f"{s3_bucket}/images/{path.name}", path.read_bytes())
    counts = predict_files(
        trained.uri, f"{s3_bucket}/images", f"{s3_bucket}/out.jsonl", draw=f"{s3_bucket}/drawn", min_score=0.0
    )
    assert counts["images"] == 3
    predict_files(trained.uri, pool, tmp_path / "local.jsonl", min_score=0.0)
    found = [json.loads(line) for line in read_bytes(f"{s3_bucket}/out.jsonl").splitlines()]
    names = {one["image_id"] for one in found}
    assert found == [one for one in entries(tmp_path / "local.jsonl") if one["image_id"] in names]
    assert len(found) == counts["objects"] > 0
    assert {info.base_name for info in list_files(s3_bucket, recursive=True)} == {
        "out.jsonl",
        *(path.name for path in sorted(pool.iterdir())[:3]),
    }


def test_displayed_images_are_predicted(trained: RunFolder, pool: Path, tmp_path: Path) -> None:
    """A stored image with an EXIF orientation has the size that viewers show, in the rows and in its picture."""
    with Image.open(min(pool.iterdir())) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.crop((0, 0, 64, 40)).save(tmp_path / "turned.jpg", exif=exif)
    predict_files(trained.uri, tmp_path / "turned.jpg", tmp_path / "out.parquet", draw=tmp_path / "drawn")
    [row] = rows(tmp_path / "out.parquet").to_pylist()
    assert (row["height"], row["width"]) == (64, 40)
    with Image.open(tmp_path / "drawn" / "turned.jpg") as picture:
        assert picture.size == (400, 640)
