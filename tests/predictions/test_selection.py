"""Every dropped prediction has one counted reason."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.config import SelectionConfig
from raylabel.predictions.selection import Selection, select

GROUPS = np.array(["r", "c", "f"])


def run(config: SelectionConfig, scores: list[float], **columns: list[float]) -> Selection:
    num = len(scores)
    return select(
        calibrated_scores=np.array(scores, dtype=np.float32),
        class_indices=np.array(columns.get("classes", [0] * num), dtype=np.int32),
        mask_quality=np.array(columns.get("quality", [1.0] * num), dtype=np.float32),
        mask_areas=np.array(columns.get("areas", [50] * num), dtype=np.int32),
        config=config,
        frequency_groups=GROUPS,
    )


def test_each_reason() -> None:
    config = SelectionConfig(min_score=0.5, min_mask_quality=0.6, min_area=10, max_per_image=2)
    found = run(
        config,
        [0.4, 0.9, 0.9, 0.6, 0.8, 0.7],
        quality=[0.1, 0.5, 0.9, 0.9, 0.9, 0.9],
        areas=[5, 50, 9, 50, 50, 50],
    )
    assert found.keep.tolist() == [False, False, False, False, True, True]
    assert found.dropped == {"score": 1, "mask_quality": 1, "area": 1, "max_per_image": 1}


def test_a_value_at_its_threshold_is_kept() -> None:
    config = SelectionConfig(min_score=0.7, min_mask_quality=0.9, min_area=50)
    assert run(config, [0.7], quality=[0.9]).keep.tolist() == [True]


def test_thresholds_by_group() -> None:
    config = SelectionConfig(min_score=0.5, min_score_by_group={"r": 0.2, "f": 0.8})
    found = run(config, [0.3, 0.3, 0.6, 0.6], classes=[0, 1, 1, 2])
    assert found.keep.tolist() == [True, False, True, False]
    assert found.dropped["score"] == 2


def test_equal_scores_keep_their_order() -> None:
    assert run(SelectionConfig(max_per_image=2), [0.6, 0.6, 0.6]).keep.tolist() == [True, True, False]


def test_no_prediction() -> None:
    found = run(SelectionConfig(), [])
    assert found.keep.shape == (0,)
    assert found.dropped == {"score": 0, "mask_quality": 0, "area": 0, "max_per_image": 0}


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0, 1), st.integers(1, 10))
def test_kept_and_dropped_sum_to_all(seed: int, num: int, min_score: float, max_per_image: int) -> None:
    rng = np.random.default_rng(seed)
    config = SelectionConfig(min_score=min_score, min_mask_quality=0.3, min_area=20, max_per_image=max_per_image)
    scores = rng.random(num).tolist()
    found = run(config, scores, quality=rng.random(num).tolist(), areas=rng.integers(0, 99, num).tolist())
    assert found.keep.sum() + sum(found.dropped.values()) == num
    assert found.keep.sum() <= max_per_image
    assert (np.array(scores, dtype=np.float32)[found.keep] >= np.float32(min_score)).all()


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), max_size=8), st.integers(1, 4))
def test_many_images_at_once_equal_one_by_one(seed: int, lengths: list[int], max_per_image: int) -> None:
    rng, num = np.random.default_rng(seed), sum(lengths)
    config = SelectionConfig(
        min_score=0.3, min_score_by_group={"c": 0.6}, min_mask_quality=0.2, min_area=9, max_per_image=max_per_image
    )
    columns = {
        "calibrated_scores": rng.choice([0.2, 0.5, 0.5, 0.9], num).astype(np.float32),
        "class_indices": rng.integers(0, 3, num).astype(np.int32),
        "mask_quality": rng.random(num).astype(np.float32),
        "mask_areas": rng.integers(0, 60, num).astype(np.int32),
    }
    whole = select(**columns, config=config, frequency_groups=GROUPS, image_lengths=np.array(lengths, dtype=np.int64))
    ends = np.cumsum(lengths, dtype=int)
    each = [
        select(
            **{name: values[end - length : end] for name, values in columns.items()},
            config=config,
            frequency_groups=GROUPS,
        )
        for end, length in zip(ends, lengths, strict=True)
    ]
    assert whole.keep.tolist() == [kept for one in each for kept in one.keep.tolist()]
    for reason, count in whole.dropped.items():
        assert count == sum(one.dropped[reason] for one in each)
