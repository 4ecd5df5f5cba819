"""The figures of the evaluation as text."""

from raylabel.report.console import format_metrics


def test_metrics_as_text_show_every_arm_and_absent_figures() -> None:
    figures = {"AP": 0.251, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    text = format_metrics({"validation": {"teacher": figures, "student": {**figures, "AP": 0.3}}, "pool": None})
    assert "teacher                     25.1    40.0       –    20.0    30.0" in text
    assert "student                     30.0" in text


def test_differences_are_shown_with_intervals() -> None:
    figures = {"AP": 0.25, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    metrics = {
        "validation": {"supervised": figures, "student": figures},
        "validation_differences": {
            "from": "supervised",
            "models": {"student": {"AP": {"value": 0.031, "half_width": 0.012}}},
        },
        "pool": None,
    }
    lines = format_metrics(metrics).splitlines()
    assert lines[-2].startswith("minus supervised, 95% interval")
    assert lines[-1].split() == ["student", "+3.1", "±", "1.2", "–"]
