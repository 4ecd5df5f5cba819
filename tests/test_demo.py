"""The demo's settings equal those of its config file."""

from dataclasses import replace
from pathlib import Path

from raylabel.config import load_config
from raylabel.demo import demo_config

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_config_file_says_what_the_demo_does() -> None:
    from_file = load_config(REPOSITORY / "configs" / "demo.yaml")
    from_code = demo_config(REPOSITORY / "runs" / "generated", seed=0)
    assert replace(from_file, out=from_code.out) == from_code
