"""LVIS and COCO files: real ones are read without loss, bad ones are refused with a clear message."""

import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from raylabel.dataset.annotations import read_annotations, validate_same_categories
from raylabel.errors import InputError
from raylabel.masks.rle import decode_masks

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def content():
    """Two images, three categories with gaps between the ids, and three annotations, one of them a crowd."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 8, "width": 10},
            {"id": 3, "file_name": "sub/b.jpg", "height": 6, "width": 6},
        ],
        "annotations": [
            {"id": 11, "image_id": 3, "category_id": 90, "segmentation": SQUARE, "bbox": [1, 1, 4, 4], "area": 16},
            {"id": 12, "image_id": 7, "category_id": 2, "segmentation": {"size": [8, 10], "counts": [8, 16, 56]}},
            {"id": 13, "image_id": 7, "category_id": 90, "segmentation": SQUARE, "bbox": [1, 1, 4, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "cup"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "owl"}],
    }


def federated():
    changed = content()
    changed["annotations"].pop()
    changed["images"][0] |= {"neg_category_ids": [90, 5], "not_exhaustive_category_ids": [2]}
    changed["images"][1] |= {"neg_category_ids": None, "not_exhaustive_category_ids": None}
    return changed


@pytest.fixture
def write(tmp_path):
    def write_json(value, name="set.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)

    return write_json


def test_classes_and_rows(write):
    annotated = read_annotations(write(content()), "pictures")
    assert annotated.class_names == ("cat", "owl", "cup")
    assert annotated.category_ids.tolist() == [2, 5, 90]
    assert annotated.class_index_of == {2: 0, 5: 1, 90: 2}
    assert [image.uri for image in annotated.images] == ["pictures/a.jpg", "pictures/sub/b.jpg"]
    assert not annotated.is_federated
    assert annotated.class_image_counts().tolist() == [1, 0, 1]
    assert annotated.class_instance_counts().tolist() == [1, 0, 1]
    assert annotated.annotated_classes(0).tolist() == [0]


def test_ground_truth(write):
    annotated = read_annotations(write(content()))
    truth = annotated.ground_truth(0)
    assert len(truth) == 2
    assert truth.class_indices.tolist() == [0, 2]
    assert truth.is_crowd.tolist() == [False, True]
    # Runs 8, 16 of a column-major mask of height 8: columns 1 and 2.
    np.testing.assert_array_equal(truth.boxes_xyxy, [[1, 0, 3, 8], [1, 1, 5, 5]])
    assert decode_masks(truth.masks, (8, 10)).sum(axis=(1, 2)).tolist() == [16, 16]


def test_image_without_annotations_and_null_lists(write):
    value = content() | {"annotations": None, "licenses": None}
    annotated = read_annotations(write(value))
    truth = annotated.ground_truth(1)
    assert (len(truth), truth.boxes_xyxy.shape, truth.class_indices.dtype) == (0, (0, 4), np.int32)
    assert annotated.class_image_counts().tolist() == [0, 0, 0]
    assert annotated.frequency_groups().tolist() == ["r", "r", "r"]


def test_federated_fields(write):
    annotated = read_annotations(write(federated()))
    assert annotated.is_federated
    assert annotated.images[0].negative_classes == {1, 2}
    assert annotated.images[0].not_exhaustive_classes == {0}
    assert annotated.images[1].negative_classes == frozenset()


def test_frequency_groups_at_the_thresholds(write):
    value = {"categories": [{"id": 1, "name": "r"}, {"id": 2, "name": "c"}, {"id": 3, "name": "f"}]}
    value["images"] = [{"id": row, "file_name": f"{row}", "height": 9, "width": 9} for row in range(101)]
    value["annotations"] = [
        {"id": 1000 * category + row, "image_id": row, "category_id": category, "segmentation": SQUARE}
        for category, num_images in ((1, 10), (2, 11), (3, 101))
        for row in range(num_images)
    ]
    annotated = read_annotations(write(value))
    assert annotated.frequency_groups().tolist() == ["r", "c", "f"]
    assert annotated.subset(range(100)).frequency_groups().tolist() == ["r", "c", "c"]


@pytest.mark.parametrize("value", [content(), federated()])
def test_json_round_trip(write, value):
    annotated = read_annotations(write(value), "x")
    again = read_annotations(write(annotated.to_json(), "again.json"), "x")
    assert again.to_json() == annotated.to_json()
    assert list(again.images) == list(annotated.images)
    assert list(again.annotations) == list(annotated.annotations)


def test_subset_keeps_classes(write):
    annotated = read_annotations(write(content()))
    part = annotated.subset([1])
    assert [image.image_id for image in part.images] == [3]
    assert part.num_classes == 3
    np.testing.assert_array_equal(part.ground_truth(0).class_indices, annotated.ground_truth(1).class_indices)


def test_lvis_v1_file_names(write, tmp_path):
    value = content()
    for image, folder in zip(value["images"], ("val2017", "train2017"), strict=True):
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image.pop('file_name')[-5:]}"
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    annotated = read_annotations(write(value), str(tmp_path / "images"))
    assert [image.file_name for image in annotated.images] == ["val2017/a.jpg", "b.jpg"]


def change(path, value):
    def apply(data):
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return apply


ANNOTATION = ("annotations", 0)
BAD = {
    "no images list": (lambda data: data.pop("images"), "has no list 'images'"),
    "no categories list": (lambda data: data.pop("categories"), "has no list 'categories'"),
    "zero images": (change(["images"], []), "has no images"),
    "null images": (change(["images"], None), "has no images"),
    "no categories": (change(["categories"], None), "has no categories"),
    "annotations no list": (change(["annotations"], {"a": 1}), "'annotations' must be a list"),
    "image twice": (change(["images", 1, "id"], 7), "image id 7 is given twice"),
    "image id of two types": (change(["images", 1, "id"], "7"), r'image ids 7 and "7" differ by their type alone'),
    "file name twice": (
        change(["images", 1, "file_name"], content()["images"][0]["file_name"]),
        "images 7 and .* have the same file_name",
    ),
    "file name in two spellings": (
        change(["images", 1, "file_name"], "./" + content()["images"][0]["file_name"]),
        "images 7 and .* have the same file_name",
    ),
    "annotation twice": (change([*ANNOTATION, "id"], 12), "annotation id 12 is given twice"),
    "category twice": (change(["categories", 0, "id"], 2), "category id 2 is given twice"),
    "no image id": (lambda data: data["images"][1].pop("id"), "image number 1: id must be"),
    "category id text": (change(["categories", 0, "id"], "2"), "id must be an integer of at most 64 bits, got '2'"),
    "unknown image": (change([*ANNOTATION, "image_id"], 4), "annotation 11: unknown image_id 4"),
    "unknown category": (change([*ANNOTATION, "category_id"], 1), "annotation 11: unknown category_id 1"),
    "no name": (change(["categories", 0, "name"], None), "category 90: name"),
    "no file name": (lambda data: data["images"][0].pop("file_name"), "image 7: has neither file_name nor coco_url"),
    "no possible name": (
        change(["images", 0, "file_name"], "a\0.jpg"),
        "image 7: file_name must be the name of a file",
    ),
    "zero height": (change(["images", 0, "height"], 0), "image 7: height must be a positive integer, got 0"),
    "width text": (change(["images", 0, "width"], "10"), "image 7: width must be a positive integer, got '10'"),
    "vast": (change(["images", 0, "width"], 2**31), "image 7: height \\* width"),
    "two points": (change([*ANNOTATION, "segmentation"], [[1, 1, 2, 2]]), "annotation 11: a polygon must have"),
    "odd polygon": (change([*ANNOTATION, "segmentation"], [[1] * 7]), "annotation 11: a polygon must have"),
    "no polygon": (change([*ANNOTATION, "segmentation"], []), "annotation 11: segmentation has no polygon"),
    "NaN polygon": (change([*ANNOTATION, "segmentation", 0, 2], float("nan")), "annotation 11: .* not a finite"),
    "text polygon": (change([*ANNOTATION, "segmentation", 0, 2], "a"), "annotation 11: .* not a finite"),
    "far polygon": (change([*ANNOTATION, "segmentation", 0, 2], 1e9), "annotation 11: .* far outside"),
    "no segmentation": (lambda data: data["annotations"][0].pop("segmentation"), "annotation 11: segmentation must"),
    "RLE of another size": (change(["annotations", 1, "segmentation", "size"], [10, 8]), "annotation 12: RLE size"),
    "RLE too short": (change(["annotations", 1, "segmentation", "counts"], [8, 16]), "annotation 12: RLE counts"),
    "RLE damaged": (change(["annotations", 1, "segmentation", "counts"], "X"), "annotation 12: RLE counts"),
    "RLE without counts": (lambda data: data["annotations"][1]["segmentation"].pop("counts"), "annotation 12: RLE"),
    "far box": (change([*ANNOTATION, "bbox", 0], 1e300), "annotation 11: bbox must lie within"),
    "true in a box": (change([*ANNOTATION, "bbox", 0], True), "annotation 11: bbox"),
    "category true": (change([*ANNOTATION, "category_id"], True), "annotation 11: unknown category_id True"),
    "image true": (change([*ANNOTATION, "image_id"], True), "annotation 11: unknown image_id True"),
    "negative true": (change(["images", 0, "neg_category_ids"], [True]), "image 7: neg_category_ids has .* True"),
    "category beyond 64 bits": (change(["categories", 0, "id"], 2**63), "category number 0: id must be an integer"),
    "RLE of broken size": (change(["annotations", 1, "segmentation", "size"], [8.5, 10]), "annotation 12: RLE size"),
    "infinite box": (change([*ANNOTATION, "bbox", 2], float("inf")), "annotation 11: bbox"),
    "negative box": (change([*ANNOTATION, "bbox", 2], -1), "annotation 11: bbox"),
    "short box": (change([*ANNOTATION, "bbox"], [1, 2, 3]), "annotation 11: bbox"),
    "NaN area": (change([*ANNOTATION, "area"], float("nan")), "annotation 11: area"),
    "crowd 2": (change([*ANNOTATION, "iscrowd"], 2), "annotation 11: iscrowd"),
    "negative unknown": (change(["images", 0, "neg_category_ids"], [4]), "image 7: neg_category_ids has .* 4"),
    "negative no list": (change(["images", 0, "neg_category_ids"], "90"), "image 7: neg_category_ids must be a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content(write, name):
    data = copy.deepcopy(content())
    apply, message = BAD[name]
    apply(data)
    path = write(data)
    with pytest.raises(InputError, match=message) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("", "not JSON"), ("{", "not JSON"), ("[]", "must be an object")])
def test_bad_files(write, text, message):
    with pytest.raises(InputError, match=message):
        read_annotations(write(text))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_annotations(str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match="got a folder"):
        read_annotations(str(tmp_path))


def test_same_categories(write):
    first = read_annotations(write(content()))
    files = ("a.json", "b.json")
    validate_same_categories(first, first.subset([0]), files=files)
    value = content()
    value["categories"][2]["name"] = "bat"
    message = (
        r"^b\.json: categories must be those of a\.json, got 'bat' in place of 'owl' for id 5\. 1 of 3 categories of "
    )
    with pytest.raises(InputError, match=message + r"b\.json and 1 of 3 of a\.json have no partner"):
        validate_same_categories(first, read_annotations(write(value)), files=files)
    value["categories"].pop(2)
    with pytest.raises(InputError, match="got 'none' in place of 'owl' for id 5"):
        validate_same_categories(first, read_annotations(write(value)), files=files)


@pytest.mark.parametrize(
    ("folder", "name", "num_images", "num_annotations", "num_crowd", "num_classes"),
    [
        ("lvis_reference", "lvis_val_100.json", 100, 977, 0, 1230),
        ("coco_dev_320", "instances.json", 343, 2973, 29, 80),
        ("external_detector", "instances.json", 343, 2974, 29, 80),
        ("eval_reference", "instances_val2014_100.json", 100, 839, 9, 80),
    ],
)
def test_real_files(shared_data, folder, name, num_images, num_annotations, num_crowd, num_classes):
    path = shared_data(folder) / name
    annotated = read_annotations(str(path))
    raw = json.loads(path.read_text())
    assert annotated.is_federated == (folder == "lvis_reference")
    assert (len(annotated), annotated.num_classes) == (num_images, num_classes)
    truths = [annotated.ground_truth(row) for row in range(len(annotated))]
    assert sum(len(truth) for truth in truths) == num_annotations
    assert sum(int(truth.is_crowd.sum()) for truth in truths) == num_crowd
    by_id = {one["id"]: one for one in annotated.to_json()["annotations"]}
    assert by_id == {one["id"]: one for one in raw["annotations"]}
    for row, image in list(enumerate(raw["images"]))[::9]:
        record = annotated.images[row]
        assert (record.image_id, record.file_name) == (image["id"], image["file_name"])
        negative = {int(annotated.category_ids[index]) for index in record.negative_classes}
        assert negative == set(image.get("neg_category_ids", []))


def test_masks_as_pycocotools_reads_them(shared_data):
    path = str(shared_data("coco_dev_320") / "instances.json")
    annotated, reference = read_annotations(path), COCO(path)
    for row, image in list(enumerate(annotated.images))[::12]:
        truth = annotated.ground_truth(row)
        expected = [reference.annToMask(one) for one in reference.imgToAnns[image.image_id]]
        found = decode_masks(truth.masks, truth.image_size_hw)
        assert len(found) == len(expected)
        for mask_HW, expected_HW in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mask_HW, expected_HW)


@pytest.mark.parametrize(
    ("root", "image"),
    [
        ("images", {"file_name": "../secret.jpg"}),
        ("images", {"file_name": "a/../../secret.jpg"}),
        ("images", {"file_name": "/etc/passwd"}),
        ("images", {"file_name": "../x.tar#a.jpg"}),
        ("images", {"file_name": "", "coco_url": "http://images.org/../secret.jpg"}),
        ("s3://bucket/images", {"file_name": "../other/a.jpg"}),
        ("s3://bucket/images", {"file_name": "a.jpg?endpoint_override=evil.org"}),
    ],
)
def test_file_names_stay_below_the_images(write, tmp_path, root, image):
    (tmp_path / "images").mkdir()
    root = root if "://" in root else str(tmp_path / root)
    value = content()
    value["images"][0] |= image
    with pytest.raises(InputError, match=f"set.json: image 7: must lie below {root}, got "):
        read_annotations(write(value), root)
    if "coco_url" not in image:
        assert len(read_annotations(write(value))) == 2, "without a root, nobody reads the images"


def test_one_image_with_verified_classes_makes_a_set_federated(write):
    """LVIS files leave the lists out where they are empty."""
    one_sided = content()
    one_sided["images"][1]["neg_category_ids"] = [5]
    assert read_annotations(write(one_sided)).is_federated


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("value", [-1e9, 1e9])
def test_a_point_far_outside_of_the_image_is_refused_on_every_side(write, place, value):
    """It would take memory without bound to draw the polygon."""
    changed = content()
    polygon = [1.0, 1, 5, 1, 5, 5, 1, 5]
    polygon[place] = value
    changed["annotations"][0]["segmentation"] = [polygon]
    with pytest.raises(InputError, match="annotation 11: a polygon lies far outside its image"):
        read_annotations(write(changed))


def test_a_polygon_may_leave_its_image_by_ten_of_its_longer_sides(write):
    """The image is 8 pixels high and 10 wide."""
    for far, is_refused in ((100, False), (101, True), (-100, False), (-101, True)):
        changed = content()
        changed["annotations"][2] |= {"segmentation": [[1, 1, 5, 1, 5, far]]}
        if is_refused:
            with pytest.raises(InputError, match="annotation 13: a polygon lies far outside its image"):
                read_annotations(write(changed))
        else:
            read_annotations(write(changed))


@pytest.mark.parametrize("place", [2, 3])
def test_a_box_of_negative_size_is_refused(write, place):
    changed = content()
    changed["annotations"][0]["bbox"][place] = -1
    with pytest.raises(InputError, match="annotation 11: bbox must be 4 finite numbers"):
        read_annotations(write(changed))
