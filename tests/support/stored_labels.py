"""Stored labels of a run, read all at once."""

from typing import Any

import pyarrow as pa

from raylabel.files.tables import read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LabelledImage, committed_shards, labelled_images
from raylabel.schema import LABELS


def label_table(run: RunFolder) -> pa.Table:
    """Read the rows of every committed shard, in order."""
    tables = [read_table(uri).replace_schema_metadata(None) for uri in committed_shards(run).values()]
    return pa.concat_tables(tables) if tables else LABELS.empty_table()


def label_rows(run: RunFolder) -> list[dict[str, Any]]:
    """Read the same rows as dicts."""
    return label_table(run).to_pylist()


def all_labelled_images(run: RunFolder, num_classes: int) -> list[LabelledImage]:
    """Read the same rows as instances."""
    return [image for uri in committed_shards(run).values() for image in labelled_images(uri, num_classes)]
