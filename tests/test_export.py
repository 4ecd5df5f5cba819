"""Other readers read exported pseudo-labels; exports name their origin and refuse impossible names."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hotcoco import COCO
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from raylabel.config import Config, DataConfig, SelectionConfig, dump_config
from raylabel.dataset.annotations import read_annotations
from raylabel.errors import InputError, StorageError
from raylabel.evaluation.average_precision import evaluate_results
from raylabel.export import _own_path, _stem, _YoloPaths, export_labels
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.tables import commit_table
from raylabel.masks.rle import encode_masks
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import shard_uri
from raylabel.schema import LABELS

HEIGHT, WIDTH = 40, 60
CATEGORY_IDS = [3, 7, 20]


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def instance(
    class_index: int, box: tuple[int, int, int, int], score: float, *, runner_up: float = 0.25
) -> dict[str, Any]:
    mask = rectangle(*box)
    return {
        "class_index": class_index,
        "raw_score": 0.99,
        "calibrated_score": score,
        "box_xyxy": [float(value) for value in box],
        "mask_counts": encode_masks(mask[None])[0]["counts"],
        "mask_area": int(mask.sum()),
        "mask_quality": 0.9,
        "soft_classes": [class_index],
        "soft_probs": [0.99],
        "context": {"mask_quality": 0.9, "background": 0.01, "runner_up": runner_up},
    }


def label_row(image_id: str, uri: str, instances: list[dict[str, Any]], status: str = "ok") -> dict[str, Any]:
    return {
        "image_id": image_id,
        "uri": uri,
        "height": HEIGHT,
        "width": WIDTH,
        "status": status,
        "instances": instances,
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two shards with four images: one has no kept prediction, and one is quarantined."""
    pool = tmp_path / "pool"
    (pool / "sub").mkdir(parents=True)
    for name in ("sub/a.png", "b.png", "c.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(pool / name)
    run = RunFolder(str(tmp_path / "run"))
    data = DataConfig(labelled="l.json", images="i", calibration="c.json", validation="v.json", pool=str(pool))
    config = Config(data=data, selection=SelectionConfig(min_score=0.5))
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    categories = [
        {"category_id": category_id, "name": name, "frequency_group": group, "num_train_images": count}
        for category_id, name, group, count in zip(
            CATEGORY_IDS, ["cat: tabby", "dog", "öx"], "rcf", [4, 40, 400], strict=True
        )
    ]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": True})
    first = [
        instance(0, (5, 5, 25, 30), 0.9),
        instance(2, (30, 10, 50, 20), 0.6, runner_up=float("nan")),
        instance(1, (0, 0, 9, 9), 0.4),
    ]
    shards = [
        [
            label_row("sub/a.png", str(pool / "sub" / "a.png"), first),
            label_row("bad.png", "bad.png", [], status="truncated"),
        ],
        [
            label_row("b.png", str(pool / "b.png"), [instance(1, (0, 0, 60, 40), 0.5)]),
            label_row("c.png", str(pool / "c.png"), [instance(1, (0, 0, 9, 9), 0.49)]),
        ],
    ]
    for shard_id, rows in enumerate(shards):
        commit_table(shard_uri(run, shard_id), pa.Table.from_pylist(rows, schema=LABELS))
    run.commit_artifact("labels", {"fingerprint": "f" * 64, "corrector": "isotonic", "corrector_digest": "d" * 64})
    return run


@pytest.mark.parametrize("form", ["coco", "lvis"])
def test_read_by_our_reader_and_by_hotcoco(run: RunFolder, tmp_path: Path, form: Any) -> None:
    out = str(tmp_path / "labels.json")
    assert export_labels(run, form, out) == {"images": 2, "annotations": 3, "images_left_out": 1}

    annotated = read_annotations(out, images_root=str(tmp_path / "pool"))
    assert [image.uri for image in annotated.images] == [
        str(tmp_path / "pool" / name) for name in ("sub/a.png", "b.png")
    ]
    assert annotated.is_federated == (form == "lvis")
    assert annotated.category_ids.tolist() == CATEGORY_IDS
    truth = annotated.ground_truth(0)
    assert truth.class_indices.tolist() == [0, 2]
    assert truth.boxes_xyxy.tolist() == [[5, 5, 25, 30], [30, 10, 50, 20]]
    assert (coco_mask.decode(truth.masks[0]).astype(bool) == rectangle(5, 5, 25, 30)).all()

    loaded = COCO(out)
    assert loaded.healthcheck()["errors"] == []
    [annotation] = loaded.load_anns(loaded.get_ann_ids(cat_ids=[20]))
    assert annotation["area"] == 200
    rows = json.loads(Path(out).read_text())["annotations"]
    assert [round(row["score"], 4) for row in rows] == [0.9, 0.6, 0.5]
    assert {round(row["raw_score"], 4) for row in rows} == {0.99}
    assert {round(row["background"], 4) for row in rows} == {0.01}
    assert [row.get("runner_up") for row in rows] == [0.25, None, 0.25], "what is unknown is left out"
    assert evaluate_results(out, rows)["AP"] == pytest.approx(1)


def test_lineage_says_what_made_the_labels(run: RunFolder, tmp_path: Path) -> None:
    export_labels(run, "coco", str(tmp_path / "labels.json"))
    lineage = json.loads((tmp_path / "labels.json").read_text())["info"]["raylabel"]
    assert lineage["fingerprint"] == "f" * 64
    assert lineage["corrector"] == "isotonic"
    assert lineage["selection"]["min_score"] == 0.5


def test_lvis_claims_nothing_that_was_not_verified(run: RunFolder, tmp_path: Path) -> None:
    export_labels(run, "lvis", str(tmp_path / "labels.json"))
    content = json.loads((tmp_path / "labels.json").read_text())
    assert [image["neg_category_ids"] for image in content["images"]] == [[], []]
    assert [image["not_exhaustive_category_ids"] for image in content["images"]] == [[3, 20], [7]]
    assert [one["frequency"] for one in content["categories"]] == ["r", "c", "f"]
    assert [one["image_count"] for one in content["categories"]] == [1, 1, 1]


def test_lvis_api_reads_it(run: RunFolder, tmp_path: Path) -> None:
    lvis = pytest.importorskip("lvis")
    out = tmp_path / "labels.json"
    export_labels(run, "lvis", str(out))
    loaded = lvis.LVIS(str(out))
    assert (loaded.ann_to_mask(loaded.load_anns([1])[0]).astype(bool) == rectangle(5, 5, 25, 30)).all()


def test_yolo_folder_mirrors_images_and_polygons_cover_the_masks(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    assert export_labels(run, "yolo", str(out))["annotations"] == 3
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "data.yaml",
        "images/b.png",
        "images/sub/a.png",
        "labels/b.txt",
        "labels/sub/a.txt",
    ]
    assert Image.open(out / "images/sub/a.png").size == (WIDTH, HEIGHT)
    settings = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert settings == {"train": "images", "val": None, "names": {0: "cat: tabby", 1: "dog", 2: "öx"}}

    lines = [line.split() for line in (out / "labels/sub/a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["0", "2"]
    for line, expected in zip(lines, (rectangle(5, 5, 25, 30), rectangle(30, 10, 50, 20)), strict=True):
        points = np.array(line[1:], float).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        polygon = (points * (WIDTH, HEIGHT)).ravel().tolist()
        mask = coco_mask.decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]).astype(bool)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.97


def test_a_full_folder_is_not_mixed_with(run: RunFolder, tmp_path: Path) -> None:
    export_labels(run, "yolo", str(tmp_path / "yolo"))
    with pytest.raises(InputError, match="yolo: the folder is not empty"):
        export_labels(run, "yolo", str(tmp_path / "yolo"))


def write_images(run: RunFolder, pool: Path, image_ids: list[str]) -> None:
    """Replace the first shard by one object in each of these images."""
    rows = [label_row(one, str(pool / one.lstrip("/")), [instance(0, (5, 5, 25, 30), 0.9)]) for one in image_ids]
    commit_table(shard_uri(run, 0), pa.Table.from_pylist(rows, schema=LABELS))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_images_that_would_share_a_label_file_get_names_that_differ(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(
        run, tmp_path / "elsewhere", ["a.png", "a.jpg", "x/a.JPG", "x/a.jpg", "x/a-jpg.png", "scan.2", "scan.3"]
    )
    out = tmp_path / "yolo"
    assert export_labels(run, "yolo", str(out))["images"] == 8
    named = ["a-jpg", "a-png", "b", "scan.2", "scan.3", "x/a-JPG", "x/a-jpg-2", "x/a-jpg"]
    assert [name for name in files_below(out) if name.startswith("labels")] == [f"labels/{one}.txt" for one in named]
    assert (out / "renamed.csv").read_text().splitlines() == [
        "image_id,path",
        "a.png,a-png.png",
        "a.jpg,a-jpg.jpg",
        "x/a.JPG,x/a-JPG.JPG",
        "x/a.jpg,x/a-jpg-2.jpg",
    ]
    assert capsys.readouterr().out.count("\n") == 1
    assert not (out / "unfinished").exists()


def test_the_selection_does_not_change_names(run: RunFolder, tmp_path: Path) -> None:
    weak = [label_row("a.jpg", "a.jpg", [instance(0, (5, 5, 25, 30), 0.1)])]
    strong = [label_row("a.png", "a.png", [instance(0, (5, 5, 25, 30), 0.9)])]
    commit_table(shard_uri(run, 0), pa.Table.from_pylist(weak + strong, schema=LABELS))
    export_labels(run, "yolo", str(tmp_path / "yolo"))
    assert files_below(tmp_path / "yolo" / "labels") == ["a-png.txt", "b.txt"]


@given(st.lists(st.tuples(st.sampled_from(["", "/", "x/", "s3://x/"]), st.text("a1-", min_size=1, max_size=3),
                          st.sampled_from([".jpg", ".png", ".JPG", ""])).map("".join), unique=True))  # fmt: skip
def test_no_two_images_share_a_label_file(image_ids: list[str]) -> None:
    with TemporaryDirectory() as folder:
        run = RunFolder(folder)
        write_images(run, Path(folder), image_ids)
        paths = _YoloPaths(run)
        found = [paths.of(one, f"{folder}/{one.lstrip('/')}") for one in image_ids]
        stems = [_stem(path) for path in found]
        assert len(set(stems)) == len(stems)
        assert {_stem(_own_path(one, "")) for one in image_ids if one not in paths.renamed} <= set(stems)


def test_ids_that_lead_out_are_refused_before_a_file_is_written(run: RunFolder, tmp_path: Path) -> None:
    write_images(run, tmp_path, ["b.png", "../a.png"])
    with pytest.raises(InputError, match=r"image id '\.\./a\.png' leads out"):
        export_labels(run, "yolo", str(tmp_path / "yolo"))
    assert not (tmp_path / "yolo").exists()


def test_ids_that_are_absolute_or_uris_lose_their_root(run: RunFolder, tmp_path: Path) -> None:
    write_images(run, tmp_path, ["/data/x/a.jpg", "/data/y/a.jpg", "s3://data/x/b #1.jpg?region=r"])
    export_labels(run, "yolo", str(tmp_path / "yolo"))
    assert files_below(tmp_path / "yolo" / "labels") == ["b.txt", "data/x/a.txt", "data/x/b #1.txt", "data/y/a.txt"]


@pytest.mark.parametrize("fails_at", ["sub/a.txt", "b.txt", "data.yaml"])
def test_a_failed_export_leaves_nothing_and_the_next_one_works(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    def failing(uri: str, content: bytes) -> None:
        if uri.endswith(fails_at):
            raise StorageError("no space left")
        commit_bytes(uri, content)

    monkeypatch.setattr("raylabel.export.commit_bytes", failing)
    with pytest.raises(StorageError):
        export_labels(run, "yolo", str(tmp_path / "yolo"))
    assert not (tmp_path / "yolo").exists()
    assert Image.open(tmp_path / "pool" / "b.png").size == (WIDTH, HEIGHT), "links are removed, images are not"
    monkeypatch.undo()
    assert export_labels(run, "yolo", str(tmp_path / "yolo"))["images"] == 2


def test_what_a_killed_export_left_is_replaced(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    export_labels(run, "yolo", str(out))
    whole = files_below(out)
    (out / "data.yaml").unlink()
    (out / "labels" / "old.txt").write_text("")
    (out / "unfinished").write_text("")
    export_labels(run, "yolo", str(out))
    assert files_below(out) == whole
    assert (tmp_path / "pool" / "b.png").is_file()


def test_a_file_in_place_of_a_folder_and_the_reverse(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: must be a folder to write, got a file"):
        export_labels(run, "yolo", str(tmp_path / "file"))
    with pytest.raises(InputError, match="pool: must be a file to write, got a directory"):
        export_labels(run, "coco", str(tmp_path / "pool"))


def test_pools_whose_ids_are_not_paths_keep_their_uri(run: RunFolder, tmp_path: Path) -> None:
    rows = [label_row("17", "s3://bucket/pool.tar#17.jpg", [instance(0, (5, 5, 25, 30), 0.9)])]
    commit_table(shard_uri(run, 0), pa.Table.from_pylist(rows, schema=LABELS))
    export_labels(run, "coco", str(tmp_path / "labels.json"))
    [first, _] = json.loads((tmp_path / "labels.json").read_text())["images"]
    assert first["file_name"] == first["uri"] == "s3://bucket/pool.tar#17.jpg"


def test_a_run_without_its_classes_is_refused(run: RunFolder, tmp_path: Path) -> None:
    Path(run.path("classes.json")).unlink()
    with pytest.raises(InputError, match=r"classes\.json: no such file\. Run prototypes first"):
        export_labels(run, "coco", str(tmp_path / "x.json"))
    assert not (tmp_path / "x.json").exists()


def test_what_is_not_there(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format must be coco, lvis or yolo, got 'voc'"):
        export_labels(run, "voc", str(tmp_path / "x"))
    Path(run.path("labels", "artifact.json")).unlink()
    with pytest.raises(InputError, match=r"no such file\. Run label first"):
        export_labels(run, "coco", str(tmp_path / "x.json"))
    with pytest.raises(InputError, match="not a run folder"):
        export_labels(RunFolder(str(tmp_path / "nothing")), "coco", str(tmp_path / "x.json"))
