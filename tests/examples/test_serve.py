"""`examples/serve.py`: concurrent requests over HTTP give what the model gives, and bad ones are answered."""

import json
import runpy
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import raylabel as rl
from raylabel.run.folder import RunFolder

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve.py"

pytestmark = pytest.mark.slow
pytest.importorskip("ray.serve", reason="needs the extra serve: pip install 'raylabel[serve]'", exc_type=ImportError)


@pytest.fixture(scope="module")
def address(trained: RunFolder, ray_session: None) -> Iterator[str]:
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    deployment = runpy.run_path(str(EXAMPLE))["Predict"]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment.options(ray_actor_options={"num_cpus": 0.5}).bind(trained.uri))
    yield f"http://127.0.0.1:{port}/"
    serve.shutdown()


@pytest.mark.ray
def test_concurrent_requests(address: str, trained: RunFolder, generated: Path) -> None:
    paths = sorted((generated / "pool").iterdir())[:8]
    model = rl.load_model(trained.uri, device="cpu")
    expected = [model.predict(path, min_score=0.2).to_coco() for path in paths]

    def ask(path: Path) -> list[dict[str, object]]:
        with urlopen(f"{address}?min_score=0.2", path.read_bytes(), timeout=60) as answer:
            found: list[dict[str, object]] = json.load(answer)
            return found

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, paths * 2)) == expected * 2
    assert any(expected)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("query", "body", "message"),
    [("", b"no image", "not an image"), ("", b"", "zero bytes"), ("?min_score=x", b"", "could not convert")],
)
def test_bad_requests_are_answered(address: str, query: str, body: bytes, message: str) -> None:
    with pytest.raises(HTTPError) as raised:
        urlopen(address + query, body, timeout=60)
    assert raised.value.code == 400
    assert message in json.load(raised.value)["error"]


def test_it_is_short() -> None:
    code = [line for line in EXAMPLE.read_text().partition("import argparse")[2].splitlines() if line.strip()]
    assert len(code) < 40
