"""The public face: its names, its lazy loading, and the examples in its docstrings."""

import ast
import doctest
import inspect
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raylabel as rl

NAMES = {
    *("load_config", "Config", "check", "run_pipeline", "status", "Run", "export_labels"),
    *("read_annotations", "read_detections", "Detections", "FitContext", "fit_corrector", "Corrector"),
    *("ReliabilityBins", "ccece", "calibrate_results", "correct_results", "evaluate_results"),
    *("Segmenter", "Target", "Instances", "LOSS_TERMS", "encode_masks", "mask_boxes", "check_segmenter", "InputError"),
    "load_model",
}
OF_A_RUN = ("Run", "check", "run_pipeline", "status", "export_labels", "load_model")
"""Names whose examples read a finished run."""

HEAVY = ("torch", "ray", "scipy", "lightgbm", "pyarrow", "pydantic", "numpy")


def test_the_names_are_these() -> None:
    assert set(rl.__all__) == NAMES
    assert len(rl.__all__) == len(NAMES) == 27
    assert set(dir(rl)) == NAMES | {"__version__"}


def test_every_name_is_there() -> None:
    for name in rl.__all__:
        assert getattr(rl, name) is not None
    assert rl.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rl.nothing  # noqa: B018  # looking the name up is the test


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers and the table of homes agree."""
    source = Path(inspect.getsourcefile(rl) or "").read_text()
    [guard] = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    seen = {
        (one.asname or one.name): f"{node.module}:{one.name}"
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    }
    homes = {name: f"raylabel.{home}" if ":" in home else f"raylabel.{home}:{name}" for name, home in rl._HOMES.items()}
    assert seen == homes


def test_the_import_is_light() -> None:
    """Few modules, no heavy library and no module of the project are loaded before a name is used."""
    script = "import sys; before = set(sys.modules); import raylabel; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "raylabel" in loaded
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("raylabel.")]
    assert len(loaded) < 30  # because a count does not depend on the machine, as a time would; 6 with Python 3.11


def examples(name: str) -> list[doctest.DocTest]:
    """Examples in the docstring of a public name; a constant's docstring is the string below it."""
    if name == "LOSS_TERMS":
        return [doctest.DocTestParser().get_doctest(constant_docstring("models/segmenter.py", name), {}, name, None, 0)]
    found = doctest.DocTestFinder(recurse=True).find(getattr(rl, name), name, globs={})
    return [one for one in found if one.examples]


def constant_docstring(file: str, name: str) -> str:
    body = ast.parse((Path(rl.__file__).parent / file).read_text()).body
    for node, below in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return ast.literal_eval(below.value)
    raise AssertionError(f"{file} has no {name}")


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if name not in OF_A_RUN])
def test_examples_run(name: str) -> None:
    run_examples(name, {})


@pytest.mark.ray
@pytest.mark.parametrize("name", OF_A_RUN)
def test_examples_of_a_run_run(name: str, finished_run: Any) -> None:
    config, run, _ = finished_run
    run_examples(name, {"config": config, "run": run.uri})


class _WithoutWarnings(doctest.OutputChecker):
    """Leaves out warnings, because the tests' runs have very few steps."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        lines = [line for line in got.splitlines(keepends=True) if not line.startswith("WARNING: ")]
        return super().check_output(want, "".join(lines), optionflags)


def run_examples(name: str, names: dict[str, Any]) -> None:
    found = examples(name)
    assert found, f"rl.{name} has no example in its docstring"
    runner = doctest.DocTestRunner(_WithoutWarnings(), optionflags=doctest.NORMALIZE_WHITESPACE)
    printed: list[str] = []
    for one in found:
        one.globs = dict(names)  # an example needs nothing beyond what it shows
        runner.run(one, out=printed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(printed)
