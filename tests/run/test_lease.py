"""One driver per run: a second driver is refused while the first lives, and takes over from a dead driver."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.run import lease as module
from raylabel.run.folder import RunFolder
from raylabel.run.lease import check_lease, hold_lease, read_lease, this_driver
from raylabel.run.stage import execute_stage

OTHER = {"driver_id": "other", "host": "elsewhere", "pid": 7, "started": "2026-01-01T00:00:00Z"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(module, "SETTLE_SECONDS", {"local": 0.05, "remote": 0.05})
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.5)
    return RunFolder(str(tmp_path / "run"))


def take(run: RunFolder, content: dict[str, Any]) -> None:
    commit_json(run.path("driver.json"), content)


def at(pid: int) -> list[str]:
    """Return where and when a process that has ended, or is another's now, was started, by the lease's own terms."""
    here = module._process(os.getpid())
    assert here is not None
    return [*here[:2], f"before {pid}"]


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_the_lease_is_held_renewed_and_given_back(run: RunFolder) -> None:
    with hold_lease(run) as driver_id:
        lease = read_lease(run)
        assert lease is not None
        assert (lease["driver_id"], lease["host"], lease["pid"]) == (driver_id, socket.gethostname(), os.getpid())
        check_lease(run, driver_id)
        wait_until(lambda: (read_lease(run) or {}).get("heartbeat", 0) >= 2)
        with hold_lease(run) as inner:
            assert inner == driver_id
        assert read_lease(run) is not None, "the nested call does not release the lease"
    assert read_lease(run) is None
    assert list(Path(run.uri).iterdir()) == []


def test_a_driver_whose_heart_beats_is_not_disturbed(run: RunFolder) -> None:
    take(run, OTHER)
    stop = threading.Event()

    def beat() -> None:
        heartbeat = 3
        while not stop.wait(0.05):
            heartbeat += 1
            commit_json(run.path("heartbeat-other.json"), {"heartbeat": heartbeat})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(
            InputError, match=r"process 7 on elsewhere \(a driver since 2026-01-01T00:00:00Z\) is at work"
        ):
            hold_lease(run).__enter__()
    finally:
        stop.set()
        thread.join()
    lease = read_lease(run)
    assert lease is not None
    assert lease["driver_id"] == "other"


def test_a_driver_that_stands_still_is_succeeded(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    take(run, OTHER)
    start = time.monotonic()
    with hold_lease(run) as driver_id:
        assert time.monotonic() - start >= 0.5
        check_lease(run, driver_id)
    assert "process 7 on elsewhere" in capsys.readouterr().out


def test_a_dead_driver_of_this_machine_is_succeeded_at_once(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    take(run, OTHER | {"host": socket.gethostname(), "pid": process.pid, "process": at(process.pid)})
    with hold_lease(run) as driver_id:
        check_lease(run, driver_id)
    assert capsys.readouterr().out == ""


def test_a_process_that_took_the_number_of_a_dead_driver_is_not_that_driver(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    take(run, OTHER | {"pid": os.getppid(), "process": at(os.getppid())})
    with hold_lease(run):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "process", [None, ["another boot", None, "1"], [None, "pid:[1]", "1"]], ids=["unknown", "machine", "container"]
)
def test_a_driver_that_cannot_be_seen_from_here_is_waited_for(
    process: list[str | None] | None, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its number is of no process here, though its host has the same name."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    seen = process and [other or here for other, here in zip(process, at(gone.pid), strict=True)]
    take(run, OTHER | {"host": socket.gethostname(), "pid": gone.pid, "process": seen})
    with hold_lease(run):
        pass
    assert "may be at work on this run" in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"driver_id": 1}, {"driver_id": "x", "process": 5}])
def test_a_damaged_lease_names_nobody(content: dict[str, Any], run: RunFolder) -> None:
    take(run, content)
    assert read_lease(run) is None
    with hold_lease(run) as driver_id:
        check_lease(run, driver_id)


def test_sigterm_releases_the_lease(tmp_path: Path) -> None:
    code = (
        "import sys, time; from raylabel.run.folder import RunFolder; from raylabel.run.lease import hold_lease\n"
        "with hold_lease(RunFolder(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    assert read_lease(RunFolder(str(tmp_path))) is not None
    driver.terminate()
    assert driver.communicate(timeout=30)[1] == "raylabel: stopped by SIGTERM\n"
    assert driver.returncode == 1
    assert read_lease(RunFolder(str(tmp_path))) is None


def test_who_loses_the_run_commits_nothing_and_leaves_the_lease(run: RunFolder) -> None:
    with hold_lease(run) as driver_id:
        take(run, OTHER)
        time.sleep(0.2)  # several heartbeats
        with pytest.raises(InputError, match=r"process 7 on elsewhere .* has taken it over"):
            check_lease(run, driver_id)
    lease = read_lease(run)
    assert lease == OTHER | {"heartbeat": 0}, "the loser neither renews nor removes it"
    assert [path.name for path in Path(run.uri).iterdir()] == ["driver.json"], "the loser's heartbeat is gone"
    Path(run.path("driver.json")).unlink()
    with pytest.raises(InputError, match="has no driver any more"):
        check_lease(run, driver_id)


def test_a_heartbeat_that_is_written_late_takes_nothing_back(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver takes the run over between the heartbeat's look at the lease and its write."""
    with hold_lease(run) as driver_id:

        def late(uri: str, content: object) -> None:
            take(run, OTHER)
            commit_json(uri, content)

        monkeypatch.setattr(module, "commit_json", late)
        wait_until(lambda: (read_lease(run) or {}).get("driver_id") == "other")
        time.sleep(0.2)  # several heartbeats
        with pytest.raises(InputError, match="process 7"):
            check_lease(run, driver_id)


