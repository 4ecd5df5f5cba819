"""The distillation benchmark measures what `raylabel run` does."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from raylabel.files.json_files import read_json
from runs import finish, start

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1])
def test_the_command_reaches_the_benchmarks_figures(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best recipe on a small world, once by the benchmark and once by `raylabel run` with the same options."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from distillation_recipes import BEST, RECIPES, config_text, recipe_options, run_recipe
    from distillation_world import Size, World

    size = Size(image_size=64, num_pool=80, num_validation=40, warmup_steps=10, teacher_steps=100, student_steps=15)
    world = World(folder=tmp_path / "world", kind="mixed", seed=seed, num_labelled=80, size=size)
    world.ensure()
    recipe = RECIPES[BEST]
    ours = run_recipe(world, recipe, tmp_path / "by the benchmark")

    config = tmp_path / "config.yaml"
    config.write_text(config_text(world, recipe))
    options = [word for name, value in recipe_options(world, recipe).items() for word in (f"--{name}", value)]
    finish(start("run", str(config), "--out", str(tmp_path / "run"), *options))
    theirs = read_json(str(tmp_path / "run" / "evaluation" / "metrics.json"))

    assert set(ours["validation"]) == set(theirs["validation"]) >= {"teacher", "student"}
    assert ours["learnt_from"] == theirs["learnt_from"]
    for model, figures in ours["validation"].items():
        assert within(figures, theirs["validation"][model], ours["validation_half_widths"][model])


def within(ours: Mapping[str, float], theirs: Mapping[str, float], half_widths: Mapping[str, float]) -> bool:
    """Whether AP and APr differ by at most the half width of a 95% interval, about two standard errors."""
    return all(abs(ours[name] - theirs[name]) <= max(half_widths[name], 1e-4) for name in ("AP", "APr"))
