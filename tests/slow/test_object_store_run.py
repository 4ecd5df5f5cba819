"""The label stage with pool and run folder on an object store, sound or failing."""

import os
from pathlib import Path

import pytest

from object_store import FlakyProxy
from prepared import prepared_run
from raylabel.dataset.synthetic.generate import generate
from raylabel.files.committing import commit_bytes
from raylabel.run.labels.shards import committed_shards
from runs import finish, quarantined_or_labelled, start, write_config

pytestmark = pytest.mark.slow


def test_a_store_that_fails_and_hangs_changes_nothing(
    s3_endpoint: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenth request fails, and every 150th gets no answer.

    The labels equal those of a sound store, and those equal the labels of a local pool.
    """
    generate(tmp_path, num_images=120, num_classes=6, image_size=64)
    for path in sorted((tmp_path / "pool").iterdir()):
        commit_bytes(f"{s3_bucket}/pool/{path.name}", path.read_bytes())
    config, config_path = write_config(tmp_path, tmp_path, "fakes:FakeSegmenter", shard_size=8, score_threshold=0.1)

    local = prepared_run(config, str(tmp_path / "local"))
    finish(start("label", config_path, "--out", local.uri))
    sound = prepared_run(config, f"{s3_bucket}/runs/sound")
    finish(start("label", config_path, "--out", sound.uri, "--data.pool", f"{s3_bucket}/pool"))
    expected = quarantined_or_labelled(local)
    assert expected
    assert quarantined_or_labelled(sound) == expected

    troubled = prepared_run(config, f"{s3_bucket}/runs/troubled")
    with FlakyProxy(s3_endpoint, fail_every=10, hang_every=150) as proxy:
        env = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint}
        finish(start("label", config_path, "--out", troubled.uri, "--data.pool", f"{s3_bucket}/pool", env=env))
        assert proxy.num_failed > 30
        assert proxy.num_hung >= 2
    assert quarantined_or_labelled(troubled) == expected
    assert list(committed_shards(troubled)) == list(committed_shards(sound))


def test_a_store_that_goes_away_ends_the_run_with_one_line(s3_endpoint: str, s3_bucket: str, tmp_path: Path) -> None:
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    for path in sorted((tmp_path / "pool").iterdir()):
        commit_bytes(f"{s3_bucket}/pool/{path.name}", path.read_bytes())
    config, config_path = write_config(tmp_path, tmp_path, "fakes:FakeSegmenter", shard_size=4)
    run = prepared_run(config, str(tmp_path / "run"))
    argv = ("label", config_path, "--out", run.uri, "--data.pool", f"{s3_bucket}/pool")
    with FlakyProxy(s3_endpoint) as proxy:
        proxy.down_after = 40
        output = finish(start(*argv, env={**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint}), code=1)
    last = output.splitlines()[-1]
    assert last.startswith(f"raylabel: {s3_bucket}/pool/")
    assert "could not read in" in last
    assert "Traceback" not in output
    before = committed_shards(run)
    assert before
    finish(start(*argv))
    assert len(committed_shards(run)) > len(before)
