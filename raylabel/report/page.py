"""Self-contained HTML pages: the report of a run, and the page of one calibration."""

import base64
from importlib.metadata import version
from pathlib import Path

import jinja2

from raylabel.calibration.tables import CalibrationTables
from raylabel.dataset.frequency import FrequencyGroup, group_title
from raylabel.redaction import redacted
from raylabel.report.calibration_view import calibration_view
from raylabel.report.console import DROPPED_BY, format_verification
from raylabel.report.drift import drift_section
from raylabel.report.gallery import choose_images, draw
from raylabel.report.sections import (
    calibration_section,
    difference_table,
    lineage,
    precision_table,
    quarantined,
    training_curves,
)
from raylabel.report.tiles import decimal, duration, headline_tiles, hundredfold
from raylabel.run.classes import has_classes, load_categories
from raylabel.run.folder import RunFolder, config_text, load_run_config, stage_folder
from raylabel.run.labels.kept import fates_of_classes
from raylabel.run.labels.shards import committed_shards
from raylabel.run.metrics import load_metrics


def build_report(run: RunFolder, *, gallery_size: int = 12) -> str:
    """Make a run's report as one HTML page without outside resources.

    The page is made from the run's files. Sections of stages that have not run say so. Secrets in URIs are hidden.

    Args:
        run: run folder with at least a config.yaml.
        gallery_size: number of pseudo-labelled images to show.

    Raises:
        InputError: the folder is not a run.
    """
    config = load_run_config(run)
    categories = load_categories(run) if has_classes(run) else []
    metrics, labels = load_metrics(run), run.artifact(stage_folder("label"))
    calibration = calibration_section(run)
    images, rule = None, ""
    if categories and committed_shards(run):
        chosen, rule = choose_images(run, config.selection, categories, gallery_size, seed=config.seed)
        images = [draw(image, categories, max_pixels=config.data.max_image_pixels) for image in chosen]
    stages = lineage(run, num_rounds=config.student.rounds)
    seconds = sum(stage["artifact"].get("seconds", 0) for stage in stages if stage["artifact"])
    content = {
        "run": run.uri,
        "version": version("raylabel"),
        "config_text": config_text(run),
        "config": config,
        "categories": categories,
        "tiles": headline_tiles(metrics, calibration, labels, seconds=seconds),
        "precision": precision_table(metrics),
        "differences": difference_table(metrics),
        "groups_are_declared": (metrics or {}).get("frequency") == "declared",
        "verification": format_verification((metrics or {}).get("verification")),
        "pool": (metrics or {}).get("pool"),
        "calibration": calibration,
        "labels": labels,
        "class_fates": fates_of_classes(run) if labels else [],
        "dropped_by": DROPPED_BY,
        "drift": drift_section(run, categories),
        "gallery": images,
        "gallery_rule": rule,
        "quarantined": quarantined(run),
        "curves_png": training_curves(run),
        "stages": stages,
        "seconds": seconds,
        "created": max((stage["artifact"].get("created", "") for stage in stages if stage["artifact"]), default=""),
    }
    return redacted(_environment().get_template("page.html").render(content))


def calibration_page(tables: CalibrationTables, *, predictions: str, annotations: str, iou_threshold: float) -> str:
    """Make the page of one calibration, such as that of a results file, as HTML without outside resources.

    Args:
        tables: tables of the calibration.
        predictions: name of the calibrated predictions.
        annotations: name of the ground truth.
        iou_threshold: smallest mask IoU of a correct prediction.
    """
    view = calibration_view(
        classes=tables.classes,
        detections=tables.detections,
        raw_bins=tables.raw_bins,
        calibrated_bins=tables.cross_validated_bins,
        summary=tables.summary,
        image_kind="annotated",
    )
    content = {
        "calibration": view,
        "predictions": predictions,
        "annotations": annotations,
        "iou_threshold": iou_threshold,
        "version": version("raylabel"),
    }
    return redacted(_environment().get_template("calibration.html").render(content))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "hundredfold": hundredfold,
        "signed_hundredfold": lambda value: f"{100 * value:+.1f}",
        "decimal": decimal,
        "signed": lambda value: decimal(value, "+.3f"),
        "base64": lambda content: base64.b64encode(content).decode(),
        "duration": duration,
    }
    environment.filters["group_title"] = group_title
    environment.globals["frequency_groups"] = list(FrequencyGroup)
    return environment
