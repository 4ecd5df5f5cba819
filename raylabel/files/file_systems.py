"""File systems for paths and URIs: pyarrow's, and fsspec's for schemes that pyarrow does not know."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import fsspec
import pyarrow as pa
from pyarrow import fs

from raylabel.errors import InputError, StorageError, shown_error
from raylabel.files.web import WEB_SCHEMES, web_options

CONNECT_SECONDS, REQUEST_SECONDS = 5, 10
# Small, because `retries` already retries.
_S3_ATTEMPTS, _GCS_RETRY_SECONDS = 2, 20

# Below 10 MiB, because pyarrow's S3 stream cuts larger files into parts.
_ONE_UPLOAD_BYTES = 8 * 2**20

CHAIN = "::"
"""fsspec's sign between file systems that read from each other, such as `zip://a.png::http://host/x.zip`."""

_S3_SCHEMES = ("s3", "s3a", "s3n")
_PYARROW_SCHEMES = ("gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_OPTION = (
    "(?:access_key|secret_key|session_token|anonymous|region|scheme|endpoint_override|force_virtual_addressing"
    "|tls_ca_file_path|allow_bucket_creation|retry_limit_seconds|project_id|enable_tls|tenant_id)=[^&#]*"
)
_OPTIONS = re.compile(rf"\?{_OPTION}(?:&{_OPTION})*$")
# These variables select the store and the account, so another value needs another file system.
_S3_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
                   "AWS_ENDPOINT_URL_S3")  # fmt: skip


def split_options(uri: str) -> tuple[str, str]:
    """Split a URI from the options at its end, such as `?endpoint_override=127.0.0.1:9000&scheme=http`.

    Without options the second part is "". Only options that the file systems know count; any other "?" is part of a
    name.
    """
    match = _OPTIONS.search(uri) if "://" in uri else None
    return (uri[: match.start()], match[0]) if match else (uri, "")


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI, "" for a path."""
    scheme, is_uri, _ = uri.partition("://")
    return scheme if is_uri else ""


def expanded(path: str) -> Path:
    """Return a local path with `~` replaced by the home folder. `~x` stays a name if there is no user x."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(place: str) -> str:
    """Return a local path as an absolute one, and a URI as it is."""
    return place if "://" in place else str(expanded(place).absolute())


def local_path(uri: str) -> str | None:
    """Return the absolute path of a local path or `file://` URI, None for any other URI."""
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        return absolute(uri)
    return os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost"))) if scheme == "file" else None


def open_uri(uri: str, *, upload_bytes: int = 0) -> tuple[fs.FileSystem, str]:
    """Return the file system and the path of a local path or URI (`file://`, `s3://`, `gs://`, ...).

    Args:
        uri: local path or URI. "%" and "#" in names stand for themselves, except in `file://` URIs.
        upload_bytes: size of the file to write. An S3 stream for a small file sends it when the stream is closed. Such
            a stream publishes an empty file if it cannot start an upload in parts (seen with pyarrow 26). Larger files
            therefore get a stream that starts the upload when it is opened.

    Raises:
        InputError: the scheme is unknown or needs a package that is not installed, or the URI is malformed or a chain.
        StorageError: a store refuses the connection, if its file system connects at once.
    """
    local = local_path(uri)
    if local is not None:
        return fs.LocalFileSystem(), local
    scheme = scheme_of(uri)
    base, options = split_options(uri)
    host, _, path = base.partition("://")[2].partition("/")
    try:
        if scheme in _S3_SCHEMES:
            environment = tuple(os.environ.get(name) for name in _S3_ENVIRONMENT)
            file_system, root = _s3(host, options, environment, is_delayed=upload_bytes <= _ONE_UPLOAD_BYTES)
        elif scheme in _PYARROW_SCHEMES:
            file_system, root = _of_pyarrow(scheme, host, options)
        else:
            if CHAIN in uri:
                raise ValueError(f"a chain of file systems ({CHAIN}) is not read, because its parts read other files")
            arguments = {}
            if scheme in WEB_SCHEMES:
                arguments = web_options(uri, connect_seconds=CONNECT_SECONDS, request_seconds=REQUEST_SECONDS)
            known, path = fsspec.core.url_to_fs(uri, **arguments)
            return fs.PyFileSystem(fs.FSSpecHandler(known)), path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
        # A malformed URI, or a scheme that this build of pyarrow lacks, fsspec does not know or has no package for.
        raise InputError(f"{uri}: {' '.join(str(error).split())}") from error
    except OSError as error:  # some of fsspec's file systems, such as FTP's, connect as soon as they are made
        raise StorageError(f"{uri}: could not connect: {shown_error(error)}") from error
    return file_system, "/".join(part for part in (root, path) if part)


def is_object_store(file_system: fs.FileSystem) -> bool:
    """Tell whether files of the store appear whole when their stream is closed, and have no atomic rename."""
    return isinstance(file_system, _OBJECT_STORES)


_OBJECT_STORES = tuple(
    getattr(fs, name) for name in ("S3FileSystem", "GcsFileSystem", "AzureFileSystem") if hasattr(fs, name)
)


@lru_cache(maxsize=64)
def _s3(host: str, options: str, environment: tuple[str | None, ...], *, is_delayed: bool) -> tuple[fs.FileSystem, str]:
    """Return the store of a bucket. Environment and profile set what the URI leaves out, as in every AWS tool.

    The arguments are built here, because pyarrow's reader of URIs cannot set timeouts.
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
    """Return the AWS region of a bucket, or None to leave the region to the environment."""
    try:
        return fs.resolve_s3_region(bucket)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _of_pyarrow(scheme: str, host: str, options: str) -> tuple[fs.FileSystem, str]:
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in options:
        options += f"{'&' if options else '?'}retry_limit_seconds={_GCS_RETRY_SECONDS}"
    return fs.FileSystem.from_uri(f"{scheme}://{host}{options}")
