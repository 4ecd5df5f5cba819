"""Stage 2: train the teacher with similarity-smoothed targets."""

from functools import partial
from typing import Any

from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.config import Config, config_dict
from raylabel.models.saved import save_segmenter
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.model_card import commit_cards
from raylabel.run.stage import execute_stage, finished
from raylabel.stages.training_jobs import describe_model, new_segmenter, teacher_job, training_inputs, warmup_steps

FOLDER = stage_folder("teacher")


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    smoothing = {name: getattr(config.smoothing, name) for name in ("kind", "eps_min", "eps_max", "tau")}
    return {
        "prototypes": finished(run, "prototypes")["fingerprint"],
        "labelled": data.labelled_digest,
        "smoothing": smoothing,
        "training": training_inputs(config.teacher),
        "seed": config.seed,
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return nothing: every setting of this stage makes it run again."""
    return {}


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Train the teacher. An interrupted training resumes from its last checkpoint.

    With `teacher.steps` 0 the teacher is given, and is only saved in the run.

    Raises:
        InputError: the prototypes are not computed yet, or the cluster is too small.
    """
    data = RunData(config, run)
    made_of = inputs(config, run, data)

    def work() -> dict[str, Any]:
        if config.teacher.steps == 0:
            given = new_segmenter(config.teacher, num_classes=data.labelled.num_classes, seed=config.seed)
            save_segmenter(given, run.path(FOLDER), describe_model(config.teacher, "teacher"))
            return {"steps": 0, "num_images": 0}
        data.open_splits()
        training = Training(
            build=partial(teacher_job, config_dict(config), run),
            folder=FOLDER,
            num_steps=config.teacher.steps - warmup_steps(config),
            identity=made_of,
            description=describe_model(config.teacher, "teacher"),
        )
        train_on_ray([training], run=run, folder=FOLDER, settings=config.teacher, label="teacher")
        return {"steps": config.teacher.steps, "num_images": len(data.labelled)}

    artifact = execute_stage(run, "teacher", made_of, work)
    commit_cards(config, run)
    return artifact
