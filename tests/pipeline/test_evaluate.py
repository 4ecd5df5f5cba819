"""The evaluation as text."""

from raylabel.pipeline.evaluate import format_metrics


def test_metrics_as_text_show_every_arm_and_absent_figures() -> None:
    figures = {"AP": 0.251, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    text = format_metrics({"validation": {"teacher": figures, "student": {**figures, "AP": 0.3}}, "pool": None})
    assert "teacher                     25.1    40.0       –    20.0    30.0" in text
    assert "student                     30.0" in text
