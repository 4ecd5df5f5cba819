"""Jobs submitted to a head on loopback with token authentication, as to a cluster."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
START_SECONDS = 90
PIPELINE_SECONDS = 900


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Attributes:
        address: URL of its job server.
        token: the token that every client must send.
    """

    address: str
    token: str

    def submit(
        self, *entrypoint: str, token: str | None, timeout: float, working_dir: Path = REPOSITORY / "jobs"
    ) -> subprocess.CompletedProcess[str]:
        """Run `ray job submit` from outside the cluster, with or without a token. `stdout` also holds stderr."""
        command = [RAY, "job", "submit", "--address", self.address]
        return subprocess.run(
            [*command, "--working-dir", str(working_dir), "--", *entrypoint],
            env=_environment(token),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def jobs(self) -> list[str]:
        """Return the ids of all submitted jobs."""
        _, content = _get(f"{self.address}/api/jobs/", self.token)
        return sorted(str(job["submission_id"]) for job in json.loads(content))


def _environment(token: str | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    # Ray falls back to ~/.ray/auth_token, and the user's token must not be used.
    environment["HOME"] = tempfile.gettempdir()
    return environment if token is None else environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _get(url: str, token: str | None) -> tuple[int | None, bytes]:
    """Return status and content of a GET. The status is None if no server answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return None, b""


def _processes_with(token: str) -> list[int]:
    """Return the processes that inherited the token, so were started by this test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if token.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def _stop(head: subprocess.Popen[bytes], token: str) -> None:
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(5)
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait(10)
    for pid in _processes_with(token):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayHead]:
    """A head with two CPUs and a token, on free ports. All processes that it started are ended afterwards."""
    token = secrets.token_hex(32)
    # Not pytest's folder, because Ray's sockets lie here and a socket's path must stay below 108 characters.
    with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as folder:
        port, dashboard, agent, agent_grpc, runtime_env, metrics, client = _free_ports(7)
        log = Path(folder) / "head.log"
        with log.open("wb") as output:
            head = subprocess.Popen(
                [
                    *(RAY, "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"),
                    *("--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"),
                    *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
                    *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
                    *(f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"),
                    *(f"--temp-dir={folder}", f"--object-store-memory={512 << 20}"),
                ],
                env=_environment(token),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            deadline = time.monotonic() + START_SECONDS
            while _get(f"{address}/api/jobs/", token)[0] != 200:
                assert head.poll() is None, f"the head ended:\n{log.read_text(errors='replace')}"
                assert time.monotonic() < deadline, (
                    f"no head within {START_SECONDS} s:\n{log.read_text(errors='replace')}"
                )
                time.sleep(0.5)
            yield RayHead(address=address, token=token)
        finally:
            _stop(head, token)


def test_a_submitted_job_reaches_the_cluster(ray_head: RayHead) -> None:
    script = "import ray; ray.init(); print('cpus', ray.cluster_resources()['CPU'])"
    done = ray_head.submit(sys.executable, "-c", script, token=ray_head.token, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "cpus 2.0" in done.stdout
    assert "succeeded" in done.stdout


def test_a_failing_job_fails_the_submission(ray_head: RayHead) -> None:
    done = ray_head.submit(sys.executable, "-c", "raise SystemExit(2)", token=ray_head.token, timeout=120)
    assert done.returncode != 0
    assert "failed" in done.stdout


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)], ids=["no token", "wrong token"])
def test_without_the_token_nothing_is_submitted(ray_head: RayHead, token: str | None, status: int) -> None:
    before = ray_head.jobs()
    assert _get(f"{ray_head.address}/api/jobs/", token)[0] == status
    done = ray_head.submit(sys.executable, "-c", "pass", token=token, timeout=120)
    assert done.returncode != 0
    assert "AuthenticationError" in done.stdout, done.stdout
    assert ray_head.jobs() == before


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    """Write a config for a generated set, with the fewest steps that reach every stage."""
    data = tmp_path / "data"
    subprocess.run(
        [sys.executable, "-m", "raylabel.cli", "generate", "--out", str(data), "--images", "60", "--classes", "6"],
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    settings = {
        "data": {
            "labelled": "data/labelled.json",
            "images": "data/images",
            "calibration": "data/calibration.json",
            "validation": "data/val.json",
            "pool": "data/pool",
        },
        "smoothing": {"warmup_steps": 2},
        "teacher": {"steps": 4, "batch_size": 4},
        # Low thresholds, because a teacher of 4 steps has low scores.
        "label": {"shard_size": 8, "num_workers": 1, "num_cpus": 1, "score_threshold": 0.0},
        "selection": {"min_score": 0.0},
        "student": {"steps": 2, "min_foreground": 0.0, "labelled_per_batch": 2, "unlabelled_per_batch": 2},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_the_whole_pipeline_runs_as_a_submitted_job(ray_head: RayHead, small_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = ray_head.submit(
        *(sys.executable, "jobs/pipeline.py", str(small_config), "--out", str(run), "--seed", "1"),
        token=ray_head.token,
        timeout=PIPELINE_SECONDS,
        working_dir=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "succeeded" in done.stdout
    assert list((run / "labels").glob("shard-*.parquet"))
    assert (run / "report" / "index.html").stat().st_size > 0
