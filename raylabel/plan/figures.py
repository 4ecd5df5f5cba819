"""The measured figures that a plan multiplies, and where docs/ has them."""

from typing import NamedTuple

from raylabel.run.labels.disk_need import BYTES_PER_INSTANCE, INSTANCES_PER_IMAGE


class Figure(NamedTuple):
    """A measured figure that the plan multiplies.

    Attributes:
        value: the figure.
        about: the figure with its unit, as people read it.
        origin: page of docs/ and heading that has the figure.
        quoted: the words of that section that state it.
    """

    value: float
    about: str
    origin: str
    quoted: str


_COUNTS, _TIME, _MEMORY = "scale.md#what-a-plan-counts", "scale.md#time", "scale.md#memory"
_LABELLING, _WORKERS = "results.md#labelling-at-scale", "clusters.md#memory"

FIGURES = {
    "bytes_per_instance": Figure(BYTES_PER_INSTANCE, "430 bytes per stored prediction", _COUNTS, "430 bytes"),
    "instances_per_image": Figure(INSTANCES_PER_IMAGE, "37 predictions per image", _COUNTS, "37 predictions"),
    "decoding_cpus": Figure(2, "2 CPUs beside a GPU pod's workers, for decoding", _COUNTS, "2 CPUs beside"),
    "cpu_pod_gib": Figure(4, "4 GiB per CPU of a pod without GPU", _COUNTS, "4 GiB per CPU"),
    "gpu_pod_gib": Figure(6, "6 GiB per CPU of a pod with GPUs", _COUNTS, "6 with GPUs"),
    "keys_per_request": Figure(1000, "1,000 keys per listing request", _TIME, "1,000 keys a request"),
    "listing": Figure(7.7e-6, "7.7 s to list 10^6 lines of a manifest", _TIME, "7.7 s for 10^6"),
    "driver_shards": Figure(30, "30 shards/s through the driver of `label`", _TIME, "30 shards/s"),
    "survey_cpu": Figure(0.062, "62 ms of CPU per shard for totals, selection, drift", _TIME, "62 ms of CPU"),
    "survey_driver": Figure(0.00062, "0.62 ms of the driver", _TIME, "0.62 ms of the driver"),
    "index_cpu": Figure(0.071, "71 ms of CPU per shard for the pool's index", _TIME, "71 ms of CPU"),
    "index_driver": Figure(0.00054, "0.54 ms of the driver", _TIME, "0.54 ms of the driver"),
    "corrector_cpu": Figure(0.110, "110 ms of CPU per shard for another corrector", _TIME, "110 ms of CPU"),
    "corrector_driver": Figure(0.00037, "0.37 ms of the driver", _TIME, "0.37 ms of the driver"),
    "driver_mib": Figure(60, "60 MiB of the driver", _MEMORY, "62 MiB for 10^6"),
    "driver_mib_per_image": Figure(2e-6, "2 MiB of the driver per 10^6 images", _MEMORY, "about 260 MiB"),
    "survey_reads": Figure(3, "3 reads per shard for totals, selection, drift", _LABELLING, "14.2 | 13.8 ms | 3 |"),
    "index_reads": Figure(8, "8 reads per shard for the pool's index", _LABELLING, "28.1 | 27.1 ms | 8 |"),
    "process_gb": Figure(0.9, "0.9 GB for Python, torch and Ray", _WORKERS, "Python, torch, Ray | | | 0.9"),
    "reader_gb": Figure(0.5, "0.5 GB per reader", _WORKERS, "half a GB per reader"),
    "counted_memory": Figure(0.7, "70% of a machine's memory counts", _WORKERS, "about 70%"),
}
"""Name -> figure. tests/test_plan.py holds that docs/ has each of them."""


def value(name: str) -> float:
    """Return a figure by its name."""
    return FIGURES[name].value
