"""Several interpretations measured as one group, in memory: results, and errors in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remainder.api import Result
from remainder.api.arguments import entry_of
from remainder.errors import RemainderError
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import plan


def evaluate_together(
    loaded: LoadedTask,
    things: Sequence[Any] | Mapping[str, Any],
    *,
    tier: str = "quick",
    rungs: Sequence[str] | str | None = None,
    **settings: Any,
) -> list[Result | RemainderError]:
    """The result of each, in their order; `settings` are those of `plan`."""
    wanted = tuple(rungs.split(",")) if isinstance(rungs, str) else rungs and tuple(rungs)
    chosen = plan(loaded.task, tier, rungs=wanted, device=loaded.device.type, **settings)
    named = things.items() if isinstance(things, Mapping) else [(None, thing) for thing in things]
    entries = [entry_of(thing, loaded.task, name) for name, thing in named]
    return [one.problem or Result(*one.record()) for one in loaded.measure_group(entries, chosen)]
