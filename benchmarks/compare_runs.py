"""Whether two runs hold the same: models, correctors, classes, tables and fingerprints.

    python benchmarks/compare_runs.py runs/before runs/after

Files are compared byte by byte. A Parquet table that differs only in seconds, times and hosts counts as the same,
because label shards record how long they took. Both runs must have been made at the same path from the same data,
because fingerprints and labels hold paths. The exit code is 1 if there is a difference.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PATTERNS = ("**/model.safetensors", "**/corrector.json", "**/classes.json", "**/*.parquet")
VARYING = ("host", "finished_at")
"""Columns and metadata that differ from run to run, besides those that end on `seconds`."""


def files(run: Path, pattern: str) -> dict[str, Path]:
    """Return the run's files of a pattern by their place in the run. Files set aside or generated do not count."""
    found = {str(path.relative_to(run)): path for path in sorted(run.glob(pattern))}
    return {place: path for place, path in found.items() if not {"superseded", "data"} & set(Path(place).parts)}


def lasting(path: Path) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Read a table and its metadata without what differs from run to run."""

    def varies(name: str) -> bool:
        return name.endswith("seconds") or name in VARYING

    table = pq.ParquetFile(path).read()
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if not varies(key.decode())}
    return table.drop_columns([name for name in table.column_names if varies(name)]).replace_schema_metadata(), metadata


def compare(before: Path, after: Path) -> tuple[Counter[str], list[str]]:
    """Count what is the same, and list what differs."""
    same, differences = Counter[str](), list[str]()
    for pattern in PATTERNS:
        ours, theirs = files(before, pattern), files(after, pattern)
        differences += [f"{place}: only in one of the runs" for place in sorted(ours.keys() ^ theirs.keys())]
        for place in sorted(ours.keys() & theirs.keys()):
            if ours[place].read_bytes() == theirs[place].read_bytes():
                same[f"{Path(pattern).name} byte for byte"] += 1
            elif place.endswith(".parquet") and lasting(ours[place]) == lasting(theirs[place]):
                same["*.parquet but for seconds and hosts"] += 1
            else:
                differences.append(f"{place}: differs")
    for place, path in files(before, "**/artifact.json").items():
        other = after / place
        prints = [json.loads(one.read_text()).get("fingerprint") if one.exists() else None for one in (path, other)]
        if prints[0] == prints[1]:
            same["fingerprints"] += 1
        else:
            differences.append(f"{place}: another fingerprint")
    return same, differences


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare two run folders.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    for run in (options.before, options.after):
        if not (run / "config.yaml").is_file():
            parser.error(f"{run}: not a run folder, because it has no config.yaml")
    same, differences = compare(options.before, options.after)
    print("\n".join(differences + [f"same: {num} {what}" for what, num in same.items()]))
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
