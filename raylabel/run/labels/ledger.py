"""The ledger of committed shards, labels/shards.parquet: one row per shard, so that readers open one file.

The ledger is a cache, and the shard files decide. A row counts if the listing has the shard's file in the row's size.
Shards without such a row are read from the metadata of their file.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raylabel.errors import StorageError
from raylabel.files.moving import remove
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.run.folder import RunFolder
from raylabel.run.labels.ownership import is_own
from raylabel.run.labels.shards import LABELS_FOLDER, shard_sizes, shard_uri
from raylabel.schema import SHARDS
from raylabel.threads import READING_THREADS, map_on_threads

LEDGER = "shards.parquet"

_WRITE_SECONDS = 10.0
_PATIENCE = 50
"""Writing the ledger takes at most one part in `_PATIENCE` of the time."""


class Ledger:
    """The driver's ledger. It knows the shards committed so far, and writes its file from time to time.

    Args:
        run: the run folder. Its committed shards are listed.
    """

    def __init__(self, run: RunFolder) -> None:
        self._uri = _ledger_uri(run)
        self._rows = read_ledger(run, shard_sizes(run))
        self._new: list[pa.Table] = []
        self._totals = {
            name: pc.sum(self._rows[name]).as_py() or 0
            for name in ("num_images", "num_quarantined", "num_in_validation")
        }
        self._next_write = 0.0

    @property
    def num_images(self) -> int:
        """Number of images in all committed shards."""
        return self._totals["num_images"]

    @property
    def num_quarantined(self) -> int:
        """Number of quarantined images in all committed shards."""
        return self._totals["num_quarantined"]

    @property
    def num_predicted(self) -> int:
        """Number of images in all committed shards that the model has predicted."""
        return self.num_images - self.num_quarantined - self._totals["num_in_validation"]

    def add(self, shards: pa.Table) -> None:
        """Add shards that a worker has committed, one row per shard, and write the file if it is time."""
        rows = _conform(shards)
        self._new.append(rows)
        for name in self._totals:
            self._totals[name] += pc.sum(rows[name]).as_py() or 0
        if time.monotonic() > self._next_write:
            self.write()

    def shards_with_quarantined(self) -> list[int]:
        """Return the ids of the shards with quarantined images, in order."""
        self._merge()
        return self._rows.filter(pc.greater(self._rows["num_quarantined"], 0))["shard_id"].to_pylist()

    def write(self) -> None:
        """Write all rows to the file. A failure is ignored because nothing depends on the file."""
        start = time.monotonic()
        self._merge()
        with suppress(OSError, StorageError):
            commit_table(self._uri, self._rows)
        end = time.monotonic()
        self._next_write = end + max(_WRITE_SECONDS, _PATIENCE * (end - start))

    def _merge(self) -> None:
        self._rows, self._new = pa.concat_tables([self._rows, *self._new]).combine_chunks().sort_by("shard_id"), []


def forget_ledger(run: RunFolder) -> None:
    """Remove the file, so that its rows are read from the shards again."""
    remove(_ledger_uri(run))


def renew_sizes(run: RunFolder) -> None:
    """Write the sizes that the shards' files have now, after the run has rewritten shards without another count."""
    uri = _ledger_uri(run)
    if exists(uri):
        rows, _ = _with_sizes(_conform(read_table(uri)), shard_sizes(run))
        commit_table(uri, rows)


def read_ledger(run: RunFolder, sizes: Mapping[int, int]) -> pa.Table:
    """Read the rows of SHARDS for exactly the committed shards, sorted by shard id.

    Shards without a row in the file that do not belong to these labels are left out.

    Args:
        run: the run folder.
        sizes: the committed shards, as `shard_sizes` lists them. A row of another size belongs to another
            file. Rows that earlier versions wrote have no size.
    """
    uri = _ledger_uri(run)
    rows = _conform(read_table(uri)) if exists(uri) else SHARDS.empty_table()
    rows, is_same = _with_sizes(rows, sizes)
    rows = rows.filter(is_same)
    known = set(rows["shard_id"].to_pylist())
    missing = [shard_id for shard_id in sizes if shard_id not in known]
    read = map_on_threads(partial(_read_row, run), missing, num_threads=READING_THREADS)
    found = [row | {"num_bytes": sizes[shard_id]} for shard_id, row in zip(missing, read, strict=True) if row]
    return pa.concat_tables([rows, pa.Table.from_pylist(found, schema=SHARDS)]).sort_by("shard_id")


def _with_sizes(rows: pa.Table, sizes: Mapping[int, int]) -> tuple[pa.Table, pa.ChunkedArray]:
    """Give the rows of committed shards the sizes of their files. Also tell which rows had that size, or none."""
    now = pa.array([sizes.get(shard_id) for shard_id in rows["shard_id"].to_pylist()], pa.int64())
    is_same = pc.fill_null(pc.equal(rows["num_bytes"], now), True)
    place = SHARDS.get_field_index("num_bytes")
    renewed = rows.set_column(place, SHARDS.field(place), now)
    return renewed.filter(now.is_valid()), is_same.filter(now.is_valid())


def _read_row(run: RunFolder, shard_id: int) -> dict[str, object]:
    uri = shard_uri(run, shard_id)
    metadata = read_table_metadata(uri)
    if not is_own(uri, metadata):
        return {}
    return {
        field.name: text if field.type == pa.string() else float(text)
        for field in SHARDS
        if (text := metadata.get(field.name)) is not None
    }


def _conform(table: pa.Table) -> pa.Table:
    """Return the columns of SHARDS. Columns that the table lacks are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in SHARDS
    ]
    return pa.table(columns, schema=SHARDS)


def _ledger_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, LEDGER)
