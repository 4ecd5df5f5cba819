"""The files of a trained model: weights, classes, corrector and selection, found from a run or a model's folder."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raylabel.calibration import Corrector
from raylabel.config import Config, DataConfig, SelectionConfig
from raylabel.errors import InputError
from raylabel.files.paths import split
from raylabel.models.description import DESCRIPTION_FILE
from raylabel.run.calibration import load_corrector
from raylabel.run.classes import RunClasses, has_classes, load_classes
from raylabel.run.folder import RunFolder, is_run, load_run_config, run_folder
from raylabel.run.models import BASELINE, STUDENT, TEACHER, has_model, num_model_classes
from raylabel.run.rounds import baseline_calibration, is_calibrated, is_fitted_to, round_run, student_correctors

_ELSEWHERE = "-"
"""Place of data that a model without a run does not know, and that nothing reads."""


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A saved model with all that its predictions need.

    Attributes:
        uri: folder of the saved model.
        classes: the classes in the order of their index.
        config: the config of the model's run, or the defaults if the run is not known.
        corrector: map from raw to calibrated scores. None leaves the scores raw.
        selection: which predictions are kept.
        remarks: one sentence for each file that is missing, and what that means.
    """

    uri: str
    classes: RunClasses
    config: Config
    corrector: Corrector | None
    selection: SelectionConfig
    remarks: tuple[str, ...]

    def selecting(self, min_score: float | None) -> SelectionConfig:
        """Return the selection with another smallest score for all classes. None leaves it as it is.

        Raises:
            InputError: the score is not in [0, 1].
        """
        if min_score is None:
            return self.selection
        if not 0 <= min_score <= 1:
            raise InputError(f"min_score must be in [0, 1], got {min_score}")
        return replace(self.selection, min_score=min_score, min_score_by_group={})

    @property
    def raw(self) -> "ModelFolder":
        """The same model with raw scores. Thresholds of calibrated scores do not apply, so every prediction is kept."""
        return replace(self, corrector=None, selection=_everything(self.config))


def find_model(model: str | Path | RunFolder, *, teacher: bool = False, raw: bool = False) -> ModelFolder:
    """Find a trained model.

    Args:
        model: a run, whose last student is taken, or the folder of a saved model. A path, a URI or a Run.
        teacher: take a run's teacher, not its student.
        raw: leave the scores raw, and keep every prediction.

    Raises:
        InputError: there is no such model, or its files are damaged.
    """
    folder = run_folder(model)
    if is_run(folder):
        outer, number = _round_of(folder)
        number = number or load_run_config(outer).student.rounds
        place = _Place(folder, TEACHER, folder) if teacher else _student(outer, number)
        if not has_model(place.run, place.folder):
            wanted, remedy = ("teacher", "teacher") if teacher else ("student", "distill first, or give --teacher")
            raise InputError(f"{folder.uri}: the run has no {wanted} yet. Run {remedy}.")
    elif not has_model(folder, ""):
        raise InputError(f"{folder.uri}: neither a run (config.yaml) nor a saved model ({DESCRIPTION_FILE})")
    elif teacher:
        raise InputError(f"{folder.uri}: this is a model's folder. A teacher is chosen from a run.")
    else:
        found = _place_of(folder)
        if found is None:
            return _without_run(folder)
        place = found
    named = _of_run(place)
    return replace(named.raw, remarks=()) if raw else named


@dataclass(frozen=True)
class _Place:
    """A model's run, its folder there, and the run whose corrector belongs to the model, if there is one."""

    run: RunFolder
    folder: str
    calibrated: RunFolder | None


def _round_of(run: RunFolder) -> tuple[RunFolder, int]:
    """Return the whole run and the number of a round. The number is 0 for a run that is no further round."""
    folder, name = split(run.uri)
    outer = RunFolder(folder)
    if (found := re.fullmatch(r"round-(\d+)", name)) and is_run(outer):
        return outer, int(found[1])
    return run, 0


def _student(outer: RunFolder, number: int) -> _Place:
    calibrated = student_correctors(load_run_config(outer), outer).get(number)
    return _Place(round_run(outer, number), STUDENT, calibrated)


def _place_of(folder: RunFolder) -> _Place | None:
    """Return the place of a model's folder in its run, None if the folder lies in no run."""
    parent, name = split(folder.uri)
    run = RunFolder(parent)
    if is_run(run):
        if name == TEACHER:
            return _Place(run, TEACHER, run)
        if name == STUDENT:
            outer, number = _round_of(run)
            return _student(outer, number or 1)
    if folder.uri.endswith(f"/{BASELINE}") and is_run(run := RunFolder(split(parent)[0])):
        return _Place(run, BASELINE, baseline_calibration(run))
    return None


def _of_run(place: _Place) -> ModelFolder:
    config = load_run_config(place.run)
    corrector, remarks = _corrector(place)
    return ModelFolder(
        uri=place.run.path(place.folder),
        classes=load_classes(place.run),
        config=config,
        corrector=corrector,
        selection=config.selection if corrector else _everything(config),
        remarks=remarks,
    )


def _corrector(place: _Place) -> tuple[Corrector | None, tuple[str, ...]]:
    calibrated, is_teacher = place.calibrated, place.folder == TEACHER
    stage = "calibrate" if is_teacher else "evaluate"
    if calibrated is None or not is_calibrated(calibrated):
        return None, (f"no corrector: scores are raw and all predictions kept. Run {stage}, which fits one.",)
    if not is_fitted_to(calibrated, place.run, is_teacher=is_teacher):
        reason = "no corrector: the model was trained again after its corrector was fitted"
        return None, (f"{reason}, so scores are raw and all predictions kept. Run {stage} again.",)
    return load_corrector(calibrated), ()


def _without_run(folder: RunFolder) -> ModelFolder:
    """Return a saved model that lies in no run, such as a copy."""
    remarks = ["no run around the model, so no corrector and no selection: scores are raw and all predictions kept."]
    if has_classes(folder):
        classes = load_classes(folder)
    else:
        num = num_model_classes(folder, "")
        classes = _numbered_classes(num)
        remarks.append(f"no classes.json: the {num} classes are named by their index.")
    data = DataConfig(
        labelled=_ELSEWHERE, images=_ELSEWHERE, calibration=_ELSEWHERE, validation=_ELSEWHERE, pool=_ELSEWHERE
    )
    config = Config(data=data)
    return ModelFolder(
        uri=folder.uri,
        classes=classes,
        config=config,
        corrector=None,
        selection=_everything(config),
        remarks=tuple(remarks),
    )


def _numbered_classes(num: int) -> RunClasses:
    return RunClasses(
        category_ids=np.arange(num),
        names=tuple(f"class {index}" for index in range(num)),
        frequency_groups=np.full(num, "f"),
        num_train_images=np.zeros(num, np.int64),
        is_federated=False,
    )


def _everything(config: Config) -> SelectionConfig:
    """Return the selection that keeps all predictions."""
    return SelectionConfig(min_score=0.0, min_area=0, max_per_image=config.label.max_per_image)
