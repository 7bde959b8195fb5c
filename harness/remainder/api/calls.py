"""`evaluate(task, interpretation)`, `evaluate_all` for several at once, and their worst tokens."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from remainder.api.arguments import entry_of, opened, place_of, rungs_of, spec_of
from remainder.base.cache import Progress
from remainder.base.progress import shown
from remainder.errors import InterpretationError, RemainderError
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan, plan
from remainder.measure.tokens import TOKENS, require_text
from remainder.measure.tokens import worst_tokens as worst_of
from remainder.report.result import Result
from remainder.report.results import Stored, Unmeasured, frame_of_sweep
from remainder.runs.cells import sweep
from remainder.runs.work import Row
from remainder.submission.objects import ObjectSubmission, label_of
from remainder.submission.submission import Entry
from remainder.task.spec import Task

__all__ = ["evaluate", "evaluate_all", "worst_tokens"]

_PARTS = 3  # of an object, in a warning


def evaluate(
    task: str | Path | Task | LoadedTask,
    interpretation: Any,
    *,
    coarse: Any = None,
    name: str | None = None,
    tier: str = "quick",
    rungs: tuple[str, ...] | list[str] | str | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    compat: bool | Sequence[str] = False,
    documents: int | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> Result:
    """Score an interpretation on a task.

    Args:
        task: an id such as `smollm2-135m/resid-15`, the folder of a task, or a task that `open_task` made
            ready (to score several interpretations with one model in memory; `device` and `batch_size` are
            then those that it was opened with).
        interpretation: anything with `encode` and `decode` on tensors [docs, positions, width], such as a
            sae-lens `SAE`; of a task of circuits a `Circuit` or a `Ranking`; or, as a string or path, what
            `remainder run --with` takes.
        coarse: a coarser interpretation of the same site. Then it is the one that is scored, with what
            `interpretation` adds to it as its residual: is the finer level just noise over the coarser?
            The clean loss is that of `interpretation`, and rung `model` the untouched model.
        name: what the scored one is called in tables; default: the name of its class or folder.
        tier: `quick` or `standard`; of a text also `demo`, a first table, which no board takes.
        rungs: default: those of the task; of circuits these are backgrounds. `board`: what every row of the
            board has. `all`: every rung, annealed losses, the telescope, couplings, and
            tests of Gaussianity; of a text, `compat` too.
        pairs: antithetic pairs of draws; default: those of the tier.
        dtype: `float32` or `bfloat16`, of the model after the site; default: that of the tier, but float32
            on a CPU that has no units for bfloat16.
        compat: the field's own metrics too, with their masks (texts only): True for those of every peer, or
            names, such as `("saelens",)`, of `saelens`, `saebench` and `dictionary_learning`.
        documents: how many of the tier's evaluation documents are measured, for a first look; the record
            says so, and no board takes it. Default: all.
        ignore_fields: of the config of what is scored, to be passed over where they would be refused; the
            record's warnings name them.
        trust_code: whether the code of a submission that is code may be executed, in a confined process; see
            docs/design/code.md.
        device: `auto`, `cpu` or `cuda`.
        batch_size: windows in one forward pass; default: of a text up to 8 (on a GPU 32), of a script's
            examples 64.
        progress: True for a bar, False for none, or a function that is told what is being done, how much of
            it is done, and how much there is (or None). Default: a bar in a notebook, none in a script.

    Raises:
        RemainderError: with what is wrong and how to mend it.
    """
    spec = spec_of(task)
    chosen = plan(
        spec,
        tier,
        rungs=rungs_of(rungs),
        pairs=pairs,
        dtype=dtype,
        compat=compat,
        documents=documents,
        device=place_of(task, device),
    )
    # Before anything is loaded, whatever can be refused at once.
    scored = entry_of(interpretation if coarse is None else coarse, spec, name, ignore_fields, trust_code)
    finer = None if coarse is None else entry_of(interpretation, spec, None, trust_code=trust_code)
    with shown(progress) as tell:
        loaded = opened(task, spec, device, batch_size, tell)
        return Result(*loaded.measure(scored, chosen, reference=finer, progress=tell))


def evaluate_all(
    task: str | Path | Task | LoadedTask,
    interpretations: Sequence[Any] | Mapping[str, Any],
    *,
    out: str | Path = "results",
    tier: str = "quick",
    rungs: tuple[str, ...] | list[str] | str | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    compat: bool | Sequence[str] = False,
    documents: int | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    fresh: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Score several interpretations on a task, keep their records, and give all as one DataFrame.

    The model is loaded once, and a further one costs its own passes alone: the clean model, zero ablation
    and noise are made once for all of a group, which is as many as fit `REMAINDER_GROUP_GB` gigabytes
    (default: 1). Who calls this again, after an interruption or with more of them, gets finished rows from
    `out`, as `remainder run` does: those of the same content, code and settings. An object that holds what
    cannot be hashed is measured anew, and a warning says so.

    Args:
        task: as for `evaluate`; all arguments that are not named here too.
        interpretations: things that `evaluate` takes, objects and paths; of a mapping, keys are what they are
            called in tables.
        out: the folder where records are kept, and found again.
        fresh: measure what is finished already too.

    Returns:
        A row for each, in their order, with the columns of `load_results`. One that could not be scored has
        its message in the column `error`, and how to mend it in `fix`; others go on. `path` is that of the
        record, which `read_record` reads.

    Raises:
        RemainderError: nothing is named, or two by one name; or what concerns all of them, such as a task
            that cannot be opened or a folder that cannot be written to.
    """
    given = _named(interpretations)
    spec = spec_of(task)
    chosen = plan(
        spec,
        tier,
        rungs=rungs_of(rungs),
        pairs=pairs,
        dtype=dtype,
        compat=compat,
        documents=documents,
        device=place_of(task, device),
    )
    opened = [_opened(thing, spec, chosen, name, ignore_fields, trust_code) for name, thing in given]
    entries = [one for one in opened if not isinstance(one, Unmeasured)]
    _require_distinct([entry.name for entry in entries])
    _warn_of_unseen(entries)
    with shown(progress) as tell:
        rows = iter(
            sweep(
                spec,
                entries,
                chosen,
                Path(out),
                loaded=task if isinstance(task, LoadedTask) else None,
                device=device,
                batch_size=batch_size,
                fresh=fresh,
                progress=tell,
            )
        )
    outcomes = [one if isinstance(one, Unmeasured) else _outcome(next(rows), spec, chosen) for one in opened]
    return frame_of_sweep(outcomes, chosen.rungs)


