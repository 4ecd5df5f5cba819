"""Results files of every format, order and cut give the same calibration, and are corrected in their own format."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raylabel.predictions.results_by_image
import raylabel.predictions.results_parts
import raylabel.processes
from raylabel.calibration import ImagePredictions, match_set, read_annotations, read_detections
from raylabel.errors import InputError
from raylabel.external import calibrate_results, correct_results
from raylabel.files import json_pieces
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from raylabel.predictions.results_file import entry_masks
from small_results import MODEL_FIELDS, SIZE, Files, contextual, rle, write_files


def to_json(entries: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(entries, indent=1))


def to_lines(entries: list[dict[str, Any]], path: Path) -> None:
    text = "\n".join(json.dumps(one) for one in entries)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def to_parquet(entries: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(entries), path)


FORMATS: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    "r.json": to_json,
    "r.jsonl": to_lines,
    "r.ndjson.gz": to_lines,
    "r.parquet": to_parquet,
}


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into many parts and groups."""
    monkeypatch.setattr(json_pieces, "CHUNK", 1000)
    monkeypatch.setattr(raylabel.predictions.results_parts, "ROWS_AT_A_TIME", 5)
    monkeypatch.setattr(raylabel.predictions.results_by_image, "IMAGES_PER_GROUP", 2)
    monkeypatch.setattr(raylabel.processes, "num_cpus", lambda: 1)


def shuffled(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entries[place] for place in np.random.default_rng(0).permutation(len(entries))]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_detections_are_those_of_one_match_of_all(
    tmp_path: Path, cut_small: None, monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    """The reference matches all images at once, from entries in memory."""
    monkeypatch.setattr(raylabel.processes, "num_cpus", lambda: num_processes)
    _, annotations, results = write_files(tmp_path)
    entries = shuffled([one | MODEL_FIELDS | {"score": 1 / (2 + row)} for row, one in enumerate(results)])
    to_json(entries, tmp_path / "r.json")
    annotated = read_annotations(annotations)
    found = read_detections(str(tmp_path / "r.json"), annotated)
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    images = [row_of[one["image_id"]] for one in entries]
    masks = entry_masks(entries, images, dict.fromkeys(images, (SIZE, SIZE)), "r.json")
    masks = [one | {"counts": one["counts"].encode()} for one in masks]
    places = {row: [place for place, image in enumerate(images) if image == row] for row in sorted(set(images))}
    expected = match_set(
        annotated,
        {
            row: ImagePredictions(
                np.array([annotated.class_index_of[entries[one]["category_id"]] for one in chosen]),
                np.array([entries[one]["score"] for one in chosen]),
                [masks[one] for one in chosen],
            )
            for row, chosen in places.items()
        },
    ).subset(np.argsort(np.concatenate(list(places.values()))))
    assert expected.context is not None
    expected.context[:, -3:] = list(MODEL_FIELDS.values())
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_and_is_kept(tmp_path: Path, cut_small: None, name: str) -> None:
    predictions, annotations, results = write_files(tmp_path)
    results = shuffled(results)
    Path(predictions).write_text(json.dumps(results))
    FORMATS[name](results, tmp_path / name)
    annotated = read_annotations(annotations)
    expected = vars(read_detections(predictions, annotated))
    for field, values in vars(read_detections(str(tmp_path / name), annotated)).items():
        np.testing.assert_array_equal(values, expected[field], err_msg=field)
    corrector = tmp_path / "corrector.json"
    corrector.write_text(json.dumps({"kind": "temperature", "temperature": 2.0, "category_ids": [3, 5]}))
    correct_results(corrector, predictions, tmp_path / "corrected.json")
    summary = correct_results(corrector, tmp_path / name, tmp_path / f"corrected-{name}")
    assert summary["num_detections"] == len(results)
    assert entries_of(tmp_path / f"corrected-{name}") == read_json(str(tmp_path / "corrected.json"))
    assert [one["raw_score"] for one in entries_of(tmp_path / f"corrected-{name}")] == [one["score"] for one in results]


def entries_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text())
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in text.splitlines()]


def test_context_of_shuffled_files_corrects_alike(tmp_path: Path, cut_small: None) -> None:
    files = write_files(tmp_path)
    corrector, results = contextual(files, tmp_path)
    correct_results(corrector, files[0], tmp_path / "a.json")
    to_lines(shuffled(results), tmp_path / "b.jsonl")
    correct_results(corrector, tmp_path / "b.jsonl", tmp_path / "b-corrected.jsonl")
    by_note = {one["note"]: one for one in read_json(str(tmp_path / "a.json"))}
    assert entries_of(tmp_path / "b-corrected.jsonl") == [by_note[one["note"]] for one in shuffled(results)]


