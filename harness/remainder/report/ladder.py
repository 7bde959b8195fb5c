"""The rungs of one record in the order of the ladder, measured or not."""

from __future__ import annotations

from typing import NamedTuple

from remainder.record.metrics import RungMetrics
from remainder.record.number import Number
from remainder.record.rungs import BESIDE, CIRCUIT_RUNGS, ERROR_RUNGS, RUNGS
from remainder.record.schema import Record
from remainder.record.summary import ANNEALED_UNITS

__all__ = ["RUNG_NAMES", "Rung", "ladder"]

RUNG_NAMES = frozenset([*RUNGS, *BESIDE, *CIRCUIT_RUNGS, *ERROR_RUNGS])
"""Names of all rungs that a table may show."""

_STILL = ("scaled", "model")  # rows beside the ladder that have no noise
_NO_NOISE = "without noise, annealed is quenched"
_OF_CIRCUITS = "annealed losses of circuits are not measured"
_FEW_DRAWS = f"annealed needs {ANNEALED_UNITS} independent units of draws: measure with more --pairs"


class Rung(NamedTuple):
    """One rung of a record; without metrics, why it could not be measured."""

    name: str
    adds: str
    metrics: RungMetrics | None
    reason: str
    annealed_reason: str | None = None

    @property
    def gap(self) -> Number:
        """Quenched gap, nats per token."""
        return Number.null(self.reason) if self.metrics is None else self.metrics.quenched.gap

    @property
    def kl(self) -> Number:
        """Quenched KL, nats per token."""
        return Number.null(self.reason) if self.metrics is None else self.metrics.quenched.kl

    @property
    def annealed(self) -> Number:
        """Gap with the noise integrated out, nats per token."""
        if self.metrics is None:
            return Number.null(self.reason)
        if self.metrics.annealed is None:
            still = self.name in _STILL or (self.name in RUNGS and RUNGS[self.name].noise == "none")
            return Number.null(self.annealed_reason or (_NO_NOISE if still else _FEW_DRAWS))
        return self.metrics.annealed.gap


def ladder(record: Record) -> list[Rung]:
    """The rungs of a record in the order of the ladder, with those that its residual does not admit.

    Noise around the clean activation and refits without a fold are no rungs of the ladder.
    """
    of_sites = {name: rung.adds for name, rung in RUNGS.items()} | BESIDE
    known = CIRCUIT_RUNGS | ERROR_RUNGS if record.is_of_circuits else of_sites
    why = _OF_CIRCUITS if record.is_of_circuits else None
    rungs = []
    for name, adds in known.items():
        metrics, reason = record.metrics.rungs.get(name), record.measurement.unmeasured.get(name)
        if metrics is not None or reason is not None:
            rungs.append(Rung(name, adds, metrics, reason or "measured", why))
    return rungs
