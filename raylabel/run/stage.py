"""The one path of every stage: skip it, resume it, set it aside, or apply its later settings only."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from raylabel.errors import InputError, ModelError
from raylabel.files.committing import commit_bytes
from raylabel.files.digests import digest
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.moving import move_folder, remove
from raylabel.files.reading import exists, list_files
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.lease import check_lease, hold_lease

Artifact = dict[str, Any]


def finished(run: RunFolder, stage: str) -> Artifact:
    """Return the artifact of a stage that must be finished.

    Raises:
        InputError: the stage is not finished.
    """
    artifact = run.artifact(stage_folder(stage))
    if artifact is None:
        raise InputError(f"{run.path(stage_folder(stage), 'artifact.json')}: no such file. Run {stage} first.")
    return artifact


def holds(artifact: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether an artifact was made with these later settings. Mappings are compared key by key, at every depth."""
    return all(
        holds(artifact[name], value)
        if isinstance(value, Mapping) and isinstance(artifact.get(name), Mapping)
        else artifact.get(name) == value
        for name, value in later.items()
    )


def execute_stage(
    run: RunFolder,
    stage: str,
    inputs: Mapping[str, Any],
    work: Callable[[], Artifact],
    *,
    later: Callable[[], Mapping[str, Any]] = dict,
    apply_later: Callable[[Artifact], Artifact] = lambda artifact: artifact,
    is_complete: Callable[[Artifact], bool] = lambda artifact: True,
) -> Artifact:
    """Run a stage unless it is finished, commit its artifact last, and apply its later settings if they changed.

    The fingerprint of `inputs` decides. A finished stage with the same fingerprint is skipped. An interrupted stage
    resumes in its folder. A folder that other inputs made is moved to `superseded/`.

    Args:
        run: the run folder.
        stage: the name of one of STAGES.
        inputs: everything that the outcome depends on, as JSON-able values: settings, digests of files, fingerprints of
            earlier stages.
        work: does the stage's work and returns the artifact's content beside the common fields.
        later: returns the artifact's entries about its later settings. Called after the work.
        apply_later: brings a finished stage up to its later settings without running it again. It commits the artifact.
        is_complete: whether a finished stage with the same fingerprint has nothing left to do. If it has, its artifact
            is removed and the stage resumes like an interrupted one.

    Raises:
        InputError: another driver is at work on the run.
    """
    with hold_lease(run) as driver_id:
        artifact = _execute(run, stage, inputs, work, is_complete, driver_id)
        return artifact if holds(artifact, later()) else apply_later(artifact)


def _execute(
    run: RunFolder,
    stage: str,
    inputs: Mapping[str, Any],
    work: Callable[[], Artifact],
    is_complete: Callable[[Artifact], bool],
    driver_id: str,
) -> Artifact:
    folder, fingerprint, title = stage_folder(stage), digest(inputs), run.title(stage)
    artifact = run.artifact(folder)
    if artifact is not None and artifact["fingerprint"] == fingerprint:
        if is_complete(artifact):
            print(f"{title}: finished before, skipped", flush=True)
            return artifact
        remove(run.path(folder, "artifact.json"))
    started_uri = run.path(folder, "started.json")
    started = read_json_object(started_uri) if exists(started_uri) else None
    if started is not None and started["fingerprint"] != fingerprint:
        aside = run.path("superseded", f"{folder}-{started['fingerprint'][:8]}-{int(time.time())}")
        print(f"{title}: made before with other settings or data; moved to {redacted(aside)}", flush=True)
        move_folder(run.path(folder), aside)
        started = None
    elif started is None and list_files(run.path(folder)):
        move_folder(run.path(folder), run.path("superseded", f"{folder}-unknown-{int(time.time())}"))
    if started is None:
        commit_json(started_uri, {"fingerprint": fingerprint, "inputs": inputs, "created": _now()})
    start = time.monotonic()
    traceback_uri = run.path(folder, "model-failure.txt")
    try:
        content = work()
    except ModelError as error:
        commit_bytes(traceback_uri, error.traceback.encode())
        raise InputError(f"{title}: {error} Traceback: {traceback_uri}") from None
    remove(traceback_uri)
    seconds = round(time.monotonic() - start, 2)
    artifact = {
        "stage": stage,
        "fingerprint": fingerprint,
        "inputs": dict(inputs),
        "created": _now(),
        "seconds": seconds,
        "versions": versions(),
        **content,
    }
    check_lease(run, driver_id)
    run.commit_artifact(folder, artifact)
    print(f"{title}: done in {seconds:.0f} s", flush=True)
    return artifact


def versions() -> dict[str, str]:
    """Versions of what the outcome of a stage can depend on."""
    packages = ("raylabel", "torch", "torchvision", "ray", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
