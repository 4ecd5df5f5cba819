"""Frequency groups follow LVIS's thresholds, and their values stay plain letters."""

import json

import numpy as np

from raylabel.dataset.frequency import FrequencyGroup, frequency_groups, group_title


def test_groups_change_after_10_and_after_100_training_images() -> None:
    groups = frequency_groups(np.array([0, 1, 10, 11, 100, 101]))
    assert groups.dtype == np.dtype("<U1")
    assert groups.tolist() == ["r", "r", "r", "c", "c", "f"]


def test_a_group_equals_its_letter_in_arrays_and_json() -> None:
    assert (np.array(["r", "c", "f"]) == FrequencyGroup.COMMON).tolist() == [False, True, False]
    assert json.dumps(dict.fromkeys(FrequencyGroup, 0)) == '{"r": 0, "c": 0, "f": 0}'


def test_titles_name_groups_and_leave_other_names() -> None:
    assert [group_title(name) for name in ("all", "r", "c", "f")] == ["all", "rare", "common", "frequent"]
