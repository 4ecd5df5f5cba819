"""From a path or URI to a file system: pyarrow's own ones, and fsspec's for the schemes that pyarrow does not know."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import fsspec
import pyarrow as pa
from pyarrow import fs

from raylabel.errors import InputError

CONNECT_SECONDS, REQUEST_SECONDS = 5, 10
# `retries` tries again; what the libraries do by themselves must be over soon.
_S3_ATTEMPTS, _GCS_RETRY_SECONDS = 2, 20

# A stream of S3 cuts what is larger than 10 MiB into parts.
_ONE_UPLOAD_BYTES = 8 * 2**20

_S3_SCHEMES = ("s3", "s3a", "s3n")
_PYARROW_SCHEMES = ("gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_OPTION = (
    "(?:access_key|secret_key|session_token|anonymous|region|scheme|endpoint_override|force_virtual_addressing"
    "|tls_ca_file_path|allow_bucket_creation|retry_limit_seconds|project_id|enable_tls|tenant_id)=[^&#]*"
)
_OPTIONS = re.compile(rf"\?{_OPTION}(?:&{_OPTION})*$")
# What decides which store is reached and as whom: another value is another file system.
_S3_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
                   "AWS_ENDPOINT_URL_S3")  # fmt: skip


def split_options(uri: str) -> tuple[str, str]:
    """URI and the options at its end, such as `?endpoint_override=127.0.0.1:9000&scheme=http`; "" where there are none.

    Only options that the file systems know count: any other "?" is part of a name.
    """
    match = _OPTIONS.search(uri) if "://" in uri else None
    return (uri[: match.start()], match[0]) if match else (uri, "")


def open_uri(uri: str, *, upload_bytes: int = 0) -> tuple[fs.FileSystem, str]:
    """File system and path of a local path or URI (`file://`, `s3://`, `gs://`, ...).

    Args:
        uri: names in it are taken as they are: "%" and "#" mean themselves, but for `file://` URIs.
        upload_bytes: size of the file that will be written. A stream of S3 sends a small one at once when it is closed.
            If it can't begin an upload in parts after all, it publishes an empty file (seen with pyarrow 26), so
            large ones need a stream that begins when it is opened.

    Raises:
        InputError: the scheme is unknown, needs a package that is not installed, or the URI is not well formed.
    """
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if scheme == "file":
        return fs.LocalFileSystem(), os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost")))
    base, options = split_options(uri)
    host, _, path = base.partition("://")[2].partition("/")
    try:
        if scheme in _S3_SCHEMES:
            environment = tuple(os.environ.get(name) for name in _S3_ENVIRONMENT)
            file_system, root = _s3(host, options, environment, is_delayed=upload_bytes <= _ONE_UPLOAD_BYTES)
        elif scheme in _PYARROW_SCHEMES:
            file_system, root = _of_pyarrow(scheme, host, options)
        else:
            known, path = fsspec.core.url_to_fs(uri, **_http_options(scheme))
            return fs.PyFileSystem(fs.FSSpecHandler(known)), path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
        # Malformed, not in this build of pyarrow, unknown to fsspec, or its package is not installed.
        raise InputError(f"{uri}: {' '.join(str(error).split())}") from error
    return file_system, "/".join(part for part in (root, path) if part)


def _http_options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=REQUEST_SECONDS)}}


def is_object_store(file_system: fs.FileSystem) -> bool:
    """Whether a file appears whole when its stream is closed, and can't be renamed at once."""
    return isinstance(file_system, _OBJECT_STORES)


_OBJECT_STORES = tuple(
    getattr(fs, name) for name in ("S3FileSystem", "GcsFileSystem", "AzureFileSystem") if hasattr(fs, name)
)


@lru_cache(maxsize=64)
def _s3(host: str, options: str, environment: tuple[str | None, ...], *, is_delayed: bool) -> tuple[fs.FileSystem, str]:
    """The store of a bucket. What the URI does not say, environment and profile do, as for every tool of AWS.

    pyarrow's own reader of URIs knows no time-outs.
    """
    user, _, bucket = host.rpartition("@")
    given: Mapping[str, str] = dict(parse_qsl(options.removeprefix("?")))
    env = dict(zip(_S3_ENVIRONMENT, environment, strict=True))
    endpoint = given.get("endpoint_override") or env["AWS_ENDPOINT_URL_S3"] or env["AWS_ENDPOINT_URL"]
    region = given.get("region") or (env["AWS_REGION"] or env["AWS_DEFAULT_REGION"] if endpoint else _region_of(bucket))
    arguments: dict[str, object] = {
        "endpoint_override": endpoint,
        "region": region,
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": REQUEST_SECONDS,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        "allow_delayed_open": is_delayed,
    }
    for name in ("scheme", "access_key", "secret_key", "session_token", "tls_ca_file_path"):
        if name in given:
            arguments[name] = given[name]
    for name in ("anonymous", "force_virtual_addressing", "allow_bucket_creation"):
        if name in given:
            arguments[name] = given[name].lower() in ("1", "true", "yes")
    if user:
        access_key, _, secret_key = user.partition(":")
        arguments |= {"access_key": unquote(access_key), "secret_key": unquote(secret_key)}
    return fs.S3FileSystem(**arguments), bucket


def _region_of(bucket: str) -> str | None:
    """Where AWS has the bucket; None leaves it to the environment."""
    try:
        return fs.resolve_s3_region(bucket)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _of_pyarrow(scheme: str, host: str, options: str) -> tuple[fs.FileSystem, str]:
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in options:
        options += f"{'&' if options else '?'}retry_limit_seconds={_GCS_RETRY_SECONDS}"
    return fs.FileSystem.from_uri(f"{scheme}://{host}{options}")
