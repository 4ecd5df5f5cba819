"""The state of each stage, told from the fingerprints in the run folder. Nothing is run."""

from collections.abc import Mapping

from raylabel.config import Config
from raylabel.files.digests import digest
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder, StageSpec, stage_folder, stage_spec
from raylabel.run.rounds import ROUND_STAGES, further_rounds, round_config, round_run
from raylabel.run.stage import finished, holds
from raylabel.stages.modules import stage_module

FINISHED = "finished"
NEW = "would run"
AGAIN = "would run again: settings or data have changed"
LATER = "finished; {about}"

_LAST_OF_ROUND = ROUND_STAGES[-1]


def stage_states(config: Config, run: RunFolder, data: RunData) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Tell the state of every stage, and of the stages of every further round by the round's number.

    A state is FINISHED, NEW, AGAIN, or LATER with the stage's `later_about`. A stage counts as changed if a stage that
    it needs would change. The pool is the one that the run has listed.
    """
    states: dict[str, str] = {}
    rounds: dict[int, dict[str, str]] = {}
    seen: dict[str, str] = {}
    for spec in STAGES:
        states[spec.name] = seen[spec.name] = _state(spec, seen, config, run, data)
        if spec.name == _LAST_OF_ROUND:
            rounds = _round_states(seen[spec.name], config, run, data)
            for of_round in rounds.values():
                seen[spec.name] = of_round[spec.name]  # because later stages depend on the last round
    return states, rounds


def _round_states(distilled: str, config: Config, run: RunFolder, data: RunData) -> dict[int, dict[str, str]]:
    rounds: dict[int, dict[str, str]] = {}
    for number, one in further_rounds(config, run).items():
        seen = {"teacher": _adopted(distilled, round_run(run, number - 1), one)}
        for name in ROUND_STAGES:
            seen[name] = _state(stage_spec(name), seen, round_config(config), one, data)
        distilled = seen[_LAST_OF_ROUND]
        rounds[number] = {name: seen[name] for name in ROUND_STAGES}
    return rounds


def _state(spec: StageSpec, states: Mapping[str, str], config: Config, run: RunFolder, data: RunData) -> str:
    artifact, module = run.artifact(spec.folder), stage_module(spec.name)
    if artifact is None:
        return NEW
    if any(states[name] != FINISHED for name in spec.needs):
        return AGAIN
    if digest(module.inputs(config, run, data)) != artifact["fingerprint"]:
        return AGAIN
    # Later settings can't be compared before the stages that they read are finished.
    is_known = all(states[name] == FINISHED for name in spec.later_needs)
    if is_known and holds(artifact, module.later(config, run)):
        return FINISHED
    return LATER.format(about=spec.later_about)


def _adopted(distilled: str, previous: RunFolder, run: RunFolder) -> str:
    """Return the state of a round's teacher, the student of the round before."""
    artifact = run.artifact(stage_folder("teacher"))
    if artifact is None:
        return NEW
    is_same = distilled == FINISHED and artifact["inputs"]["student"] == finished(previous, "distill")["fingerprint"]
    return FINISHED if is_same else AGAIN
