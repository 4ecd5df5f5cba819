"""Fixtures that every test may use."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

SUPPORT = Path(__file__).resolve().parent / "support"
sys.path.insert(0, str(SUPPORT))  # so that `fakes:FakeSegmenter` is found like a user's class
os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(SUPPORT), os.environ.get("PYTHONPATH")) if part)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # because waiting threads of one process slow the other one
# Ray Train checks its workers every 2 s by default, too long for trainings of a few steps.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")

from object_store import CREDENTIALS, make_bucket, s3_server  # noqa: E402  # needs the path above

pytest_plugins = ("without_ray", "one_ray", "generated_set")
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes after its argument. Compressed bytes hold the time, and processes must name cases alike."""
    return argname if isinstance(val, bytes) else None


SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function that returns a folder of real data beside the project by name. It skips the test if it is missing."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"needs ../shared/data/{name}, which is absent")
        return folder

    return find


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3-speaking server on loopback, in a separate process."""
    pytest.importorskip("moto", reason="needs moto[server]")
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty bucket. Endpoint and credentials are in the environment."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_endpoint, name)
    return f"s3://{name}"
