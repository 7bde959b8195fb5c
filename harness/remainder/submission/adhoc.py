"""The ad-hoc task that interpretations are scored on, at the hooks that they state or that somebody names.

What an interpretation states is asked of its own reader, which compares it with a task's site: given a task
whose site is nowhere (`ANYWHERE`), it tells what the file names instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from remainder.errors import RemainderError, TaskError
from remainder.formats.places import MisfitError
from remainder.loading.adhoc import adhoc_task
from remainder.loading.site import LanguageTask
from remainder.residual.moments import Moments
from remainder.submission.submission import SiteEntry
from remainder.task.spec import ANYWHERE, Task

__all__ = ["Hooks", "stated_hooks", "task_for"]


class Hooks(NamedTuple):
    """The hooks of an interpretation."""

    reads: str
    writes: str | None
    """The hook that it rebuilds; None, if it does not say."""


def task_for(
    entries: Sequence[SiteEntry],
    *,
    hook: str | None = None,
    hook_out: str | None = None,
    check: Callable[[Task], object],
    **settings: Any,
) -> LanguageTask:
    """An ad-hoc task for interpretations of one site.

    Args:
        entries: what is going to be scored.
        hook, hook_out: default: what they state.
        check: called with a draft of the task, to raise what there is to be said of settings of the
            measurement before the model is run.
        settings: those of `adhoc_task`.

    Raises:
        TaskError: they do not state their hooks, or not the same; or as `adhoc_task`.
        InterpretationError: one is of another model or width.
    """

    def asked(draft: Task) -> tuple[str, str | None]:
        found = {entry.name: stated_hooks(entry, draft) for entry in entries}
        if len(set(found.values())) > 1:
            said = "; ".join(f"{name}: {hooks.reads}" for name, hooks in found.items())
            raise TaskError(
                f"they were made at several hooks ({said})", fix="score those of one hook at a time"
            )
        hooks = next(iter(found.values()))
        if hooks.writes is None and hook_out is None:
            raise TaskError(
                f"{entries[0].name} reads {hooks.reads}, and does not say what it rebuilds",
                fix="name the hook of that: `hook_out` (--hook-out HOOK)",
            )
        return hooks

    def require(draft: Task) -> None:
        check(draft)
        for entry in entries:
            _build(entry, draft)

    return adhoc_task(hook=asked if hook is None else hook, hook_out=hook_out, require=require, **settings)


def stated_hooks(entry: SiteEntry, draft: Task) -> Hooks:
    """The hooks that an interpretation says it was made at.

    Args:
        entry: what is scored.
        draft: a task at `ANYWHERE`, on the model that it must be of.

    Raises:
        TaskError: it does not say.
        InterpretationError: it is of another model, or its files are not sound.
    """
    try:
        _build(entry, draft)
    except MisfitError as problem:
        if problem.made is None:
            raise
        reads, writes = problem.made
        return Hooks(reads, None if writes == ANYWHERE.hook_out else writes)
    raise TaskError(
        f"{entry.name} does not say at which hook it was made", fix="name it: `hook` (--hook HOOK)"
    )


class _FitsLaterError(RemainderError):
    """A signal that an interpretation asked for moments of the activations, which are not there yet."""


def _build(entry: SiteEntry, draft: Task) -> None:
    """Raise what building an interpretation for a task raises, as far as no activations are needed."""
    draft.kind.require_scored(entry.name, entry.kind, draft.id)

    def moments() -> Moments:
        raise _FitsLaterError("moments are not known yet")

    with suppress(_FitsLaterError):
        entry.build(draft, moments)
