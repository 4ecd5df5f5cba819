"""What every node must have: a view of the run folder, and the GPUs that Ray counts there."""

import subprocess
import sys
from pathlib import Path

import pytest

from raylabel.cluster import nodes
from raylabel.errors import InputError
from raylabel.run.folder import RunFolder


def test_a_node_must_see_the_run_and_its_gpus() -> None:
    run, report = RunFolder("/only/here"), {"host": "n1", "sees_run": True, "num_cuda_devices": 0, "torch_cuda": None}
    nodes._check_report(nodes._NodeReport(**report), run, num_gpus=0)
    nodes._check_report(nodes._NodeReport(**report | {"num_cuda_devices": 1}), run, num_gpus=1)
    with pytest.raises(InputError, match=r"n1: does not see the run folder /only/here\. Give --out as a URI"):
        nodes._check_report(nodes._NodeReport(**report | {"sees_run": False}), run, num_gpus=0)
    with pytest.raises(InputError, match=r"n1: Ray counts 2 GPUs there, torch sees none \(torch is built for CPUs\)"):
        nodes._check_report(nodes._NodeReport(**report), run, num_gpus=2)


TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
import ray
from raylabel.errors import InputError
from raylabel.cluster.nodes import check_nodes
from raylabel.run.folder import RunFolder

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, num_gpus=1)
ray.init(address=cluster.address, log_to_driver=False)
run = RunFolder(sys.argv[1])
check_nodes(run, uses_gpus=False)
try:
    check_nodes(run, uses_gpus=True)
except InputError as refusal:
    print(refusal)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_gpu_that_is_counted_but_not_there(tmp_path: Path) -> None:
    """Check a real cluster of two nodes. One node claims to have a GPU."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    [line] = done.stdout.splitlines()
    assert "Ray counts 1 GPUs there, torch sees none" in line
    assert list((tmp_path / "run").iterdir()) == [], "the probe is removed"
