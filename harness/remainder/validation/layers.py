"""Claims on layers: a chain of sites that are coarse-grained from below.

The script of expected values names the tasks of the sites, in the order of a pass, as `SITES`. Layers are
claimed under the interpretations of these sites with " + " between and " across layers" behind them, such as
"subspace + subspace across layers". Quantities are `K: NAME at S`, a number of the S-th site (from 1) with K
sources kept at every site, and `K: NAME`, one of all sites together: the fields of
`record.layers.SiteNumbers` and `ChainNumbers`, with spaces.

The claims lie beside the script of expected values, in a script `layers.py` that defines `claims` as that
does, for the hash of a task may not move when claims are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remainder.errors import MeasurementError, TaskError
from remainder.loading.open import open_task
from remainder.measure.layers import LayerValues, measure_layers
from remainder.record.layers import ratios_of
from remainder.runs.layers import layers_plan, plan_layers
from remainder.submission.open import submissions_for
from remainder.task.spec import load_task
from remainder.validation.claims import ClaimedQuantity
from remainder.validation.quantities import Measured, ratio_error
from remainder.validation.several_sites import JOINED

__all__ = ["ACROSS", "LAYERS", "LayerMeasurements", "measure_layers_of"]

ACROSS = " across layers"
"""Text behind the interpretations of all sites."""

LAYERS = "layers.py"
"""Name of the script of claims on layers."""


@dataclass(frozen=True)
class LayerMeasurements:
    """A chain that was measured, from which claimed quantities can be read."""

    name: str
    """The script and the interpretations, for messages."""
    values: LayerValues

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: if it was not measured.
        """
        assert quantity.shell is not None
        found = ratios_of(self.values.sums[quantity.shell], self.values.tokens)
        if quantity.site is not None and not 0 < quantity.site <= len(found.sites):
            raise self._missing(quantity, f"there are {len(found.sites)} sites")
        numbers = found.whole if quantity.site is None else found.sites[quantity.site - 1]
        ratio = numbers[str(quantity.rung)]
        if isinstance(ratio, str):
            raise self._missing(quantity, ratio)
        return Measured(
            float(ratio.numerator.sum() / ratio.denominator.sum()),
            ratio_error(ratio.numerator, ratio.denominator),
            len(ratio.numerator) - 1,
        )

    def _missing(self, quantity: ClaimedQuantity, why: str) -> MeasurementError:
        return MeasurementError(
            f"{self.name}: {quantity.text} has no value: {why}",
            fix="claim only what this control can measure",
        )


def measure_layers_of(
    script: Any,
    place: str,
    name: str,
    seed: int,
    tier: str,
    device: str,
    quantities: Sequence[ClaimedQuantity],
) -> LayerMeasurements:
    """Measure the chain of a script in the world of a seed, with as many sources kept as is claimed of.

    Args:
        place: name of the script in messages.
        name: the interpretations of the sites, and `ACROSS`.

    Raises:
        TaskError: the script names no chain, or not as many sites as interpretations.
        RemainderError: it cannot be measured.
    """
    tasks = [load_task(task) for task in getattr(script, "SITES", ())]
    names = name.removesuffix(ACROSS).split(JOINED)
    if len(tasks) != len(names):
        raise TaskError(
            f"{place}: {name} is of {len(names)} sites, and SITES names {len(tasks)}",
            fix="name the tasks of all sites in SITES",
        )
    loaded = [open_task(task.model_copy(update={"seed": seed}), device=device) for task in tasks]
    entries = [submissions_for(one, [own])[0] for one, own in zip(loaded, names, strict=True)]
    keeps = sorted({one.shell for one in quantities if one.shell is not None})
    planned = plan_layers(loaded, entries, layers_plan(loaded, tier), keeps=keeps)
    return LayerMeasurements(f"{place}: {name}", measure_layers(planned.chain, planned.keeps, planned.plan))
