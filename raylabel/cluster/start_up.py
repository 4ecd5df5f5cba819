"""Faults of Ray's start-up as one line each.

`ray.init` waits up to ten minutes for a cluster that does not answer, and its errors do not say what to change.
"""

import time

import grpc
from ray._private.services import get_ray_address_from_environment

from raylabel.errors import InputError, shown_error

CLIENT_SCHEME = "ray://"
ANSWER_SECONDS = 5.0
"""Seconds that a cluster has to answer one question."""
PATIENCE_SECONDS = 20.0
"""Seconds in which a cluster must answer. A head node that has just been started needs a few."""
_PAUSE_SECONDS = 1.0
# Both questions need no message. Only the second one needs the token.
_HEALTH, _CLUSTER_ID = "/grpc.health.v1.Health/Check", "/ray.rpc.NodeInfoGcsService/GetClusterId"
_TOKEN = "Set RAY_AUTH_MODE=token and the cluster's token as RAY_AUTH_TOKEN or in the file RAY_AUTH_TOKEN_PATH"


def check_address(address: str) -> str | None:
    """Check that a Ray head node answers at an address.

    Args:
        address: value of RAY_ADDRESS. `auto` stands for the cluster that Ray finds on this machine. `local` names no
            head node and passes.

    Returns:
        HOST:PORT of the head node, None for `local`.

    Raises:
        InputError: the address is malformed, `auto` finds no cluster, nobody answers within `PATIENCE_SECONDS`, or
            another service answers.
    """
    if address == "local":
        return None
    found = " (found by auto)" if address == "auto" else ""
    if address == "auto":
        address = _cluster_of_this_machine()
    if address.startswith(CLIENT_SCHEME):
        raise InputError(
            f"RAY_ADDRESS: must be HOST:PORT of the head node, got {address}. raylabel's driver runs inside the "
            "cluster, not as a Ray client. Give port 6379 on a machine of the cluster, or use ray job submit."
        )
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 2**16:
        raise InputError(
            f"RAY_ADDRESS: must be HOST:PORT of a Ray head node, got {address!r}{found}. Unset it to start a local Ray."
        )
    start = time.monotonic()
    while error := _asked(address, _HEALTH):
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise InputError(
                f"RAY_ADDRESS: another service than Ray's head node answers at {address}{found}, such as Ray's client "
                "port. Give the head node's own port, by default 6379."
            )
        if time.monotonic() - start > PATIENCE_SECONDS:
            raise InputError(
                f"RAY_ADDRESS: no Ray head node answers at {address}{found} within {PATIENCE_SECONDS:.0f} "
                f"s ({_one_line(error.details())}). Start the cluster or correct the address. Unset RAY_ADDRESS to "
                "start a local Ray."
            )
        time.sleep(min(_PAUSE_SECONDS, PATIENCE_SECONDS))
    return address


def _cluster_of_this_machine() -> str:
    """Return the address of the cluster that `ray.init` takes for `auto`, by the same search."""
    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise InputError(
            "RAY_ADDRESS: auto finds no Ray cluster on this machine. Start one with `ray start --head`, give HOST:PORT "
            "of a head node, or unset RAY_ADDRESS to start a local Ray."
        ) from error
    except OSError as error:
        raise InputError(
            f"RAY_ADDRESS: auto cannot read where Ray's cluster is: {shown_error(error)}. Give HOST:PORT of a head "
            "node."
        ) from error


def refused_start(error: Exception, address: str | None) -> InputError:
    """Say in one line why `ray.init` failed.

    Args:
        error: the exception of `ray.init`.
        address: address of the head node; None for a local Ray.
    """
    words = _one_line(str(error))
    where = f"RAY_ADDRESS {address}" if address else "local Ray"
    if "AF_UNIX" in words:
        return InputError(
            f"{where}: the folder for temporary files is too long for Ray's sockets ({words.rpartition(': ')[2]}, at "
            "most 107 bytes). Set RAY_TMPDIR to a shorter path, such as /tmp."
        )
    if "Version mismatch" in words:
        versions = words.partition("Version mismatch: ")[2]
        return InputError(
            f"{where}: driver and cluster must have the same versions of Ray and Python. {versions}. Install the "
            "cluster's versions here, or use ray job submit."
        )
    if "no authentication token was found" in words:
        return InputError(f"{where}: RAY_AUTH_MODE=token needs a token, and there is none. {_TOKEN}.")
    if address and _is_refused(address):
        return InputError(f"{where}: the cluster refuses the driver's token, or the driver has none. {_TOKEN}.")
    return InputError(f"{where}: Ray could not start: {words[:300]}")


def _is_refused(address: str) -> bool:
    """Tell whether the cluster wants a token."""
    error = _asked(address, _CLUSTER_ID)
    return error is not None and error.code() == grpc.StatusCode.UNAUTHENTICATED


def _asked(address: str, question: str) -> grpc.RpcError | None:
    """Return the error of a question without a message, None for any answer."""
    # Without the proxy for the web, same as Ray's own connections.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(question)(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return error
    return None


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
