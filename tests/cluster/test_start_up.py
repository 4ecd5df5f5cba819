"""Faults of Ray's start-up: one line each, long before Ray would give up."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray._private import services

from raylabel.cluster import session, start_up
from raylabel.errors import InputError


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def served(answers: dict[str, Any]) -> tuple[grpc.Server, str]:
    """Start a server that gives each method its bytes, or refuses with its status code. Return it and its address."""

    class Answers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            answer = answers.get(details.method)

            def handle(request: bytes, context: Any) -> bytes:
                if isinstance(answer, grpc.StatusCode):
                    context.abort(answer, "refused")
                return answer

            return None if answer is None else grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Answers()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_up, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(start_up, "ANSWER_SECONDS", 0.5)


def test_patience_ends_within_a_minute() -> None:
    assert start_up.PATIENCE_SECONDS + 2 * start_up.ANSWER_SECONDS < 60


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:abc", "host:70000", "http://host:8265", "h:²"])
def test_malformed_address(address: str) -> None:
    with pytest.raises(InputError, match="RAY_ADDRESS: must be HOST:PORT of a Ray head node"):
        start_up.check_address(address)


def test_client_address() -> None:
    with pytest.raises(InputError, match=r"got ray://head:10001. .*port 6379"):
        start_up.check_address("ray://head:10001")


def test_local_has_no_head_node() -> None:
    assert start_up.check_address("local") is None


@pytest.fixture
def noted_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make Ray find no process of a cluster. Return the file where `ray start` notes its address."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray/ray_current_cluster"


def test_auto_without_cluster(noted_address: Path) -> None:
    assert not noted_address.exists()
    with pytest.raises(InputError, match="RAY_ADDRESS: auto finds no Ray cluster on this machine"):
        start_up.check_address("auto")


@pytest.mark.usefixtures("impatient")
def test_auto_finds_a_cluster_that_does_not_answer(silent_port: int, noted_address: Path) -> None:
    noted_address.write_text(f"127.0.0.1:{silent_port}")
    with pytest.raises(InputError, match=rf"no Ray head node answers at 127.0.0.1:{silent_port} \(found by auto\)"):
        start_up.check_address("auto")


@pytest.mark.parametrize("text", ["", "nonsense", "127.0.0.1:0"])
def test_auto_finds_a_damaged_address(text: str, noted_address: Path) -> None:
    noted_address.write_text(text)
    with pytest.raises(InputError, match=rf"got '{text}' \(found by auto\)"):
        start_up.check_address("auto")


def test_auto_may_not_read_the_address(noted_address: Path) -> None:
    noted_address.mkdir()
    with pytest.raises(InputError, match="RAY_ADDRESS: auto cannot read where Ray's cluster is"):
        start_up.check_address("auto")


def test_auto_finds_a_cluster_that_refuses_the_token(noted_address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = served({start_up._HEALTH: b"\x08\x01", start_up._CLUSTER_ID: grpc.StatusCode.UNAUTHENTICATED})
    noted_address.write_text(address)

    def refuse(**options: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=f"RAY_ADDRESS {address}: the cluster refuses the driver's token"):
        session.connect()
    server.stop(None)


@pytest.mark.usefixtures("impatient")
def test_nobody_answers(silent_port: int) -> None:
    start = time.monotonic()
    for address in (f"127.0.0.1:{silent_port}", "127.0.0.1:1", "no-host.invalid:6379"):
        with pytest.raises(InputError, match=f"no Ray head node answers at {address} .* Start the cluster or correct"):
            start_up.check_address(address)
    assert time.monotonic() - start < 20


def test_client_port() -> None:
    server, address = served({})
    with pytest.raises(InputError, match=r"another service .* Ray's client port. .* 6379"):
        start_up.check_address(address)
    server.stop(None)


def test_head_node_passes_and_refuses_the_token() -> None:
    server, address = served({start_up._HEALTH: b"\x08\x01", start_up._CLUSTER_ID: grpc.StatusCode.UNAUTHENTICATED})
    start_up.check_address(address)
    refused = start_up.refused_start(ConnectionError(f"Failed to connect to Ray cluster at {address}"), address)
    server.stop(None)
    assert "refuses the driver's token" in str(refused)
    assert "RAY_AUTH_TOKEN" in str(refused)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/xx/plasma_store",
            "too long for Ray's sockets (/tmp/xx/plasma_store, at most 107 bytes). Set RAY_TMPDIR",
        ),
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\nThis process "
            "on node 192.0.2.2 was started with:\n    Ray: 2.59.0\n    Python: 3.11.7\n",
            "with: Ray: 2.59.0 Python: 3.11.7. Install the cluster's versions here",
        ),
        ("Token authentication is enabled but no authentication token was found. Ensure ...", "needs a token"),
        ("something\nelse", "Ray could not start: something else"),
    ],
)
def test_errors_of_ray(words: str, expected: str) -> None:
    text = str(start_up.refused_start(RuntimeError(words), None))
    assert expected in text
    assert "\n" not in text


def test_connect_turns_errors_of_ray_into_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/xx")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="local Ray: the folder for temporary files is too long"):
        session.connect()
