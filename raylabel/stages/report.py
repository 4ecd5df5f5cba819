"""Stage 7: write the report, one HTML file made from the run folder."""

from itertools import takewhile
from typing import Any

from raylabel.config import Config
from raylabel.files.committing import commit_bytes
from raylabel.redaction import redacted
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder, report_uri
from raylabel.run.rounds import further_rounds
from raylabel.run.stage import execute_stage, finished


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    before = takewhile(lambda spec: spec.name != "report", STAGES)
    labels, rounds = finished(run, "label"), further_rounds(config, run)
    verification = finished(run, "evaluate")["metrics"].get("verification")
    return {
        **{spec.name: finished(run, spec.name)["fingerprint"] for spec in before},
        **{f"round-{number}": finished(one, "distill")["fingerprint"] for number, one in rounds.items()},
        "corrector": labels["corrector_digest"],
        "pool": labels["pool_digest"],
        **({"verification": verification} if verification else {}),
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return nothing: every setting of this stage makes it run again."""
    return {}


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Write report/index.html from the files in the run. It names the stages that are not finished."""

    from raylabel.report.page import build_report  # here, because other stages' states need no plots

    def work() -> dict[str, Any]:
        page = build_report(run).encode()
        commit_bytes(report_uri(run), page)
        return {"num_bytes": len(page)}

    artifact = execute_stage(run, "report", inputs(config, run, RunData(config, run)), work)
    print(f"report: {redacted(report_uri(run))}", flush=True)
    return artifact
