"""Listing of the unlabelled pool in one pass and bounded memory."""

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from pyarrow import fs

from raylabel.config import TarSamples
from raylabel.dataset.containers import PARQUET, TAR, TarMember, is_container, tar_members
from raylabel.dataset.pool.access import NOWHERE_ELSE, Access
from raylabel.dataset.pool.image import IMAGE_SUFFIXES, PoolImage, image_below, is_image_name, printable
from raylabel.dataset.pool.inventory import INVENTORY, is_inventory, iter_keys, source_bucket
from raylabel.dataset.pool.left_out import LeftOut, Reason
from raylabel.dataset.pool.rows import of_csv, of_jsonl, of_parquet, of_text
from raylabel.errors import InputError
from raylabel.files.file_systems import open_uri, split_options
from raylabel.files.file_tree import walk_files
from raylabel.files.paths import join, split
from raylabel.files.reading import exists, file_type

_COMPRESSED_TAR = re.compile(r".+\.(tgz|tar\.[a-z0-9]+)", re.IGNORECASE)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_GLOB = re.compile(r"(\*\*|\*|\[[^\]/]+\])")
_MAGIC = re.compile(r"[*\[{]")


@dataclass(frozen=True, kw_only=True)
class _Rules:
    tar_samples: TarSamples
    left_out: LeftOut


def iter_pool(
    uri: str,
    access: Access = NOWHERE_ELSE,
    *,
    tar_samples: TarSamples = "files",
    left_out: LeftOut | None = None,
) -> Iterator[PoolImage]:
    """Yield the images of the pool in any order, with bounded memory. No image is opened.

    The pool is one of:

    - A folder or URI prefix. Its images are found by suffix (in any case), recursively; hidden files are left out. The
      id is the relative path. Tar and Parquet files in the folder are listed too. Their ids start with the file's
      relative path and "/".
    - An image. Its name is the id.
    - A manifest: `.txt` with one URI per line (also the id), or `.jsonl` or `.csv` with `uri` and optional `image_id`.
      Relative URIs are relative to the manifest.
    - A `.parquet` file with a column `bytes` of encoded images (default id: the row number in 9 digits), or a column
      `uri` as in a manifest. `image_id` is optional.
    - `manifest.json` of an S3 Inventory. Its images are those that a listing of the inventory's bucket would find, and
      the id is the key.
    - An uncompressed `.tar` file. Its images are those of the unpacked folder, and the id is the member's name.
    - A pattern of images, tar and Parquet files: `shard-{000..012}.tar`, `{a,b}.tar`, `*.tar` or `20[12]*/**.jpg`. It
      may use `*`, `**` (across folders) and `[...]`. Ids are those of the folder before the first such sign. Folders
      that exist under their literal name are names, whatever their signs. Files that braces alone name must exist.

    Paths that lead out of the pool's folder, other places that `access` does not allow, and names that are not UTF-8
    give images with a `refusal`.

    Args:
        uri: local path or URI. Local paths are made absolute.
        access: further places that a manifest may name.
        tar_samples: "files" lists all images of a tar. "webdataset" takes members with the same name up to the first
            dot for one sample. If a sample has an image without a second dot (`7.jpg`), its images with a second dot
            (`7.mask.png`) do not count.
        left_out: counts what the listing leaves out. It is complete after the last image.

    Raises:
        InputError: the pool is missing, of no known kind or empty, or a row is damaged.
    """
    rules = _Rules(tar_samples=tar_samples, left_out=LeftOut() if left_out is None else left_out)
    file_system, path = open_uri(uri)
    root = path.rstrip("/") if isinstance(file_system, fs.LocalFileSystem) else uri.rstrip("/")
    kind = file_type(uri)
    if kind == fs.FileType.Directory:
        images = _of_folder(root, rules)
    elif kind == fs.FileType.File and is_image_name(split_options(root)[0]):
        folder, name = split(root)
        images = iter((image_below(folder, name),))
    elif kind == fs.FileType.File:
        images = _of_file(root, rules)
    elif _MAGIC.search(split_options(root)[0]):
        images = _of_pattern(root, rules)
    else:
        raise InputError(f"{uri}: no such pool")
    is_empty = True
    folder = root if kind == fs.FileType.Directory else posixpath.dirname(_MAGIC.split(root)[0])
    access = replace(access, named=(root, folder, *access.named))
    for image in images:
        is_empty = False
        yield access.checked(image)
    if is_empty:
        others = f". {rules.left_out.text()}" if rules.left_out else ""
        raise InputError(f"{uri}: the pool has no images (known suffixes: {', '.join(IMAGE_SUFFIXES)}){others}")


def _of_folder(root: str, rules: _Rules) -> Iterator[PoolImage]:
    for file in walk_files(root, on_hidden=partial(rules.left_out.add, Reason.HIDDEN)):
        yield from _of_entry(root, file.path, rules, num_bytes=file.num_bytes)


