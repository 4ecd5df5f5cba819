"""`auto` keeps calibrated scores, and with few data it chooses only families that hold back."""

import numpy as np
import pytest

from raylabel.calibration import fit_corrector
from raylabel.calibration.correctors import auto
from raylabel.calibration.correctors.auto import AutoCorrector, Trial, _is_better
from raylabel.calibration.correctors.kinds import corrector_class
from raylabel.calibration.metrics import nll
from raylabel.config import CORRECTOR_KINDS
from simulated_detections import calibrated, context, overconfident, simulated


def test_auto_leaves_what_is_calibrated() -> None:
    """Noise must rarely win. A correction may be chosen for a few seeds, but must not harm."""
    chosen = [fit_corrector("auto", simulated(seed, 600, calibrated), context=context()) for seed in range(12)]
    kinds = [corrector.chosen.kind for corrector in chosen if isinstance(corrector, AutoCorrector)]
    assert kinds.count("none") >= 9
    unseen = simulated(100, 5000, calibrated)
    raw = nll(unseen.raw_scores, unseen.is_correct)
    assert max(nll(one(unseen), unseen.is_correct) for one in chosen) < raw + 0.02


def test_auto_says_what_it_tried() -> None:
    corrector = fit_corrector("auto", simulated(0, 3000, overconfident), context=context())
    assert isinstance(corrector, AutoCorrector)
    assert set(corrector.trials) == set(CORRECTOR_KINDS) - {"auto"}
    best = min(corrector.trials, key=lambda kind: corrector.trials[kind].nll)
    assert corrector.chosen.kind == best != "none"
    assert corrector.trials["none"].gain == 0
    assert corrector.to_json()["cross_validation"][best]["gain"] > 0


def test_auto_chooses_only_what_holds_itself_back_where_detections_are_few() -> None:
    """Hardly any detection is right, so every family gains. With 200 only families that hold back may be chosen."""
    few = simulated(0, 200, lambda classes, scores: np.full(len(scores), 0.02))
    chosen = fit_corrector("auto", few, context=context())
    assert isinstance(chosen, AutoCorrector)
    assert chosen.trials["isotonic"].gain > 4 * chosen.trials["isotonic"].gain_error
    assert corrector_class(chosen.chosen.kind).holds_back


@pytest.mark.parametrize(
    ("kind", "gain", "gain_error", "num", "is_better"),
    [
        ("isotonic", 0.1, 0.049, 300, True),
        ("isotonic", 0.1, 0.051, 300, False),
        ("isotonic", 0.1, 0.049, 299, False),
        ("marginal", 0.1, 0.049, 300, True),
        ("temperature", 0.1, 0.051, 300, False),
        ("hierarchical", 0.001, 9.0, 3, True),
        ("hierarchical", 0.0, 0.0, 3000, False),
        ("contextual", 0.001, 9.0, 3, True),
        ("ccece", 0.1, 0.001, 3000, False),
        ("ccece_bins", 0.1, 0.001, 3000, False),
        ("isotonic_per_class", 0.1, 0.001, 3000, False),
        ("norcal", 0.1, 0.001, 3000, False),
    ],
)
def test_who_beats_none(kind: str, gain: float, gain_error: float, num: int, is_better: bool) -> None:
    """Two standard errors and 300 detections, unless the family holds back. Some families are tried only."""
    assert _is_better(kind, Trial(nll=0.3, gain=gain, gain_error=gain_error), num) == is_better


def test_a_family_that_is_not_eligible_is_tried_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CORRECTOR_KINDS", {"none": "", "ccece": ""})
    found = AutoCorrector.fit(simulated(0, 3000, overconfident), context())
    assert found.trials["ccece"].gain > 2 * found.trials["ccece"].gain_error
    assert found.chosen.kind == "none"


def test_one_image_proves_nothing() -> None:
    few = simulated(0, 400, overconfident, num_images=1)
    found = fit_corrector("auto", few, context=context())
    assert isinstance(found, AutoCorrector)
    assert found.trials["isotonic"].gain_error == np.finfo(float).max
