"""Secrets in URIs, hidden wherever raylabel prints or shows text."""

import re

_HIDDEN = "***"
_USER = re.compile(r"(?<=://)(?:[^/\s@<>\"']+|[^/\s@:<>\"']+:(?!\d+/)[^\s@<>\"']+)@")
"""`user:password@` of a URI. The second form has a password with slashes, as AWS makes them, but no port."""
_PARAMETER = re.compile(
    r"([?&;][\w.%-]*(?:sign|secret|token|passw|credential|key|auth|session)[\w.%-]*=|[?&;](?:sig|pwd)=)"
    r"[^&#\s<>\"']+?(?=[:,;.)]*(?:[&#\s<>\"']|$))",
    re.IGNORECASE,
)
"""A parameter such as `X-Amz-Signature`, `sig` (Azure), `access_token` or `secret_key`; after ";" in HTML's `&amp;`."""


def redacted(text: str) -> str:
    """Hide users, passwords, signatures, tokens and keys of the URIs in a text. Names of parameters stay.

    Examples:
        >>> redacted("s3://key:secret@bucket/a?session_token=abc&region=x: no such file")
        's3://***@bucket/a?session_token=***&region=x: no such file'
    """
    return _PARAMETER.sub(rf"\1{_HIDDEN}", _USER.sub(f"{_HIDDEN}@", text))
