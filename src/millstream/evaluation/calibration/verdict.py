"""What the figures of a calibration mean, in plain sentences."""

from typing import Final

from millstream.evaluation.calibration.agreement import Estimate
from millstream.evaluation.calibration.measure import Figures
from millstream.evaluation.wording import counted

_FEWEST: Final = 5
FEW: Final = 30
"""Below it a kappa's interval spans most of the scale."""
_GOOD, _POOR = 0.6, 0.4
"""Where agreement begins to be substantial, and ends to be fair: Landis and Koch, Biometrics 33, 1977."""


def verdict(figures: Figures, n: int) -> str:
    """One sentence: may the judge stand in for people?

    Args:
        figures: of the calibration.
        n: answers that both have scored.
    """
    name, found = "kappa", figures.kappa
    if figures.weighted_kappa is not None and figures.weighted_kappa.low is not None:
        name, found = "weighted kappa", figures.weighted_kappa
    if n == 0:
        return "Nothing can be said: no answer has a score of both."
    if found.value is None:
        return (
            "Nothing can be said: people gave one score to all answers, and so did the judge; "
            "label answers that differ."
        )
    if found.low is None or found.high is None or n < _FEWEST:
        return f"Nothing can be said from {counted(n, 'answer')}."
    return f"{_judgement(found.low, found.high, n)} ({name} {_told(found)}){_leanings(figures)}."


def notes(figures: Figures, n: int) -> list[str]:
    """What a reader should know of the numbers, a sentence each."""
    told = []
    if n < FEW:
        told.append(
            f"Only {counted(n, 'answer')}: the intervals are wide and approximate; 100 labels or more make "
            "them useful."
        )
    if figures.correlation.value is None and n > 1:
        told.append("People or the judge gave one score to all answers: there is no correlation.")
    return told


def _judgement(low: float, high: float, n: int) -> str:
    if low <= 0 < high:
        return f"With {counted(n, 'answer')} the judge's agreement with people cannot be told from chance"
    if high < _POOR:
        return "The judge agrees with people too little to stand in for them"
    if low >= _GOOD:
        return "The judge agrees with people well"
    if high <= _GOOD:
        return "The judge agrees with people in part"
    return "The judge agrees with people better than chance; how well, these labels leave open"


def _leanings(figures: Figures) -> str:
    told = []
    apart, length, place = figures.mean_difference, figures.length_bias, figures.position_bias
    if side := _side(apart, 0):
        told.append(
            f"it scores {'higher' if side > 0 else 'lower'} than they do, by {_told(apart, signed=False)}"
        )
    if side := _side(length, 0):
        told.append(f"it favours {'longer' if side > 0 else 'shorter'} answers (correlation {_told(length)})")
    if place is not None and (side := _side(place, 0.5)):
        told.append(
            f"it favours the answer shown {'first' if side > 0 else 'second'} "
            f"(share of the first {_told(place)})"
        )
    return "".join(f"; {one}" for one in told)


def _side(found: Estimate, nothing: float) -> int:
    """On which side of `nothing` the whole interval lies: 1, -1, or 0 for neither."""
    if found.low is None or found.high is None:
        return 0
    return (found.low > nothing) - (found.high < nothing)


def _told(found: Estimate, *, signed: bool = True) -> str:
    ends = [found.value or 0.0, found.low or 0.0, found.high or 0.0]
    if not signed and ends[0] < 0:
        ends = [-ends[0], -ends[2], -ends[1]]
    value, low, high = (f"{end:.2f}" for end in ends)
    return f"{value}, {low} to {high}"
