"""The module of each stage, loaded by its name when it is needed, because torch takes seconds to load."""

import importlib
from typing import Any, Protocol, cast

from raylabel.config import Config
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder


class StageModule(Protocol):
    """The functions that every stage module `raylabel.stages.<name>` has."""

    def inputs(self, config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
        """Return everything that the stage's outcome depends on: its fingerprint is their digest."""
        ...

    def later(self, config: Config, run: RunFolder) -> dict[str, Any]:
        """Return the settings that act on a finished stage without running it again, as its artifact records them."""
        ...

    def run_stage(self, config: Config, run: RunFolder, **options: bool) -> dict[str, Any]:
        """Run the stage, or skip it, or apply its later settings only. Returns the artifact."""
        ...


def stage_module(name: str) -> StageModule:
    """Load the module of a stage."""
    return cast(StageModule, importlib.import_module(f"raylabel.stages.{name}"))
