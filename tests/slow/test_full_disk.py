"""A full disk ends the run with one line. Once there is space, the same command continues."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from prepared import prepared_run
from raylabel.dataset.synthetic.generate import generate
from raylabel.run.labels.shards import committed_shards
from runs import finish, quarantined_or_labelled, start, wait_for, write_config

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    generate(tmp_path, num_images=200, num_classes=6, image_size=64)
    config, path = write_config(tmp_path, tmp_path, "fakes:SlowSegmenter", shard_size=4, score_threshold=0.0)
    undisturbed = prepared_run(config, str(tmp_path / "undisturbed"))
    finish(start("label", path, "--out", undisturbed.uri))

    run = prepared_run(config, str(small_disk / "run"))
    driver = start("label", path, "--out", run.uri)
    wait_for(lambda: committed_shards(run), process=driver)
    # Preflight found enough space. Then another program takes all but a few pages.
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8 * 4096))

    output = finish(driver, code=1)
    last = output.splitlines()[-1]
    assert last.startswith(f"raylabel: {run.uri}/"), output
    assert ": no space left to write " in last
    assert "bytes are free in" in last
    assert "Traceback" not in output
    committed = {uri: Path(uri).stat().st_mtime_ns for uri in committed_shards(run).values()}
    assert 0 < len(committed) < len(committed_shards(undisturbed))
    assert not list(Path(run.uri).rglob("*.tmp"))

    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finish(start("label", path, "--out", run.uri))
    assert {uri: Path(uri).stat().st_mtime_ns for uri in committed} == committed, "finished shards are not redone"
    assert quarantined_or_labelled(run) == quarantined_or_labelled(undisturbed)
    assert not list(Path(run.uri).rglob("*.tmp"))
