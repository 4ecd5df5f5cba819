"""What the lines of other people's manifests may name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.config import load_config
from raylabel.dataset.pool.access import NOT_ALLOWED, NOWHERE_ELSE, Access
from raylabel.dataset.pool.image import OUTSIDE, PoolImage
from raylabel.dataset.pool.listing import iter_pool
from raylabel.run.data import RunData

WEB = Access(named=("https://images.org/pool/list.txt",))


def refusal(access: Access, uri: str) -> str | None:
    return access.checked(PoolImage("1", uri)).refusal


def test_schemes_are_those_of_the_pool_and_the_labelled_images() -> None:
    access = Access(named=("s3://bucket/pool.txt", "https://images.org/labelled"))
    for uri in ("s3://other/a.jpg", "https://elsewhere.org/a.jpg"):
        assert refusal(access, uri) is None
    for uri in ("http://elsewhere.org/a.jpg", "HTTPS://images.org/a.jpg", "reference://a.json", "memory://a.jpg"):
        assert refusal(access, uri) == f"{NOT_ALLOWED}: scheme {uri.partition('://')[0]}"
    assert refusal(Access(named=access.named, schemes=("gs",)), "s3://other/a.jpg") == f"{NOT_ALLOWED}: scheme s3"
    assert refusal(Access(named=access.named, schemes=("gs",)), "gs://other/a.jpg") is None


@pytest.mark.parametrize(
    "uri",
    ["https://images.org/a.jpg::file:///etc/passwd", "simplecache::https://images.org/a.jpg", "reference::https://h/a"],
)
def test_chains_are_refused(uri: str) -> None:
    assert (refusal(WEB, uri) or "").startswith(NOT_ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.0.1:9000", "localhost", "LOCALHOST:80", "a.localhost", "[0:0:0:0:0:0:0:1]", "0.0.0.0",
        "169.254.169.254", "[fe80:0:0:0:0:0:0:1]", "user@127.0.0.1", "[0:0:0:0:0:ffff:7f00:1]",
    ],
)  # fmt: skip
def test_the_machine_itself_is_refused_unless_named(host: str) -> None:
    uri = f"https://{host}/latest/meta-data"
    assert (refusal(WEB, uri) or "").startswith(f"{NOT_ALLOWED}: host")
    assert refusal(Access(named=(f"https://{host}/pool.txt",)), uri) is None


def test_endpoints_of_s3_are_the_pools() -> None:
    access = Access(named=("s3://bucket/pool.txt?endpoint_override=store.org:9000",))
    assert refusal(access, "s3://bucket/a.jpg?endpoint_override=store.org:9000") is None
    for options in ("endpoint_override=169.254.169.254", "scheme=http&endpoint_override=evil.org"):
        assert refusal(access, f"s3://bucket/a.jpg?{options}") == f"{NOT_ALLOWED}: another endpoint"


def test_local_paths_lie_below_a_root(tmp_path: Path) -> None:
    pool, other, link = (tmp_path / name for name in ("pool", "other", "link"))
    pool.mkdir()
    link.symlink_to(pool)
    access = Access(named=(str(link),), roots=(str(other),))
    for path in (link / "a.jpg", pool / "a.jpg", other / "b/a.jpg", f"file://{other}/a.jpg", f"{pool}/x.tar#../m.jpg"):
        assert refusal(access, str(path)) is None
    for path in ("/etc/passwd", f"{pool}/../a.jpg", f"{pool}x/a.jpg", "file:///etc/passwd", f"{pool}/../x.tar#m.jpg"):
        assert refusal(access, path) == OUTSIDE


@given(st.lists(st.sampled_from(["..", ".", "a", "pool", "x.tar#m", ""]), max_size=8))
def test_no_path_leaves_the_pool(parts: list[str]) -> None:
    """Whatever is let through lies below the pool once dots are resolved."""
    uri = "/".join(["/srv/pool", *parts])
    if refusal(Access(named=("/srv/pool",)), uri) is None:
        depth = 0
        for part in uri.removeprefix("/srv/pool/").partition("#")[0].split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        assert depth >= 0


def test_a_pool_names_its_own_folder(tmp_path: Path) -> None:
    lines = [str(tmp_path / "a.jpg"), "/etc/passwd", "s3://bucket/a.jpg"]
    (tmp_path / "pool.txt").write_text("\n".join(lines))
    found = [image.refusal for image in iter_pool(str(tmp_path / "pool.txt"), NOWHERE_ELSE)]
    assert found == [None, OUTSIDE, f"{NOT_ALLOWED}: scheme s3"]


def test_settings_allow_more(tmp_path: Path) -> None:
    lines = [str(tmp_path / "more/a.jpg"), str(tmp_path / "images/a.jpg"), "s3://bucket/a.jpg", "gs://bucket/a.jpg"]
    (tmp_path / "set").mkdir()
    (tmp_path / "set/pool.txt").write_text("\n".join(lines))
    data = dict.fromkeys(("labelled", "calibration", "validation"), "x.json")
    data |= {"images": "images", "pool": "set/pool.txt"}
    path = tmp_path / "config.json"  # JSON is YAML

    def refused(**more: list[str]) -> list[str | None]:
        path.write_text(json.dumps({"data": data | more}))
        return [image.refusal for image in RunData(load_config(path)).list_pool()]

    assert refused() == [OUTSIDE, None, f"{NOT_ALLOWED}: scheme s3", f"{NOT_ALLOWED}: scheme gs"]
    assert refused(allowed_roots=["more"], allowed_schemes=["s3"]) == [None, None, None, f"{NOT_ALLOWED}: scheme gs"]
