"""What all stages share: skip what is finished, go on with what was interrupted, set aside what other settings made."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from raylabel.errors import InputError
from raylabel.files.storage import commit_json, digest, exists, list_files, move_folder, read_json, remove
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.lease import check_lease, hold_lease


def finished(run: RunFolder, stage: str) -> dict[str, Any]:
    """The artifact of a stage that must be there.

    Raises:
        InputError: the stage is not finished.
    """
    artifact = run.artifact(stage_folder(stage))
    if artifact is None:
        raise InputError(f"{run.path(stage_folder(stage), 'artifact.json')}: no such file; run {stage} first")
    return artifact


def execute_stage(
    run: RunFolder,
    stage: str,
    inputs: Mapping[str, Any],
    work: Callable[[], dict[str, Any]],
    *,
    is_complete: Callable[[dict[str, Any]], bool] = lambda artifact: True,
) -> dict[str, Any]:
    """Run a stage unless it is finished, and commit its artifact last.

    The fingerprint of `inputs` decides: a finished stage of the same fingerprint is skipped, an interrupted one goes
    on in its folder, and a folder that other inputs made is moved to `superseded/`.

    Args:
        run: the run folder.
        stage: one of STAGES.
        inputs: all that the outcome depends on, as JSON-able values: settings, digests of files, fingerprints of
            earlier stages.
        work: does the stage's work and returns what the artifact says beside the common fields.
        is_complete: whether a finished stage of the same fingerprint, whose artifact it gets, has no more to do. Where
            it has, the artifact is removed, and the stage goes on as an interrupted one does.

    Raises:
        InputError: another driver is at work on the run.
    """
    with hold_lease(run) as driver_id:
        return _execute(run, stage, inputs, work, is_complete, driver_id)


def _execute(
    run: RunFolder,
    stage: str,
    inputs: Mapping[str, Any],
    work: Callable[[], dict[str, Any]],
    is_complete: Callable[[dict[str, Any]], bool],
    driver_id: str,
) -> dict[str, Any]:
    folder, fingerprint = stage_folder(stage), digest(inputs)
    artifact = run.artifact(folder)
    if artifact is not None and artifact["fingerprint"] == fingerprint:
        if is_complete(artifact):
            print(f"{stage}: finished before, skipped", flush=True)
            return artifact
        remove(run.path(folder, "artifact.json"))
    started_uri = run.path(folder, "started.json")
    started = read_json(started_uri) if exists(started_uri) else None
    if started is not None and started["fingerprint"] != fingerprint:
        aside = run.path("superseded", f"{folder}-{started['fingerprint'][:8]}-{int(time.time())}")
        print(f"{stage}: made before with other settings or data; moved to {aside}", flush=True)
        move_folder(run.path(folder), aside)
        started = None
    elif started is None and list_files(run.path(folder)):
        move_folder(run.path(folder), run.path("superseded", f"{folder}-unknown-{int(time.time())}"))
    if started is None:
        commit_json(started_uri, {"fingerprint": fingerprint, "inputs": inputs, "created": _now()})
    start = time.monotonic()
    content = work()
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
    print(f"{stage}: done in {seconds:.0f} s", flush=True)
    return artifact


def versions() -> dict[str, str]:
    """Versions of what the outcome of a stage can depend on."""
    packages = ("raylabel", "torch", "torchvision", "ray", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
