"""Load the pseudo-labels of a run into Ray Data, choose classes, and count the labels of each.

    python examples/ray_data_labels.py runs/demo --classes mug lamp

Each task reads one committed Parquet shard, so the labels of a large run never have to fit on one machine.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.data.expressions import col

import raylabel as rl


def pseudo_labels(run_uri: str) -> ray.data.Dataset:
    """Return one row per pseudo-label: `image_id`, `uri`, `class_name`, `score` (calibrated) and `box_xyxy`.

    Args:
        run_uri: folder or URI of a labelled run, readable from every node.
    """
    run = rl.Run(run_uri)
    read = partial(_rows_of_shard, run_uri=run.uri, names=run.classes.names)
    return ray.data.from_items([{"shard": uri} for uri in run.shards]).flat_map(read)


def _rows_of_shard(row: dict[str, Any], run_uri: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in rl.Run(run_uri).pseudo_labels([row["shard"]]):
        for image in batch.to_pylist():
            for one in image["instances"]:
                yield {
                    "image_id": image["image_id"],
                    "uri": image["uri"],
                    "class_name": names[one["class_index"]],
                    "score": one["calibrated_score"],
                    "box_xyxy": one["box_xyxy"],
                }


def main(arguments: list[str] | None = None) -> None:
    """Print the number of pseudo-labels per class."""
    parser = argparse.ArgumentParser(description="Count the pseudo-labels of a run per class with Ray Data.")
    parser.add_argument("run", help="folder or URI of a labelled run")
    parser.add_argument("--classes", nargs="+", help="names of the classes to count; all classes by default")
    options = parser.parse_args(arguments)
    labels = pseudo_labels(options.run)
    if options.classes:
        labels = labels.filter(expr=col("class_name").is_in(options.classes))
    counts = labels.groupby("class_name").count().take_all()
    for row in sorted(counts, key=lambda row: (-row["count()"], row["class_name"])):
        print(f"{row['class_name']}: {row['count()']}")


if __name__ == "__main__":
    main()
