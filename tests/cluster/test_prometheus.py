"""Ray metrics of the label stage, as Prometheus scrapes them."""

import re
import time
import urllib.request
from collections import Counter
from typing import Any

import pytest

from raylabel.cluster.prometheus import ImagesLeft, ShardMetrics, run_tag
from raylabel.run.folder import RunFolder
from raylabel.schema import SHARD_PHASES

SAMPLE = re.compile(r"^(?P<name>ray_raylabel_\w+)\{(?P<tags>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


class Worker:
    """A worker that counts two shards in a separate process, as LabelShard does."""

    def __init__(self, run_uri: str) -> None:
        self._metrics = ShardMetrics(RunFolder(run_uri))

    def count(self, **shard: Any) -> None:
        self._metrics.count(shard)


def scrape() -> dict[tuple[str, str | None], float]:
    """Return raylabel's metrics on this node by name and phase, summed over processes."""
    import ray

    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Counter[tuple[str, str | None]] = Counter()
    for sample in SAMPLE.finditer(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', sample["tags"]))
        if tags["run"] == "metrics-test" and tags.get("le") in (None, "+Inf"):
            found[sample["name"], tags.get("phase")] += float(sample["value"])
    return dict(found)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_prometheus_scrapes() -> None:
    import ray

    run_uri = "s3://bucket/runs/metrics-test"
    worker = ray.remote(num_cpus=0)(Worker).remote(run_uri)
    seconds = {f"{phase}_seconds": 0.5 * (place + 1) for place, phase in enumerate(SHARD_PHASES)}
    for num_quarantined in (0, 2):
        ray.get(
            worker.count.remote(num_images=8, num_instances=30, num_quarantined=num_quarantined, host="h", **seconds)
        )
    ImagesLeft(RunFolder(run_uri)).show(24)
    expected: dict[tuple[str, str | None], float] = {
        ("ray_raylabel_images_total", None): 16,
        ("ray_raylabel_instances_total", None): 60,
        ("ray_raylabel_quarantined_images_total", None): 2,
        ("ray_raylabel_shards_total", None): 2,
        ("ray_raylabel_images_left", None): 24,
    }
    for place, phase in enumerate(SHARD_PHASES):
        expected["ray_raylabel_phase_seconds_total", phase] = place + 1
        expected["ray_raylabel_shard_seconds_count", phase] = 2
        expected["ray_raylabel_shard_seconds_bucket", phase] = 2
    # Processes hand their metrics to the node's agent every 10 s.
    deadline = time.monotonic() + 60
    while not expected.items() <= (found := scrape()).items():
        assert time.monotonic() < deadline, found
        time.sleep(1)


@pytest.mark.parametrize("uri", ["/data/runs/lvis_v1", "s3://bucket/runs/lvis_v1/", "s3://b/lvis_v1?region=x"])
def test_the_tag_is_the_runs_name(uri: str) -> None:
    assert run_tag(RunFolder(uri)) == "lvis_v1"
