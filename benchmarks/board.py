"""The figures of one run: who was measured at what, sample by sample."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """What is measured, in which unit, and with how many digits it is shown."""

    title: str
    unit: str
    digits: int = 0


class Board:
    """Samples by measure and who. Samples of one measure were taken in turns, so their ratios are paired."""

    def __init__(self, measures: Sequence[Measure], who: Sequence[str]) -> None:
        """Name the rows and the columns."""
        self.measures = measures
        self.who = who
        self._samples: dict[tuple[Measure, str], list[float]] = {}
        #: Why a figure is missing, or what is to be known of it.
        self.notes: dict[tuple[Measure, str], str] = {}

    def add(self, measure: Measure, who: str, *samples: float) -> None:
        """Add samples; infinity is one that did not come within its cap."""
        self._samples.setdefault((measure, who), []).extend(samples)

    def note(self, measure: Measure, who: str, text: str) -> None:
        self.notes[measure, who] = text

    def samples(self, measure: Measure, who: str) -> Sequence[float]:
        return self._samples.get((measure, who), [])

    def median(self, measure: Measure, who: str) -> float | None:
        """Return the median sample; None: there is none."""
        found = self.samples(measure, who)
        return statistics.median(found) if found else None

    def ratio(self, measure: Measure, who: str, base: str) -> float | None:
        """Return the median of the ratios of samples that were taken in the same turn."""
        pairs = list(zip(self.samples(measure, who), self.samples(measure, base), strict=False))
        return statistics.median(one / other for one, other in pairs) if pairs else None

    def difference(self, measure: Measure, who: str, base: str) -> float | None:
        """Return the median of the differences of samples that were taken in the same turn."""
        pairs = list(zip(self.samples(measure, who), self.samples(measure, base), strict=False))
        return statistics.median(one - other for one, other in pairs) if pairs else None

    def to_dict(self) -> dict[str, dict[str, list[float | None]]]:
        """Give all samples by title and who; one beyond its cap is None."""
        return {
            measure.title: {
                who: [sample if math.isfinite(sample) else None for sample in self.samples(measure, who)]
                for who in self.who
                if self.samples(measure, who)
            }
            for measure in self.measures
        }


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the sample below which so many percent lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
