"""Near and far on one task: planned, measured or found again, and written beside the folders of records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.base.cache import Progress, silent
from remainder.errors import RecordError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import SiteTask
from remainder.measure.estimate import Estimate, estimate
from remainder.measure.gather import evaluation_part
from remainder.measure.keeping import Sources, look_at_sources
from remainder.measure.near import NEAR, PER_TOKEN
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import info
from remainder.measure.tissue_cells import tissues_for
from remainder.measure.tissues import PAIRS, Cell, calibration_windows, cells_of, measure_tokens
from remainder.record.json import sha256, significant
from remainder.record.schema import TaskInfo
from remainder.record.tissues import (
    LOSSES,
    RATIO,
    Summaries,
    Tissue,
    Tissues,
    TissueValues,
    column_of,
    summaries_of,
)
from remainder.record.tissues_file import (
    identity,
    place_of,
    read_tissues,
    rounded_values,
    tokens_to_csv,
    write_tissues,
)
from remainder.runs.flow import keeps_of
from remainder.submission.submission import Entry, SiteEntry

__all__ = [
    "PlannedTissues",
    "estimate_tissues",
    "measure_tissues",
    "plan_tissues",
    "require_tissues",
    "tissues_plan",
]

_DOCUMENTS = 16  # of a text, as many as a flow has
_RATIO = 2.0


class PlannedTissues(NamedTuple):
    """A measurement before it is made."""

    loaded: SiteTask
    entry: SiteEntry
    plan: Plan
    sources: Sources
    orders: tuple[str, ...]
    keeps: tuple[int, ...]
    full: int
    """How many sources all are."""
    asked: int
    """Tissues."""

    @property
    def cells(self) -> list[Cell]:
        """Orders and numbers of near sources that are measured."""
        return cells_of(self.orders, self.keeps, self.full)


def require_tissues(
    orders: Sequence[str] | None,
    keeps: Sequence[int] | None,
    ratio: float | None,
    shells: int | None,
    asked: int | None,
) -> None:
    """Raise TaskError for what can be told to be wrong before anything is loaded."""
    for order in orders or ():
        if order not in NEAR:
            raise TaskError(
                f"--order {order!r} is no order of near sources", fix=f"use one of {', '.join(NEAR)}"
            )
    if orders is not None and len(set(orders)) < len(orders):
        raise TaskError(
            "--order names an order twice", fix="name each once, the one that tissues are of first"
        )
    if orders is not None and "index" in orders and len(orders) > 1:
        raise TaskError(
            "--order index counts sources of the dictionary, and the others those of a token",
            fix="measure index by itself",
        )
    if keeps is not None and (ratio is not None or shells is not None):
        raise TaskError(
            "--keep names the numbers of near sources, and --ratio or --shells would choose them",
            fix="give one of both",
        )
    if asked is not None and asked < 1:
        raise TaskError(f"--tissues {asked}", fix="ask for one or more")
    keeps_of(1, _RATIO if ratio is None else ratio, shells)


def tissues_plan(loaded: LoadedTask, tier: str, documents: int | None, dtype: str | None) -> Plan:
    """The plan of a measurement.

    Args:
        documents: of the evaluation split; default: 16 of a text, else all of the tier.

    Raises:
        TaskError: as `measure.plan.plan`, or the task has no activations at a site.
    """
    task = loaded.task
    if not isinstance(loaded, SiteTask):
        raise TaskError(
            f"{task.id} has no activations at a site, and sources are near to single tokens there",
            fix="`remainder tasks` lists what there is",
        )
    if documents is None and task.corpus is not None and task.tier(tier).evaluation_windows > _DOCUMENTS:
        documents = _DOCUMENTS
    rungs = tuple(rung for rung in dict.fromkeys((*LOSSES, *RATIO)))
    found = plan(
        task, tier, rungs=rungs, pairs=PAIRS, dtype=dtype, documents=documents, device=loaded.device.type
    )
    windows = calibration_windows(loaded, found.calibration_windows)
    return found._replace(is_lean=True, is_coded=False, calibration_windows=windows)


def plan_tissues(
    loaded: LoadedTask,
    entry: Entry,
    settings: Plan,
    *,
    orders: Sequence[str] | None = None,
    keeps: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    asked: int | None = None,
    progress: Progress | None = None,
) -> PlannedTissues:
    """The measurements of a submission.

    Args:
        orders: of `measure.near`, that of the tissues first; default: attribution, dynamic and random.
        keeps: numbers of near sources; default: by `ratio` (2) and `shells`, see `runs.flow.keeps_of`.
        asked: how many tissues; default: by the number of tokens.

    Raises:
        InterpretationError: it has no sources, none with contributions where an order needs them, or breaks a
            rule.
        TaskError: a number cannot be kept, or what `require_tissues` refuses.
    """
    require_tissues(orders, keeps, ratio, shells, asked)
    if not isinstance(loaded, SiteTask) or not isinstance(entry, SiteEntry):
        raise TaskError(
            f"{entry.name} rebuilds no activations of {loaded.task.id}",
            fix="name an interpretation of a site, such as an SAE",
        )
    chosen = tuple(orders or PER_TOKEN)
    looked = "index" if chosen == ("index",) else "random" if chosen == ("random",) else "dynamic"
    sources = look_at_sources(loaded, entry, settings, looked, progress=progress)
    full = sources.live if chosen == ("index",) else sources.most
    numbers = keeps_of(full, ratio or _RATIO, shells) if keeps is None else tuple(sorted(set(keeps)))
    if not numbers or not 0 <= numbers[0] <= numbers[-1] <= full:
        where = "in its dictionary" if chosen == ("index",) else "at one token"
        raise TaskError(
            f"--keep {numbers[-1] if numbers else ''}: {entry.name} has {full} sources {where}",
            fix=f"keep 0 to {full} of them",
        )
    if asked is None:
        asked = tissues_for(*_tokens(loaded, settings))
    return PlannedTissues(loaded, entry, settings, sources, chosen, numbers, full, asked)


def _tokens(loaded: SiteTask, settings: Plan) -> tuple[int, int]:
    """Spliced tokens of the calibration windows that are looked at, and scored ones of evaluation."""
    windows = settings.calibration_windows
    calibration = sum(
        int(one.spliced.sum()) for one in loaded.activations("calibration", windows).batches(32)
    )
    count, part = evaluation_part(loaded, settings)
    evaluation = 0
    for batch in loaded.activations("evaluation", count).batches(32):
        kept = [part is None or name in part for name in batch.windows.documents]
        evaluation += sum(int(batch.scored[row].sum()) for row, one in enumerate(kept) if one)
    return calibration, evaluation


def measure_tissues(
    planned: PlannedTissues, out: Path, *, fresh: bool = False, progress: Progress | None = None
) -> Summaries:
    """Measure near and far, or find what was measured; written whole or not at all.

    Args:
        out: the folder of results.

    Raises:
        RemainderError: it cannot be measured.
    """
    loaded, plan = planned.loaded, planned.plan
    own = identity(
        loaded.task.hash,
        planned.entry.hash,
        planned.orders,
        planned.keeps,
        planned.asked,
        plan.tier,
        plan.dtype,
    )
    task = loaded.task
    place = place_of(out, task.id, task.version, planned.entry.name, planned.orders[0], own)
    if not fresh and place.is_file():
        try:
            return read_tissues(place)
        except RecordError as problem:
            raise RecordError(problem.what, fix="measure it anew by --fresh, or remove it") from problem
    found = summarised(planned, progress)
    write_tissues(found, out)
    return found


def summarised(planned: PlannedTissues, progress: Progress | None = None) -> Summaries:
    """Measure, and summarise what was found; nothing is written."""
    loaded, orders = planned.loaded, planned.orders
    found = measure_tokens(
        loaded,
        planned.sources,
        planned.plan,
        orders,
        planned.keeps,
        planned.full,
        progress or silent,
        planned.asked,
    )
    (progress or silent)(f"{planned.entry.name}: tissues, permuted", 0, None)
    first = {
        column_of(name, cell.keep): values
        for cell, columns in found.values.items()
        if cell.order == orders[0]
        for name, values in columns.items()
    }
    tokens = rounded_values(found.tokens.assign(**first))
    document = found.tokens["document"]
    sums: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {order: {} for order in orders[1:]}
    unmeasured: dict[str, dict[str, dict[str, str]]] = {order: {} for order in orders}
    for cell, columns in found.values.items():
        if found.unmeasured[cell]:
            unmeasured[cell.order][str(cell.keep)] = found.unmeasured[cell]
        if cell.order != orders[0]:
            sums[cell.order][str(cell.keep)] = {
                name: tuple(significant(float(one)) for one in _by_document(document, values))
                for name, values in columns.items()
            }
    stated = tuple(
        Tissue(calibration=size, tokens=0, documents=0, entropy=None, sources=latents, words=words)
        for size, latents, words in zip(
            found.tissues.sizes, found.tissues.sources(), found.words, strict=True
        )
    )
    values = TissueValues(orders, planned.full, tokens, sums, unmeasured, stated)
    task = loaded.task
    tissues = Tissues(
        protocol=task.protocol,
        task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
        submission=info(planned.entry),
        tier=planned.plan.tier,
        dtype=planned.plan.dtype,
        seed=task.seed,
        orders=orders,
        sources=planned.full,
        asked=planned.asked,
        calibration_windows=planned.plan.calibration_windows,
        documents=len(values.documents),
        tokens=len(tokens),
        unmeasured=unmeasured,
        sums=sums,
        follows=summaries_of(values, seed=task.seed),
        values_sha256=sha256(tokens_to_csv(tokens)),
    )
    return Summaries(tissues, tokens)


def _by_document(document: pd.Series, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over each document, sorted by id."""
    names, place = np.unique(document.to_numpy(dtype=str), return_inverse=True)
    return np.bincount(place, values, minlength=len(names)).astype(np.float64)


def estimate_tissues(planned: PlannedTissues) -> Estimate:
    """Foresee the measurement of all orders and numbers; see `measure.estimate`."""
    cells = len(planned.cells)
    return estimate(planned.loaded, [planned.entry] * cells, planned.plan)