def worst_tokens(
    task: str | Path | Task | LoadedTask,
    interpretation: Any,
    *,
    most: int = TOKENS,
    tier: str = "quick",
    dtype: str | None = None,
    documents: int | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Look at single tokens of a text: those where an interpretation harms the model most, as a DataFrame.

    Exact codes are spliced in, as on rung `raw`: over all scored tokens the mean of `kl` is the record's.

    Args:
        task, interpretation, tier, dtype, documents, ignore_fields, trust_code, device, batch_size, progress:
            as for `evaluate`.
        most: rows; where there are fewer scored tokens, all of them.

    Returns:
        One row a token, the largest KL first; for its columns see `remainder.measure.tokens.worst_tokens`.

    Raises:
        RemainderError: as `evaluate`; TaskError too if the task has no text.
    """
    spec = spec_of(task)
    require_text(spec)
    chosen = plan(spec, tier, rungs=("raw",), dtype=dtype, documents=documents, device=place_of(task, device))
    scored: Any = entry_of(interpretation, spec, None, ignore_fields, trust_code)
    with shown(progress) as tell:
        return worst_of(opened(task, spec, device, batch_size, tell), scored, chosen, most, tell)


def _named(interpretations: Sequence[Any] | Mapping[str, Any]) -> list[tuple[str | None, Any]]:
    """Things to score, with names where they are given."""
    if isinstance(interpretations, (str, Path)) or not isinstance(interpretations, (Mapping, Sequence)):
        raise InterpretationError(
            f"a {type(interpretations).__name__} is no list of interpretations",
            fix="give {name: object or path}, or a list; `evaluate` scores a single one",
        )
    if not interpretations:
        raise InterpretationError("no interpretation is named", fix="give {name: object or path}")
    if not isinstance(interpretations, Mapping):
        return [(None, thing) for thing in interpretations]
    return [(label_of(str(name)), thing) for name, thing in interpretations.items()]


def _opened(
    thing: Any, task: Task, plan: Plan, name: str | None, ignore_fields: Sequence[str], trust_code: bool
) -> Entry | Unmeasured:
    """One of several, or why it cannot be scored."""
    try:
        return entry_of(thing, task, name, ignore_fields, trust_code)
    except RemainderError as problem:
        called = name or (str(thing) if isinstance(thing, (str, Path)) else type(thing).__name__)
        return Unmeasured(task.id, task.version, plan.tier, called, problem)


def _outcome(row: Row, task: Task, plan: Plan) -> Stored | Unmeasured:
    if row.finished is not None:
        return Stored(row.finished.path, row.finished.record)
    assert row.problem is not None
    return Unmeasured(task.id, task.version, plan.tier, row.cell.name, row.problem)


def _warn_of_unseen(entries: Sequence[Entry]) -> None:
    """Say which objects cannot be found again; once, since those of a sweep are alike."""
    unseen = [one for one in entries if isinstance(one, ObjectSubmission) and one.unseen]
    if not unseen:
        return
    more = f" and {len(unseen) - 1} more are" if len(unseen) > 1 else " is"
    warnings.warn(
        f"{unseen[0].name}{more} measured anew whenever named: the hash does not cover "
        f"{', '.join(unseen[0].unseen[:_PARTS])}",
        stacklevel=3,
    )


def _require_distinct(names: Sequence[str]) -> None:
    """Refuse two of one name, which a table and a folder could not tell apart."""
    counts = Counter(name.casefold() for name in names)
    for name in names:
        if counts[name.casefold()] > 1:
            raise InterpretationError(
                f"{counts[name.casefold()]} interpretations are called {name}",
                fix="give each a name of its own: {name: object or path}",
            )
