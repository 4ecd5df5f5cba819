"""What `run` would do with each stage, told from the fingerprints in a run folder without doing any of it."""

from collections.abc import Mapping
from typing import Any

from raylabel.config import Config, config_dict
from raylabel.files.storage import digest
from raylabel.run.calibration import fit_settings
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder, stage_folder
from raylabel.run.rounds import ROUND_STAGES, further_rounds, round_config, round_run
from raylabel.run.stage import finished
from raylabel.stages import calibrate, distill, evaluate, label, prototypes, report, teacher

FINISHED = "finished"
NEW = "would run"
AGAIN = "would run again: settings or data have changed"
REFIT = "finished; the corrector would be fitted again"
RESELECT = "finished; the labels would be corrected and selected again"

MODULES: Mapping[str, Any] = {
    "prototypes": prototypes,
    "teacher": teacher,
    "calibrate": calibrate,
    "label": label,
    "distill": distill,
    "evaluate": evaluate,
    "report": report,
}
"""Stage -> module with its `stage_inputs(config, run, data)`, of which each uses what it needs."""

BEFORE: Mapping[str, tuple[str, ...]] = {
    "prototypes": (),
    "teacher": ("prototypes",),
    "calibrate": ("teacher",),
    "label": ("teacher",),
    "distill": ("calibrate", "label"),
    "evaluate": ("distill",),
    "report": ("evaluate",),
}
"""Stage -> stages that must be finished as they are for it to be so."""


def stage_states(config: Config, run: RunFolder, data: RunData) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """State of every stage, and of those of every further round by its number: FINISHED, NEW, AGAIN, REFIT, RESELECT.

    What follows a stage that would not be left as it is counts as changed. The pool is taken as the run has listed it.
    """
    states: dict[str, str] = {}
    for stage in STAGES[: STAGES.index("evaluate")]:
        states[stage] = _state(stage, states, config, run, data)
    rounds: dict[int, dict[str, str]] = {}
    distilled = states["distill"]
    for number, one in further_rounds(config, run).items():
        of_round = {"teacher": _adopted(distilled, round_run(run, number - 1), one)}
        for stage in ROUND_STAGES:
            of_round[stage] = _state(stage, of_round, round_config(config), one, data)
        distilled = of_round["distill"]
        rounds[number] = {stage: of_round[stage] for stage in ROUND_STAGES}
    for stage in STAGES[STAGES.index("evaluate") :]:
        states[stage] = _state(stage, states | {"distill": distilled}, config, run, data)
    return states, rounds


def _state(stage: str, states: Mapping[str, str], config: Config, run: RunFolder, data: RunData) -> str:
    artifact = run.artifact(stage_folder(stage))
    if artifact is None:
        return NEW
    if any(states[before] != FINISHED for before in BEFORE[stage]):
        return AGAIN
    if digest(MODULES[stage].stage_inputs(config, run, data)) != artifact["fingerprint"]:
        return AGAIN
    if stage == "calibrate" and artifact["settings"] != fit_settings(config):
        return REFIT
    if stage == "label" and (
        # An interruption behind the last shard leaves the artifact without the selection.
        states["calibrate"] != FINISHED or artifact.get("selection_settings") != config_dict(config.selection)
    ):
        return RESELECT
    return FINISHED


def _adopted(distilled: str, previous: RunFolder, run: RunFolder) -> str:
    """State of a round's teacher, which is the student of the round before."""
    artifact = run.artifact(stage_folder("teacher"))
    if artifact is None:
        return NEW
    is_same = distilled == FINISHED and artifact["inputs"]["student"] == finished(previous, "distill")["fingerprint"]
    return FINISHED if is_same else AGAIN
