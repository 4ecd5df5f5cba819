"""Web servers, read through fsspec: timeouts, and no way to the machine's own services."""

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

from raylabel.errors import InputError

WEB_SCHEMES = ("http", "https")


def web_options(uri: str, *, connect_seconds: float, request_seconds: float) -> dict[str, Any]:
    """Return fsspec's options for a web server.

    Connections to loopback and link-local addresses are refused, because services there trust whoever reaches them. A
    link-local one of every cloud machine hands out its credentials. Names and redirects may lead there, so that the
    address is judged when the socket is made. A URI that itself names such a host is read.
    """
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(sock_connect=connect_seconds, sock_read=request_seconds)
    options: dict[str, Any] = {"client_kwargs": {"timeout": timeout}}
    return options if is_own_machine(host_of(uri)) else options | {"get_client": _guarded_client}


def host_of(uri: str) -> str:
    """Return the host of a URI in lower case, "" without one."""
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def is_own_machine(host: str) -> bool:
    """Tell whether a host name or address is loopback, link-local or unspecified. No name is looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


async def _guarded_client(**options: Any) -> Any:
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_guarded_socket), **options)


def _guarded_socket(address_info: Any) -> socket.socket:
    family, kind, protocol, _, address = address_info
    if is_own_machine(address[0]):
        # No OSError, because aiohttp would take it for a momentary failure.
        raise InputError(f"leads to {address[0]}, an address of the machine itself. Name that host in the URI.")
    return socket.socket(family, kind, protocol)
