"""`levels`: interpretations over each other, each measured in the next finer one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remainder.api.arguments import AnyTask, entry_of, opened, spec_of
from remainder.api.flows import numbers_of
from remainder.base.cache import Progress
from remainder.base.files import require_folder
from remainder.base.progress import shown
from remainder.errors import RecordError
from remainder.record.levels_file import levels_place
from remainder.report.levels_result import LevelsResult
from remainder.runs.flow import require_asked
from remainder.runs.levels import levels_plan, measure_levels, plan_levels

__all__ = ["levels"]


def levels(
    task: AnyTask,
    submissions: Any,
    *,
    order: str | None = None,
    keep: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    out: str | Path = "results",
    names: Sequence[str] | None = None,
    tier: str = "quick",
    documents: int | None = None,
    dtype: str | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    fresh: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> LevelsResult:
    """Put each level in the next finer one: is what that adds a Gaussian fluctuation around the coarser?

    Every level has a record in `out`; who calls this again, after an interruption, gets finished ones from
    there. What `remainder levels` finished there is found too.

    Args:
        task, tier, dtype, ignore_fields, trust_code, device, batch_size, progress: as for `evaluate`.
        submissions: one, as `interpretation` of `evaluate`, whose shells are the levels; or a list of some,
            which are the levels, coarsest first.
        order, keep, ratio, shells: of one submission's shells, as for `flow`.
        out: the folder where records are kept, and found again; the levels' own file lies there too.
        names: of the submissions, where they are objects; default: the names of their classes.
        documents: of the evaluation split; default: 16 of a text, else all of the tier.
        fresh: measure finished levels too.

    Raises:
        RemainderError: with what is wrong and how to mend it; before anything is measured, where that can be
            told. Levels that were finished before it are kept.
    """
    keeps = None if keep is None else numbers_of(keep)
    require_asked(order, keeps, ratio, shells)
    folder = Path(out)
    require_folder(folder, "out", RecordError)
    given = list(submissions) if isinstance(submissions, (list, tuple)) else [submissions]
    called: list[str | None] = [None] * len(given) if names is None else list(names)
    if len(called) != len(given):
        raise RecordError(f"{len(called)} names, and {len(given)} submissions", fix="give one name for each")
    spec = spec_of(task)
    entries = [
        entry_of(one, spec, name, ignore_fields, trust_code) for one, name in zip(given, called, strict=True)
    ]
    with shown(progress) as tell:
        loaded = opened(task, spec, device, batch_size, tell)
        planned = plan_levels(
            loaded,
            entries,
            levels_plan(loaded, tier, documents, dtype),
            order=order,
            keeps=keeps,
            ratio=ratio,
            shells=shells,
            progress=tell,
        )
        found, records = measure_levels(planned, folder, fresh=fresh, progress=tell)
    return LevelsResult(found, records, levels_place(found, folder))
