"""Seconds and memory of choosing a portion of a labelled set of LVIS's size, and the classes that it loses.

    python benchmarks/portions.py --classes ../shared/data/lvis_reference/lvis_v1_train_cat_info.json

The set has 100,170 images. Each class has its number of images in LVIS v1's training set, spread over images of unequal
busyness. `blind` is a portion of the same size that is drawn without a look at classes. `share` is the median share of
a class with more than 1,000 images, relative to the portion's.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_records import IMAGES, ImageTable, Origin
from raylabel.dataset.object_rows import rows_in_memory
from raylabel.dataset.portions import portion_rows

NUM_IMAGES = 100_170
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=Path, required=True, help="JSON list with `image_count` of each class")
    arguments = parser.parse_args()
    annotated = generated_set([one["image_count"] for one in json.loads(arguments.classes.read_text())])
    counts, rng = annotated.class_image_counts(), np.random.default_rng(1)
    print(f"{len(annotated):,} images, {counts.sum():,} pairs of image and class, {annotated.num_classes:,} classes")
    print(f"{'images':>8}{'CPU s':>8}{'more MiB':>10}{'absent':>8}{'blind':>8}{'share':>8}")
    for fraction in FRACTIONS:
        before, start = peak_mib(), time.process_time()
        rows = portion_rows(annotated, fraction, 0)
        seconds, more_mib = time.process_time() - start, peak_mib() - before
        taken = annotated.subset(rows).class_image_counts()
        blind = annotated.subset(rng.choice(len(annotated), len(rows), replace=False)).class_image_counts()
        share = float(np.median((taken / (counts * fraction))[counts > 1000]))
        print(
            f"{len(rows):>8,}{seconds:>8.2f}{more_mib:>10.0f}"
            f"{(taken == 0).sum():>8}{(blind == 0).sum():>8}{share:>8.2f}"
        )


def generated_set(image_counts: list[int]) -> AnnotatedSet:
    """Return a set of columns alone: its images have no objects that could be read."""
    rng = np.random.default_rng(0)
    busyness = rng.lognormal(0, 0.8, NUM_IMAGES)
    shares = busyness / busyness.sum()
    pairs = np.concatenate(
        [
            rng.choice(NUM_IMAGES, num, replace=False, p=shares) * len(image_counts) + index
            for index, num in enumerate(image_counts)
        ]
    )
    images, classes = np.divmod(np.sort(pairs), len(image_counts))
    starts = pa.array(np.searchsorted(images, np.arange(NUM_IMAGES + 1)).astype(np.int32))
    lists = pa.ListArray.from_arrays(starts, pa.array(classes.astype(np.int32)))
    names = pa.array([str(number) for number in range(NUM_IMAGES)])
    known = {"image_id": names, "file_name": names, "object_classes": lists, "annotated_classes": lists}
    columns = [known.get(field.name, pa.nulls(NUM_IMAGES, field.type)) for field in IMAGES]
    objects, _ = rows_in_memory([])
    table = ImageTable.of_file(pa.RecordBatch.from_arrays(columns, schema=IMAGES), Origin(objects, ""))
    categories = tuple(Category(category_id=number, name=str(number)) for number in range(len(image_counts)))
    return AnnotatedSet(images=table, categories=categories, is_federated=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
