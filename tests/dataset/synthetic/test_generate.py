"""The generated set is long-tailed, federated and deterministic, and its files describe its images."""

import hashlib
import json

import numpy as np
import pytest

from raylabel.dataset.annotations import read_annotations, validate_same_categories
from raylabel.dataset.images import read_image
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.synthetic.classes import max_classes, synthetic_classes
from raylabel.dataset.synthetic.federated import federate
from raylabel.dataset.synthetic.frequencies import draw_classes, zipf_weights
from raylabel.dataset.synthetic.generate import generate
from raylabel.dataset.synthetic.scenes import draw_scene
from raylabel.errors import InputError
from raylabel.masks.rle import decode_masks

FILES = ("labelled", "calibration", "val", "calibration_full", "pool_truth")


@pytest.fixture(scope="module")
def default_set(tmp_path_factory):
    """The default set of 24 classes at half the image side, because that halves the time."""
    out = tmp_path_factory.mktemp("generated")
    sizes = generate(out, image_size=64)
    read = {
        name: read_annotations(str(out / f"{name}.json"), str(out / ("pool" if name == "pool_truth" else "images")))
        for name in FILES
    }
    return out, sizes, read


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_splits_and_frequencies(default_set):
    _, sizes, read = default_set
    assert sizes == {"labelled": 240, "calibration": 120, "val": 204, "pool": 636}
    assert [len(read[name]) for name in FILES] == [240, 120, 204, 120, 636]
    counts = read["labelled"].class_image_counts()
    assert counts.min() >= 1
    groups = read["labelled"].frequency_groups()
    assert set(groups) == {"r", "c", "f"}
    assert (groups == "r").sum() >= 5
    for name in ("calibration", "val", "pool_truth"):
        assert (read[name].class_image_counts() >= 1).all()
    assert read["val"].class_instance_counts()[groups == "r"].min() >= 8
    assert [one.frequency for one in read["val"].categories] == groups.tolist()


def test_pool_has_the_priors_of_the_labelled_images(default_set):
    _, _, read = default_set
    labelled, pool = (read[name].class_instance_counts() for name in ("labelled", "pool_truth"))
    assert np.corrcoef(np.log(labelled), np.log(pool))[0, 1] > 0.95


def test_categories(default_set):
    _, _, read = default_set
    for name in FILES:
        validate_same_categories(read["labelled"], read[name], files=("labelled", name))
    category_ids = read["labelled"].category_ids
    assert not np.array_equal(category_ids, np.arange(24))
    assert (np.diff(category_ids) > 1).any()
    assert len(set(read["labelled"].class_names)) == 24


@pytest.mark.parametrize("name", FILES)
def test_images_and_masks(default_set, name):
    _, _, read = default_set
    annotated = read[name]
    for row, image in list(enumerate(annotated.images))[::10]:
        assert read_image(image.uri, max_pixels=64 * 64).shape == (64, 64, 3)
        masks_NHW = decode_masks(annotated.ground_truth(row).masks, (64, 64))
        assert masks_NHW.sum(axis=0).max() <= 1, "visible parts do not overlap"
        assert (masks_NHW.sum(axis=(1, 2)) >= 4).all()
        assert len(masks_NHW) <= 5


def test_pool_truth_names_the_pool_images(default_set):
    out, _, read = default_set
    images = sorted(iter_pool(str(out / "pool")), key=lambda image: image.image_id)
    assert [image.image_id for image in images] == [image.file_name for image in read["pool_truth"].images]
    labelled_names = {image.file_name for name in FILES[:3] for image in read[name].images}
    assert len(labelled_names) == 564
    assert not labelled_names & {image.image_id for image in images}


