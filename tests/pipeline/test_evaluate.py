"""Results rows of objects that may be of several classes."""

import numpy as np
import pytest

from raylabel.masks import encode_masks
from raylabel.pipeline import evaluate
from raylabel.pipeline.evaluate import format_metrics, rows_of_image


def test_an_object_has_a_row_for_each_class_that_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = encode_masks(np.ones((2, 4, 4), bool))
    soft_vectors = np.array([[0.6, 0.3, 0.005, 0.095], [0.0, 0.2, 0.1, 0.7]])
    ids = np.array([10, 20, 30])
    rows = rows_of_image(5, masks, soft_vectors, ids)
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (5, 10, 0.6),
        (5, 20, 0.3),
        (5, 20, 0.2),
        (5, 30, 0.1),
    ]
    monkeypatch.setattr(evaluate, "EVALUATION_MAX_ROWS", 2)
    assert [row["score"] for row in rows_of_image(5, masks, soft_vectors, ids)] == [0.6, 0.3]
    assert rows_of_image(5, [], np.zeros((0, 4)), ids) == []


def test_metrics_as_text_show_every_arm_and_absent_figures() -> None:
    figures = {"AP": 0.251, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    text = format_metrics({"validation": {"teacher": figures, "student": {**figures, "AP": 0.3}}, "pool": None})
    assert "teacher                     25.1    40.0       –    20.0    30.0" in text
    assert "student                     30.0" in text