def test_a_driver_of_an_earlier_version_beats_in_the_lease_itself(run: RunFolder) -> None:
    take(run, OTHER | {"heartbeat": 3})
    lease = read_lease(run)
    assert lease is not None
    assert lease["heartbeat"] == 3


def test_a_successor_removes_the_heartbeat_of_the_dead(run: RunFolder) -> None:
    take(run, OTHER)
    commit_json(run.path("heartbeat-other.json"), {"heartbeat": 9})
    with hold_lease(run):
        assert not Path(run.path("heartbeat-other.json")).exists()


def test_of_two_that_come_at_once_one_has_the_run(run: RunFolder) -> None:
    code = f"""
import sys, time
from raylabel.errors import InputError
from raylabel.run.lease import hold_lease
from raylabel.run.folder import RunFolder
sys.stdin.readline()
try:
    with hold_lease(RunFolder({run.uri!r})):
        print("held", flush=True)
        sys.stdin.readline()
except InputError as error:
    print(error, flush=True)
"""
    drivers = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    time.sleep(1.5)  # until all drivers have finished their imports
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
    # A driver that is not refused at once watches the heartbeat of 5 s, and it moves.
    said = [driver.stdout.readline().strip() for driver in drivers if driver.stdout is not None]
    said = [
        driver.stdout.readline().strip() if "may be at work" in line and driver.stdout else line
        for driver, line in zip(drivers, said, strict=True)
    ]
    for driver in drivers:
        driver.communicate("\n")
    assert said.count("held") == 1
    assert all("is at work on this run" in line for line in said if line != "held")


def test_a_stage_that_lost_its_run_is_not_declared_finished(run: RunFolder) -> None:
    def work() -> dict[str, Any]:
        take(run, OTHER)
        return {}

    with pytest.raises(InputError, match="process 7"):
        execute_stage(run, "report", {}, work)
    assert run.artifact("report") is None


def test_what_dead_writers_left_is_removed(run: RunFolder) -> None:
    leftover = f"shard-00000001.parquet.{'0f' * 16}.tmp"
    for name in (leftover, "users.tmp", "shard-00000000.parquet"):
        commit_bytes(run.path("labels", name), b"")
    with hold_lease(run):
        names = sorted(path.name for path in Path(run.path("labels")).iterdir())
        commit_bytes(run.path("labels", leftover), b"")
    assert names == ["shard-00000000.parquet", "users.tmp"]
    assert sorted(path.name for path in Path(run.path("labels")).iterdir()) == names


def test_a_lease_is_json_that_anyone_can_read(run: RunFolder) -> None:
    with hold_lease(run):
        content = json.loads(Path(run.path("driver.json")).read_text())
    assert content["driver_id"] == this_driver()
    assert set(content) == {*OTHER, "process"}
