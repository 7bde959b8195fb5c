"""Residuals for tests and sums of squares for explained variance, gathered along the evaluation split.

Source: protocol 1, sections 6 and 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from remainder.errors import MeasurementError, TaskError
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.plan import Plan

__all__ = ["Residuals", "add_reconstruction", "evaluation_part", "mean_activation", "nothing_spliced"]


@dataclass
class Residuals:
    """Residuals and reconstructions at spliced positions, and the number of each row's document."""

    rows: list[Tensor] = field(default_factory=list)
    reconstructions: list[Tensor] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def update(self, batch: Batch, reconstruction: Tensor) -> None:
        """Add the residuals and reconstructions of a batch."""
        estimate = reconstruction.double()
        self.rows.append((batch.prefix.x_out.double() - estimate)[batch.spliced].cpu())
        self.reconstructions.append(estimate[batch.spliced].cpu())
        for document, count in zip(batch.windows.documents, batch.spliced.sum(1).tolist(), strict=True):
            self.documents += [self._numbers.setdefault(document, len(self._numbers))] * count


def add_reconstruction(
    rows: list[dict[str, Any]], batch: Batch, codes: Tensor, reconstruction: Tensor, mean: Tensor
) -> None:
    """Sums of squares and active features over the spliced positions of each window, into its row."""
    x = batch.prefix.x_out.double()
    residual = (x - reconstruction.double()).square().sum(-1)
    centred = (x - mean.to(x.device)).square().sum(-1)
    active = (codes != 0).sum(-1)
    for i, row in enumerate(rows):
        mask = batch.spliced[i]
        row["residual_ss"] = float(residual[i][mask].sum())
        row["centred_ss"] = float(centred[i][mask].sum())
        row["active"] = int(active[i][mask].sum())
        row["spliced"] = int(mask.sum())


def mean_activation(batches: Iterator[Batch]) -> Float[Tensor, " d"]:
    """Mean clean activation over the spliced positions of the evaluation split, float64."""
    total, count = None, 0
    for batch in batches:
        rows = batch.prefix.x_out[batch.spliced].double()
        total = rows.sum(0) if total is None else total + rows.sum(0)
        count += len(rows)
    if total is None or count == 0:
        raise nothing_spliced()
    return total / count


def evaluation_part(loaded: SiteTask, plan: Plan) -> tuple[int, frozenset[str] | None]:
    """How many evaluation windows a plan looks at, and the documents of these (None: all) that it measures.

    Raises:
        TaskError: if there are not more documents than the plan wants of them.
    """
    names = loaded.windows("evaluation").first(plan.evaluation_windows).documents
    if plan.documents is None:
        return len(names), None
    different = list(dict.fromkeys(names))
    if len(different) <= plan.documents:
        raise TaskError(
            f"{loaded.task.id} has {len(different)} evaluation documents in this tier, and {plan.documents} "
            "of them were asked for",
            fix="leave the number of documents out to measure all",
        )
    part = frozenset(different[: plan.documents])
    return 1 + max(place for place, name in enumerate(names) if name in part), part


def nothing_spliced() -> MeasurementError:
    """The error of a task that masks everything."""
    return MeasurementError(
        "no position is spliced",
        fix="look at what the task masks: special tokens and sink_norm of a text, `spliced` of a script",
    )
