"""One check of polygons and RLE: what passes is rasterised, what does not is one line."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.masks.rle import decode_masks, mask_areas
from raylabel.masks.segmentation import checked_segmentation, first_bad_runs, rle_from_segmentation, rle_size

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=12,
)


def test_polygons_are_merged():
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    rle = rle_from_segmentation([square, [6, 6, 9, 6, 9, 9, 6, 9]], (10, 12))
    mask_HW = decode_masks([rle], (10, 12))[0]
    assert mask_HW[1:4, 1:4].all()
    assert mask_HW[6:9, 6:9].all()
    assert mask_HW.sum() == 18


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "got 7 numbers"),
        ([3.0], "got 0 numbers"),
        ({"size": [5, 4], "counts": [20]}, "like its image"),
        ({"size": [4, 5], "counts": [19]}, "sum to 20"),
        ({"size": [4, 5], "counts": [-1, 21]}, "sum to 20"),
        ({"size": [4, 5], "counts": "d"}, "end within a run|sum to 20"),
        ({"size": [4, 5], "counts": ""}, "sum to 20"),
        ({"size": [4, 5], "counts": "é"}, "from 48 to 111"),
        ({"size": [4, 5], "counts": "\ud800"}, "from 48 to 111"),
        ({"size": [4, 5], "counts": [20.0]}, "sum to 20"),
        ({"size": [4, 5], "counts": [True, 19]}, "sum to 20"),
        ({"size": [4, 5], "counts": [10**400]}, "sum to 20"),
        ({"size": [4, 5]}, "must be a list or a string, got NoneType"),
        ({"size": [4.5, 5], "counts": [20]}, "like its image"),
        ({"size": [math.nan, 5], "counts": [20]}, "like its image"),
        ({"size": 4, "counts": [20]}, "like its image, got 4"),
        ({"counts": [20]}, "like its image, got None"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "far outside"),
        ([[0, 0, 4, 0, 4, -51]], "far outside"),
        ([[0, 0, math.nan, 0, 4, 4]], "not a finite number"),
        ([[0, 0, math.inf, 0, 4, 4]], "not a finite number"),
        ([[0, 0, 10**400, 0, 4, 4]], "not a finite number"),
        ([[0, 0, True, 0, 4, 4]], "not a finite number"),
        ([[0, 0, "4", 0, 4, 4]], "not a finite number"),
        ([[0, 0, [4], 0, 4, 4]], "not a finite number"),
        (None, "must be polygons or RLE"),
    ],
)
def test_bad_segmentations(segmentation, message):
    with pytest.raises(ValueError, match=message):
        rle_from_segmentation(segmentation, (4, 5))


def test_sizes_of_floats_are_whole_numbers():
    for counts in ([8, 4, 8], "8Nl0"):
        assert checked_segmentation({"size": [4.0, 5.0], "counts": counts}, (4, 5)) == {
            "size": [4, 5],
            "counts": counts,
        }
    rle = rle_from_segmentation({"size": [4.0, 5.0], "counts": [8, 4, 8]}, (4, 5))
    assert decode_masks([rle], (4, 5)).sum() == 4
    assert rle_size({"size": [4.0, 5]}) == (4, 5)
    for size in (None, 4, [4], [4, 5, 6], [4.5, 5], [0, 5], [True, 5], ["4", 5], [math.nan, 5], [2**16, 2**15]):
        assert rle_size({"size": size}) is None
    assert rle_size([[0, 0, 1, 0, 1, 1]]) is None


def test_an_outline_without_end_is_refused():
    """Every point is inside the image, but the outline would take 100 GB."""
    zigzag = [[value for step in range(50_000) for value in (step % 2 * 10_000, step % 7)]]
    with pytest.raises(ValueError, match="outline must be at most 10000000 pixels"):
        rle_from_segmentation(zigzag, (10_000, 10_000))
    long = [[value for step in range(2000) for value in (step % 2 * 1000, step / 2)]]
    assert mask_areas([rle_from_segmentation(long, (1000, 1000))])[0] > 0


def test_the_first_bad_runs_are_named_among_all_forms():
    sound = {"size": [4, 5], "counts": [20]}
    polygons = [[0, 0, 4, 0, 4, 4]]
    assert first_bad_runs([sound, polygons, {"size": [4, 5], "counts": "d0"}]) is None
    assert first_bad_runs([]) is None
    bad = first_bad_runs([polygons, sound, {"size": [4, 5], "counts": "1"}, {"size": [4, 5], "counts": ""}])
    assert bad is not None
    assert bad[0] == 2


@given(
    segmentation=JSON_VALUES
    | st.lists(
        st.lists(st.floats(-60, 60) | st.floats() | st.integers(), min_size=6, max_size=8), min_size=1, max_size=2
    )
    | st.fixed_dictionaries(
        {
            "size": st.just([4, 5]) | st.just([4.0, 5.0]) | JSON_VALUES,
            "counts": JSON_VALUES | st.text("0123456789:;NOl"),
        }
    )
)
@settings(max_examples=400)
def test_any_value_is_a_mask_or_one_line(segmentation):
    rle, line = value_or_line(lambda: rle_from_segmentation(segmentation, (4, 5)), ValueError)
    if line:
        return
    assert rle["size"] == [4, 5]
    assert decode_masks([rle], (4, 5)).sum() == mask_areas([rle])[0] <= 20
