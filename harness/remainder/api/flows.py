"""`flow`: an interpretation with ever fewer of its sources kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remainder.api.arguments import AnyTask, entry_of, opened, spec_of
from remainder.base.cache import Progress
from remainder.base.files import require_folder
from remainder.base.progress import shown
from remainder.errors import RecordError, TaskError
from remainder.record.flow_file import flow_place
from remainder.report.flow_result import FlowResult
from remainder.runs.flow import flow_plan, measure_flow, plan_flow, require_asked

__all__ = ["flow"]


def flow(
    task: AnyTask,
    submission: Any,
    *,
    order: str | None = None,
    keep: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    also: Sequence[str] = (),
    out: str | Path = "results",
    name: str | None = None,
    tier: str = "quick",
    documents: int | None = None,
    dtype: str | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    fresh: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> FlowResult:
    """Keep fewer and fewer sources: at which scale does what is left out become a Gaussian bath?

    Every shell is measured as an interpretation of its own, and its record is kept in `out`; who calls this
    again, after an interruption or with more shells, gets finished ones from there. What `remainder flow`
    finished there is found too.

    Args:
        task, name, tier, dtype, ignore_fields, trust_code, device, batch_size, progress: as for `evaluate`.
        submission: as `interpretation` of `evaluate`; its codes are the sources, or the edges or nodes of its
            circuits.
        order: in which sources are kept: `dynamic` (largest contributions of each token), `energy`,
            `variance`, `attribution`, `index` (prefixes of the dictionary) or `random`. Default: `dynamic`.
            Circuits keep edges or nodes of largest score, at their own sizes.
        keep: how many sources the shells keep; default: by `ratio` and `shells`.
        ratio: how many times the sources of a shell the one above it keeps; default: 2.
        shells: how many at most, beside the one that keeps none; default: all.
        also: rungs of every shell besides, such as `cluster` and `neighbour`; `coupled` fits amplitudes of
            source and noise, which `k_bath` then compares at.
        out: the folder where records are kept, and found again; the flow's own file lies there too.
        documents: of the evaluation split; default: 16 of a text, else all of the tier.
        fresh: measure finished shells too.

    Raises:
        RemainderError: with what is wrong and how to mend it; before anything is measured, where that can be
            told. Shells that were finished before it are kept.
    """
    keeps = None if keep is None else numbers_of(keep)
    require_asked(order, keeps, ratio, shells)
    folder = Path(out)
    require_folder(folder, "out", RecordError)
    spec = spec_of(task)
    entry = entry_of(submission, spec, name, ignore_fields, trust_code)
    with shown(progress) as tell:
        loaded = opened(task, spec, device, batch_size, tell)
        planned = plan_flow(
            loaded,
            entry,
            flow_plan(loaded, tier, documents, dtype, more=(also,) if isinstance(also, str) else also),
            order=order,
            keeps=keeps,
            ratio=ratio,
            shells=shells,
            out=None if fresh else folder,
            progress=tell,
        )
        found, records = measure_flow(planned, folder, fresh=fresh, progress=tell)
    return FlowResult(found, records, flow_place(found, folder))


def numbers_of(keep: Any) -> list[int]:
    """Numbers of sources, as people give them.

    Raises:
        TaskError: it is no list of whole numbers.
    """
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise TaskError(f"keep is {keep!r}", fix="give a list of numbers, such as [0, 1, 2, 4]")
    for one in keep:
        if isinstance(one, bool) or not isinstance(one, int):
            raise TaskError(f"keep holds {one!r}, which is no number of sources", fix="give whole numbers")
    return list(keep)