def test_federated_fields_agree_with_the_full_truth(default_set):
    _, _, read = default_set
    part, full = read["calibration"], read["calibration_full"]
    assert part.is_federated
    assert not full.is_federated
    num_pairs = num_unknown = num_not_exhaustive = 0
    for row, image in enumerate(part.images):
        assert full.images[row].image_id == image.image_id
        shown = full.ground_truth(row).class_indices
        annotated = part.ground_truth(row).class_indices
        assert not image.negative_classes & set(shown.tolist())
        assert image.not_exhaustive_classes <= set(annotated.tolist())
        for class_index in set(shown.tolist()):
            num_pairs += 1
            num_shown, num_annotated = (shown == class_index).sum(), (annotated == class_index).sum()
            if class_index in image.not_exhaustive_classes:
                num_not_exhaustive += 1
                assert 0 < num_annotated < num_shown
            elif num_annotated:
                assert num_annotated == num_shown
            else:
                num_unknown += 1
        assert set(annotated.tolist()) <= set(shown.tolist())
    assert 0.02 < num_unknown / num_pairs <= 0.05
    assert num_not_exhaustive > 0
    verified = np.sum([[index in image.negative_classes for index in range(24)] for image in part.images], axis=0)
    without = len(full) - full.class_image_counts()
    np.testing.assert_array_equal(verified, np.round(0.3 * without))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    arguments = {"num_images": 24, "num_classes": 6, "image_size": 64}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, seed=seed, **arguments)
    first, second, other = (digests(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    assert first["labelled.json"] != other["labelled.json"]
    assert first["pool/000024.jpg"] != other["pool/000024.jpg"]


def test_again_in_the_same_folder(tmp_path):
    generate(tmp_path, num_images=24, num_classes=6, image_size=64)
    before = digests(tmp_path)
    stamp = (tmp_path / "labelled.json").stat().st_mtime_ns
    generate(tmp_path, num_images=24, num_classes=6, image_size=64)
    assert (tmp_path / "labelled.json").stat().st_mtime_ns == stamp, "a finished set is left unchanged"
    (tmp_path / "labelled.json").unlink()
    (tmp_path / "generated.json").write_text("{}")
    generate(tmp_path, num_images=24, num_classes=6, image_size=64)
    assert digests(tmp_path) == before, "an interrupted set is generated again"
    generate(tmp_path, num_images=20, num_classes=6, image_size=64)
    assert len(list(iter_pool(str(tmp_path / "pool")))) + len(list((tmp_path / "images").iterdir())) == 20


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="was not generated"):
        generate(tmp_path, num_images=24, num_classes=6)
    assert (tmp_path / "images" / "mine.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 47}, "twice the number of classes, got 47"),
        ({"num_images": 19, "num_classes": 2}, "at least 20"),
        ({"num_classes": 97}, "from 2 to 96, got 97"),
        ({"num_classes": 1}, "from 2 to 96, got 1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"image_size": 63}, "from 64 to 1024 pixels, got 63"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        generate(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_classes", [2, 5, 24, 49, 96])
def test_smallest_sets_have_every_class(num_classes):
    classes = synthetic_classes(num_classes)
    assert len({one.name for one in classes}) == len({one.category_id for one in classes}) == num_classes
    weights = zipf_weights(np.arange(num_classes))
    chosen = draw_classes(max(4, round(0.2 * 2 * num_classes)), weights, 3, np.random.default_rng(0))
    assert {index for of_image in chosen for index in of_image} == set(range(num_classes))
    assert all(1 <= len(of_image) <= 5 for of_image in chosen)


def test_zipf_weights():
    weights = zipf_weights(np.array([1, 0, 2]))
    assert weights.sum() == pytest.approx(1)
    # (1.5 / 2.5) ** 1.2 = 0.5417
    assert weights[0] / weights[1] == pytest.approx(0.5417, abs=1e-4)
    np.testing.assert_allclose(zipf_weights(np.arange(4), flatten=0), 0.25)


def test_rare_classes_lose_no_annotation():
    classes_by_image = [[0, 1]] * 6 + [[0]] * 14
    federated = federate(classes_by_image, 3, [0])
    annotated = [[classes_by_image[row][index] for index in one.kept] for row, one in enumerate(federated)]
    assert sum(1 in of_image for of_image in annotated) == 6
    assert sum(0 in of_image for of_image in annotated) == 19, "5% of 20 images"
    assert sum(2 in one.negative_classes for one in federated) == 6


def test_every_shape_can_be_drawn_in_its_hue():
    rng = np.random.default_rng(0)
    for one in synthetic_classes(max_classes())[::3]:
        image, masks_NHW = draw_scene([one, one], 128, rng)
        assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
        assert masks_NHW.shape == (2, 128, 128)
        assert masks_NHW.any(axis=(1, 2)).all()
        assert not masks_NHW.all(axis=0).any()


def test_hues_can_be_told_apart_within_their_overlap():
    """The mean colours of red and cyan discs lie on opposite sides of grey."""
    rng = np.random.default_rng(1)
    for one, channel_is_larger in ((synthetic_classes(24)[0], True), (synthetic_classes(24)[2], False)):
        colors = []
        for _ in range(30):
            image, masks_NHW = draw_scene([one], 128, rng)
            colors.append(image[masks_NHW[0]].mean(axis=0))
        red, green, blue = np.mean(colors, axis=0)
        assert (red > max(green, blue) + 20) == channel_is_larger
        assert (red + 20 < min(green, blue)) != channel_is_larger


def test_files_are_lvis_json(default_set):
    out, _, _ = default_set
    content = json.loads((out / "labelled.json").read_text())
    assert {"id", "name", "synset", "synonyms", "def", "frequency", "image_count", "instance_count"} <= set(
        content["categories"][0]
    )
    assert {"id", "width", "height", "file_name", "neg_category_ids", "not_exhaustive_category_ids"} == set(
        content["images"][0]
    )
    assert {"id", "image_id", "category_id", "segmentation", "area", "bbox"} == set(content["annotations"][0])
    num_annotations = sum(category["instance_count"] for category in content["categories"])
    assert num_annotations == len(content["annotations"])


def test_sizes_of_splits_are_those_asked_for(tmp_path):
    sizes = {"labelled": 12, "calibration": 3, "val": 9, "pool": 30}
    assert generate(tmp_path, sizes=sizes, num_classes=6, image_size=64) == sizes
    assert len(read_annotations(str(tmp_path / "calibration.json"), str(tmp_path / "images"))) == 3
    before = digests(tmp_path)
    assert generate(tmp_path, sizes=sizes, num_classes=6, image_size=64) == sizes
    assert digests(tmp_path) == before


@pytest.mark.parametrize("sizes", [{"labelled": 40}, {"labelled": 40, "calibration": 0, "val": 9, "pool": 30}])
def test_sizes_that_are_refused(tmp_path, sizes):
    with pytest.raises(InputError, match="size"):
        generate(tmp_path, sizes=sizes)
