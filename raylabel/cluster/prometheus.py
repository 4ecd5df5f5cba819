"""Ray metrics of workers, for Prometheus. Ray exports each metric under `ray_` plus its name, on every node.

`k8s/monitoring/grafana-dashboard.json` shows the metrics. They are for watching only: a worker's counters end with the
worker, and a repeated shard counts again. Totals come from committed shards.
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from raylabel.files.paths import split
from raylabel.run.folder import RunFolder
from raylabel.schema import SHARD_PHASES

IMAGES = "raylabel_images_total"
INSTANCES = "raylabel_instances_total"
QUARANTINED_IMAGES = "raylabel_quarantined_images_total"
SHARDS = "raylabel_shards_total"
PHASE_SECONDS = "raylabel_phase_seconds_total"
SHARD_SECONDS = "raylabel_shard_seconds"
IMAGES_LEFT = "raylabel_images_left"

SECONDS_BOUNDARIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]


def run_tag(run: RunFolder) -> str:
    """Return the value of the tag `run`: the last part of the run's path."""
    return split(run.uri)[1]


class ShardMetrics:
    """A worker's counts of the shards that it labelled."""

    def __init__(self, run: RunFolder) -> None:
        tags = {"run": run_tag(run)}

        def counter(name: str, about: str, *more_tags: str) -> Counter:
            made = Counter(name, description=about, tag_keys=("run", *more_tags))
            made.set_default_tags(tags)
            return made

        self._counters = {
            "num_images": counter(IMAGES, "Images of finished shards, quarantined ones included."),
            "num_instances": counter(INSTANCES, "Stored predictions."),
            "num_quarantined": counter(QUARANTINED_IMAGES, "Images that could not be labelled."),
        }
        self._shards = counter(SHARDS, "Finished shards.")
        # A counter beside the histogram, because Ray computes a histogram's sum from the middles of its bins.
        self._phase_seconds = counter(PHASE_SECONDS, "Workers' seconds per phase.", "phase")
        self._seconds = Histogram(
            SHARD_SECONDS,
            description="Seconds per shard and phase.",
            boundaries=SECONDS_BOUNDARIES,
            tag_keys=("run", "phase"),
        )
        self._seconds.set_default_tags(tags)

    def count(self, shard: Mapping[str, Any]) -> None:
        """Count a committed shard.

        Args:
            shard: its counts and seconds, named as in schema.SHARDS.
        """
        self._shards.inc(1)
        for name, counter in self._counters.items():
            # Zeros are left out, because Ray refuses to count nothing.
            if shard[name] > 0:
                counter.inc(shard[name])
        for phase in SHARD_PHASES:
            seconds = shard[f"{phase}_seconds"]
            self._seconds.observe(seconds, tags={"phase": phase})
            if seconds > 0:
                self._phase_seconds.inc(seconds, tags={"phase": phase})


class ImagesLeft:
    """The driver's gauge of pending images."""

    def __init__(self, run: RunFolder) -> None:
        self._gauge = Gauge(IMAGES_LEFT, description="Pending images of the pool.", tag_keys=("run",))
        self._gauge.set_default_tags({"run": run_tag(run)})

    def show(self, num_images: int) -> None:
        """Set the gauge to this number of images."""
        self._gauge.set(num_images)
