"""Stage 5: train the student on labelled images and soft corrected pseudo-labels, and its supervised baseline."""

from functools import partial
from typing import Any

from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.config import Config, config_dict
from raylabel.errors import InputError
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.model_card import commit_cards
from raylabel.run.models import BASELINE
from raylabel.run.rounds import ROUND_STAGES, adopt_student, further_rounds, round_config, round_run
from raylabel.run.stage import execute_stage, finished
from raylabel.stages.run import run_one
from raylabel.stages.training_jobs import describe_model, ensure_pool_index, student_job, training_inputs

FOLDER = stage_folder("distill")


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    labels = finished(run, "label")
    return {
        "teacher": finished(run, "teacher")["fingerprint"],
        "labels": labels["fingerprint"],
        "pool": labels["pool_digest"],
        "corrector": labels["corrector_digest"],
        "selection": labels["selection_settings"],
        "labelled": data.labelled_digest,
        "training": training_inputs(config.student),
        "seed": config.seed,
        **({"in_validation": left_out} if (left_out := labels.get("in_validation_digest")) else {}),
        **({"calibration": data.part_digest("calibration")} if config.student_learns_calibration else {}),
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return nothing: every setting of this stage makes it run again."""
    return {}


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Train the student and, for comparison, the supervised baseline. Then run the further rounds.

    Raises:
        InputError: the pool is not labelled yet, or selection kept no prediction.
    """
    data, labels = RunData(config, run), finished(run, "label")
    made_of = inputs(config, run, data)

    def training(folder: str, role: str, *, with_pool: bool) -> Training:
        return Training(
            build=partial(student_job, config_dict(config), run, with_pool),
            folder=folder,
            num_steps=config.student.steps,
            identity=[made_of, role],
            description=describe_model(config.student, role),
        )

    def work() -> dict[str, Any]:
        data.open_splits()
        index = ensure_pool_index(config, run)
        if not index.num_kept:
            lower = (
                f"selection.min_score ({config.selection.min_score:g})"
                if config.student.select_by == "score"
                else f"student.min_foreground ({config.student.min_foreground:g})"
            )
            raise InputError(
                f"distill: selection kept none of {labels['num_instances']} predictions. "
                f"Lower {lower} or train the teacher longer."
            )
        trainings = [training(FOLDER, "student", with_pool=True)]
        if config.student.supervised_baseline:
            trainings.append(training(BASELINE, "supervised", with_pool=False))
        train_on_ray(
            trainings,
            run=run,
            folder=FOLDER,
            settings=config.student,
            label=" and ".join(training.description["role"] for training in trainings),
        )
        return {
            "steps": config.student.steps,
            "images_per_step": config.student.labelled_per_batch + config.student.unlabelled_per_batch,
            "num_labelled_images": len(data.student_labelled),
            "num_calibration_images": len(data.student_labelled) - len(data.labelled),
            "num_pool_images": index.num_images,
            "num_pool_instances": index.num_kept,
        }

    artifact = execute_stage(run, "distill", made_of, work)
    _run_further_rounds(config, run)
    commit_cards(config, run)
    return artifact


def _run_further_rounds(config: Config, run: RunFolder) -> None:
    for number, this in further_rounds(config, run).items():
        print(f"round {number}: the student of round {number - 1} is its teacher", flush=True)
        adopt_student(round_run(run, number - 1), this, has_seen=config.student_has_seen_all)
        for stage in ROUND_STAGES:
            run_one(stage, round_config(config), this)
