"""Stage 7: the report, one HTML file of what the run's folder says."""

from typing import Any

from raylabel.config import Config
from raylabel.files.storage import commit_bytes
from raylabel.report.page import build_report
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.rounds import further_rounds
from raylabel.run.stage import execute_stage, finished


def stage_inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """All that the outcome depends on."""
    stages = ("prototypes", "teacher", "calibrate", "label", "distill", "evaluate")
    inputs = {stage: finished(run, stage)["fingerprint"] for stage in stages}
    rounds = further_rounds(config, run)
    inputs |= {f"round-{number}": finished(one, "distill")["fingerprint"] for number, one in rounds.items()}
    inputs |= {"corrector": finished(run, "label")["corrector_digest"], "pool": finished(run, "label")["pool_digest"]}
    return inputs


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Write report/index.html from the files in the run; stages that are not finished are named as such."""

    def work() -> dict[str, Any]:
        page = build_report(run).encode()
        commit_bytes(run.path("report", "index.html"), page)
        return {"num_bytes": len(page)}

    artifact = execute_stage(run, "report", stage_inputs(config, run, RunData(config)), work)
    print(f"report: {run.path('report', 'index.html')}", flush=True)
    return artifact