def _of_pattern(pattern: str, rules: _Rules) -> Iterator[PoolImage]:
    base, options = split_options(pattern)
    folder = _literal_folder(base, options)
    root, names = folder + options, list(_expand_braces(base[len(folder) + 1 :]))
    if not any(map(_GLOB.search, names)):
        for name in names:
            if not (is_image_name(name) or is_container(name, TAR) or is_container(name, PARQUET)):
                _refuse_compressed(name)
                raise InputError(f"{pattern}: a pattern must name images, *.tar or *.parquet, got {name}")
            yield from _of_entry(root, name, rules)
        return
    matching = re.compile("|".join(map(_glob_regex, names)))
    for file in walk_files(root):
        if matching.fullmatch(file.path):
            yield from _of_entry(root, file.path, rules, num_bytes=file.num_bytes)


def _literal_folder(pattern: str, options: str) -> str:
    """Return the folder before the first sign of a pattern. Folders of that literal name, such as `set[1]`, count."""
    folder, start = "", 0
    while (end := pattern.find("/", start)) >= 0:
        if _MAGIC.search(pattern, start, end) and not exists(pattern[:end] + options):
            break
        folder, start = pattern[:end], end + 1
    return folder


def _expand_braces(pattern: str) -> Iterator[str]:
    """Expand `{000..012}` into numbers with leading zeros, and `{a,b}` into its items."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    first, last, listed = braces.groups()
    options = listed.split(",") if first is None else (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    for option in options:
        for rest in _expand_braces(pattern[braces.end() :]):
            yield f"{pattern[: braces.start()]}{option}{rest}"


def _glob_regex(name: str) -> str:
    meaning = {"**": ".*", "*": "[^/]*"}
    return "".join(
        meaning.get(part, part.replace("[!", "[^")) if number % 2 else re.escape(part)
        for number, part in enumerate(_GLOB.split(name))
    )


def _of_entry(root: str, relative: str, rules: _Rules, *, num_bytes: int | None = None) -> Iterator[PoolImage]:
    """Yield the images of a file below the pool's folder: one, those packed in it, or none."""
    if is_image_name(relative):
        yield image_below(root, relative, num_bytes=num_bytes)
        return
    _refuse_compressed(join(root, printable(relative)))
    if not (is_container(relative, TAR) or is_container(relative, PARQUET)):
        rules.left_out.add(Reason.OTHER_KIND, relative)
    else:
        packed_uri = join(root, relative)
        if printable(relative) != relative:
            raise InputError(f"{printable(packed_uri)}: the name of a packed file must be UTF-8")
        for image in _of_file(packed_uri, rules):
            yield replace(image, image_id=f"{relative}/{image.image_id}")


def _of_file(uri: str, rules: _Rules) -> Iterator[PoolImage]:
    if is_inventory(uri):
        yield from _of_inventory(uri, rules)
        return
    listers: dict[str, Callable[[str], Iterator[PoolImage]]] = {
        ".txt": of_text,
        ".jsonl": of_jsonl,
        ".csv": of_csv,
        PARQUET: of_parquet,
        TAR: partial(_of_tar, rules=rules),
    }
    for suffix, lister in listers.items():
        if split_options(uri)[0].lower().endswith(suffix):
            try:
                yield from lister(uri)
            except FileNotFoundError:
                raise InputError(f"{uri}: no such file") from None
            return
    _refuse_compressed(split_options(uri)[0])
    raise InputError(f"{uri}: a pool must be a folder, a pattern, {INVENTORY} or one of *{', *'.join(listers)}")


def _of_inventory(uri: str, rules: _Rules) -> Iterator[PoolImage]:
    bucket = source_bucket(uri)
    for stored in iter_keys(uri):
        if _is_hidden(stored.key):
            rules.left_out.add(Reason.HIDDEN, stored.key)
        else:
            yield from _of_entry(bucket, stored.key, rules, num_bytes=stored.num_bytes)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _of_tar(uri: str, rules: _Rules) -> Iterator[PoolImage]:
    try:
        images = _tar_images(uri, rules.left_out)
        if rules.tar_samples == "webdataset":
            images = _without_sample_parts(images, rules.left_out)
        for member in images:
            yield image_below(uri, member.name, uri=member.reference(uri), num_bytes=member.num_bytes)
    except tarfile.TarError as error:
        raise InputError(f"{uri}: not readable as an uncompressed tar: {error}") from error


def _tar_images(uri: str, left_out: LeftOut) -> Iterator[TarMember]:
    """Yield the members that the unpacked folder would list as images."""
    for member in tar_members(uri, on_link=partial(left_out.add, Reason.LINK)):
        if _is_hidden(member.name):
            left_out.add(Reason.HIDDEN, member.name)
        elif is_image_name(member.name):
            yield member
        else:
            left_out.add(Reason.OTHER_KIND, member.name)


def _without_sample_parts(images: Iterator[TarMember], left_out: LeftOut) -> Iterator[TarMember]:
    """Leave out images with a second dot if their WebDataset sample has one without."""
    for _, sample in groupby(images, key=_sample_key):
        members = list(sample)
        plain = [member for member in members if posixpath.basename(member.name).count(".") == 1]
        yield from plain or members
        for member in members if plain else ():
            if member not in plain:
                left_out.add(Reason.SAMPLE_PART, member.name)


def _sample_key(member: TarMember) -> tuple[str, str]:
    folder, _, name = member.name.rpartition("/")
    return folder, name.split(".", 1)[0]


def _refuse_compressed(uri: str) -> None:
    if _COMPRESSED_TAR.fullmatch(uri):
        raise InputError(f"{uri}: a compressed tar can't be read image by image. Uncompress it to .tar.")
