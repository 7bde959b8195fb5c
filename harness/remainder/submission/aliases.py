"""Checks on a task's loaded model that hooks taken for one tensor by their names are one.

A reader takes `blocks.14.hook_resid_post` for `blocks.15.hook_resid_pre`, and in all models rightly so. Of
other names that holds in most (`remainder.formats.places`). So before a number is measured, both hooks are
read in one pass over a few tokens. They are one tensor if at every token they differ by no more than `LIMIT`
of the longer one's length: of a mean over tokens, one attention sink with its huge norm would be all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import InterpretationError, TaskError
from remainder.formats.places import MisfitError
from remainder.interpretation.protocol import Adapted, Alias
from remainder.loading.loaded import LoadedTask
from remainder.model.bridge import hooked_pass

__all__ = ["LIMIT", "require_same"]

LIMIT = 1e-5

_TOKENS = 12
_KEPT = "_differences"  # an attribute of the model itself, so that no pair is compared twice


def require_same(loaded: LoadedTask, interpretation: Adapted, dtype: str = "float32") -> list[str]:
    """Compare all aliases that an interpretation's place rests on; one sentence of each, for people.

    Args:
        loaded: the task, whose model is loaded if it has not been, but only where there is an alias.
        interpretation: as its reader gave it.
        dtype: of the model that is loaded if none is.

    Raises:
        MisfitError: if two names are two tensors of the task's model, or it lacks the one in the file.
        TaskError: if it lacks the one of the site.
    """
    if not interpretation.aliases:
        return []
    bridge = loaded.hooked(dtype)
    return [_require(bridge, loaded, alias, interpretation.name) for alias in interpretation.aliases]


def _require(bridge: Any | None, loaded: LoadedTask, alias: Alias, name: str) -> str:
    stated, ours, note = alias
    model = loaded.task.model.name
    fix = f"choose a task whose [site] names {stated}, or write one"
    if bridge is None:
        raise MisfitError(
            f"{name}: it was made at {stated}; the task's site is {ours}, and its model is a module whose "
            "names are its own, so that no two of them are taken for one",
            fix=f"if it was made for the module {ours}, write that name into the file",
        )
    if ours not in bridge.hook_dict:
        raise TaskError(
            f"the model {model} has no hook {ours!r}", fix="name another in the [site] of the task"
        )
    if stated not in bridge.hook_dict:
        raise MisfitError(
            f"{name}: it was made at {stated}, which the model {model} does not have, so that it cannot be "
            f"compared with the task's site {ours}",
            fix=f"if it was made for that very tensor, write {ours} into the file as its place",
        )
    difference = _difference(bridge, stated, ours)
    if not difference <= LIMIT:
        raise MisfitError(
            f"{name}: it was made at {stated}; the task's site is {ours}, and in the model {model} these are "
            f"two tensors: they differ by {difference:.2g} of their size" + (f" ({note})" if note else ""),
            fix=f"{fix}; if it was made at the task's own tensor, give an object whose config names no hook: "
            "remainder.evaluate(task, object)"
            if note
            else fix,
        )
    return f"{stated} is {ours} on the loaded model (they differ by {difference:.1g} of their size)"


def _difference(bridge: Any, one: str, other: str) -> float:
    """The largest difference at a token, over the longer one's length there; infinite for other shapes."""
    known: dict[tuple[str, str], float] = bridge.__dict__.setdefault(_KEPT, {})
    if (one, other) not in known:
        first, second = (rows.double() for rows in _rows(bridge, one, other))
        if first.shape != second.shape:
            known[one, other] = math.inf
        else:
            size = torch.maximum(first.norm(dim=-1), second.norm(dim=-1))
            apart = (first - second).norm(dim=-1)
            known[one, other] = float((apart / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    return known[one, other]


def _rows(bridge: Any, *hooks: str) -> list[Float[Tensor, "tokens d"]]:
    """Activations at hooks, a row for each of a few tokens from all over the vocabulary.

    Raises:
        InterpretationError: if one of them does not fire.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(value: Tensor, hook: Any) -> None:
            seen[name] = value.detach().clone()

        return hook

    device = next(bridge.parameters()).device
    tokens = torch.linspace(0, bridge.cfg.d_vocab - 1, _TOKENS, device=device).long()[None]
    with torch.inference_mode():
        hooked_pass(bridge, bridge.hook_dict, tokens, [(name, keep(name)) for name in hooks])
    for name in hooks:
        if name not in seen:
            raise InterpretationError(
                f"hook {name} exists but did not fire in a forward pass, so that it cannot be compared",
                fix="choose a hook that this architecture really calls",
            )
    # Heads lie on an axis of their own, and some architectures fold documents and positions into one.
    return [seen[name].reshape(_TOKENS, -1) for name in hooks]