@pytest.mark.parametrize("name", FORMATS)
def test_faults_are_named_in_every_format(tmp_path: Path, cut_small: None, name: str) -> None:
    _, annotations, results = write_files(tmp_path)
    for change, message in (
        ({"image_id": 99}, r"entry 17: unknown image_id 99\. 2 of 24 entries name no image of the annotations"),
        ({"category_id": 4}, r"entry 17: unknown category_id 4\. 2 of 24 entries name no category"),
        ({"score": 1.5}, r"entry 17: score must be a number in \[0, 1\], got 1.5"),
        ({"segmentation": rle(0, 0, 6, size=20)}, r"entry 17 \(image 8\): RLE size must be \[16, 16\]"),
    ):
        damaged = [one | (change if row in (17, 20) else {}) for row, one in enumerate(results)]
        FORMATS[name](damaged, tmp_path / name)
        with pytest.raises(InputError, match=f"^{tmp_path / name}: {message}"):
            read_detections(str(tmp_path / name), read_annotations(annotations))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b'{"image_id": 1}\n{"a"\n', "r.jsonl: line 2: not JSON: Expecting ':' delimiter"),
        ("r.jsonl", b'[{"image_id": 1}]\n', "entry 0 must be an object, got list"),
        ("r.jsonl", b'"\xff"\n', "r.jsonl: not JSON: its text is not Unicode"),
        ("r.jsonl.gz", b"\x1f\x8bnothing", "r.jsonl.gz: not readable as gzip"),
        ("r.jsonl", b"\n\n", "r.jsonl: results hold no detection"),
        ("r.parquet", b"PAR1 no", "r.parquet: not readable as Parquet"),
        ("r.json", b'[{"image_id": 1, "image_id": 1}]', "the key 'image_id' is given twice in one object"),
        ("absent.jsonl", None, "absent.jsonl: no such file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    _, annotations, _ = write_files(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        calibrate_results(tmp_path / name, annotations, tmp_path / "out")


def test_a_fault_far_behind_has_its_place(tmp_path: Path, cut_small: None) -> None:
    predictions, annotations, results = write_files(tmp_path)
    text = json.dumps(results)
    Path(predictions).write_text(text[:-1] + ", {]")
    with pytest.raises(InputError, match=rf"line 1 column \d+ \(char {len(text) + 2}\)"):
        calibrate_results(predictions, annotations, tmp_path / "out")


def test_text_that_cannot_be_cut_is_read(tmp_path: Path, cut_small: None) -> None:
    """A list of objects within an entry looks like entries; the whole file is then read by its elements."""
    predictions, annotations, results = write_files(tmp_path)
    odd = [one | {"parts": [{"a": number} for number in range(400)]} for one in results]
    Path(predictions).write_text(json.dumps(odd))
    assert read_detections(predictions, read_annotations(annotations)).raw_scores.tolist() == [
        one["score"] for one in results
    ]
    corrector = tmp_path / "corrector.json"
    corrector.write_text(json.dumps({"kind": "none", "category_ids": [3, 5]}))
    correct_results(corrector, predictions, tmp_path / "corrected.json")
    expected = [one | {"raw_score": one["score"]} for one in odd]
    assert read_json(str(tmp_path / "corrected.json")) == expected


def test_without_context(files: Files, tmp_path: Path) -> None:
    predictions, annotations, results = files
    to_json([one | MODEL_FIELDS | {"background": 2} for one in results], Path(predictions))
    with pytest.raises(InputError, match="background must be a number"):
        calibrate_results(predictions, annotations, tmp_path / "out", corrector="contextual")
    artifact = calibrate_results(predictions, annotations, tmp_path / "out", corrector="contextual", with_context=False)
    assert artifact["num_correct"] == 12
    assert read_json(str(tmp_path / "out" / "corrector.json"))["features"] == []
    context = read_table(str(tmp_path / "out" / "detections.parquet"))["context"].combine_chunks()
    assert np.isnan(context.field("rank").to_numpy(zero_copy_only=False)).all()


def test_a_file_that_fails_while_it_is_written_leaves_nothing(files: Files, tmp_path: Path) -> None:
    predictions, annotations, _ = files
    calibrate_results(predictions, annotations, tmp_path / "out", corrector="temperature")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="must be a file to write, got a folder"):
        correct_results(tmp_path / "out" / "corrector.json", predictions, tmp_path / "folder")
    assert not list(tmp_path.glob("*.tmp"))
