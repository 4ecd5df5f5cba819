"""The places that the lines of a manifest may name, because other people write manifests."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qs

from raylabel.dataset.containers import split_reference
from raylabel.dataset.pool.image import OUTSIDE, PoolImage
from raylabel.files.file_systems import CHAIN, local_path, scheme_of, split_options
from raylabel.files.web import host_of, is_own_machine

NOT_ALLOWED = "not allowed"


@dataclass(frozen=True, kw_only=True)
class Access:
    """The schemes, hosts and folders of a pool's images. Images elsewhere get a refusal.

    Attributes:
        named: paths and URIs that the user names: the pool, and the folders of the labelled images. Images may have
            their schemes, lie below the local ones, and come from their hosts.
        schemes: schemes of remote images; None stands for those of `named`.
        roots: further local folders.
    """

    named: tuple[str, ...] = ()
    schemes: tuple[str, ...] | None = None
    roots: tuple[str, ...] = ()

    def checked(self, image: PoolImage) -> PoolImage:
        """Return the image, with a refusal if its URI leads elsewhere."""
        if image.refusal is None and (refusal := self._refusal(image.uri)):
            return PoolImage(image.image_id, image.uri, refusal)
        return image

    def _refusal(self, uri: str) -> str | None:
        if uri.startswith(self._folders) and ".." not in uri:
            return None  # at once, because most images are of this kind
        reference = split_reference(uri)
        uri = reference[0] if reference else uri
        path, scheme = local_path(uri), scheme_of(uri)
        if path is not None:
            return None if os.path.normpath(path).startswith(self._folders) else OUTSIDE
        if scheme not in self._schemes:
            return f"{NOT_ALLOWED}: scheme {scheme}"
        if CHAIN in uri:
            return f"{NOT_ALLOWED}: a chain of file systems"
        host = host_of(uri)
        if host not in self._hosts and is_own_machine(host):
            return f"{NOT_ALLOWED}: host {host}"
        if not _endpoints([uri]) <= self._endpoints:
            return f"{NOT_ALLOWED}: another endpoint"
        return None

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        local = [path for one in (*self.named, *self.roots) if (path := local_path(one)) is not None]
        # Both spellings, because a manifest may name what a link points to.
        folders = {spelling(path) for path in local for spelling in (os.path.abspath, os.path.realpath)}
        return tuple(os.path.join(folder, "") for folder in folders)

    @cached_property
    def _schemes(self) -> frozenset[str]:
        return frozenset(map(scheme_of, self.named) if self.schemes is None else self.schemes)

    @cached_property
    def _hosts(self) -> frozenset[str]:
        return frozenset(map(host_of, self.named))

    @cached_property
    def _endpoints(self) -> frozenset[str]:
        return _endpoints(self.named)


NOWHERE_ELSE = Access()
"""No place but the pool's own."""


def _endpoints(uris: Iterable[str]) -> frozenset[str]:
    """Return the servers that options of URIs name. They get signed requests."""
    options = (parse_qs(split_options(uri)[1].removeprefix("?")) for uri in uris)
    return frozenset(value for one in options for value in one.get("endpoint_override", ()))
