"""A model whose activations at several named places can be read and changed in one pass.

An *edit* is a function at a hook: it receives the activation there, in this pass, and returns the one to take
its place, or None to leave it. Later edits therefore see the effects of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.model.bridge import Reached, hooked_pass, require_hook
from remainder.model.bridge_errors import architecture_of, by_token, of_the_bridge

__all__ = ["BridgeSiteModel", "Edit", "Edits", "SiteModel"]

Edit = Callable[[Tensor], Tensor | None]
"""Activation [rows, positions, d] → its replacement of the same shape, or None to leave it."""
Edits = Sequence[tuple[str, Edit]]
"""A hook and an edit; edits of one hook are called in their order."""

_UNEMBEDDING = "unembed.hook_in"


@runtime_checkable
class SiteModel(Protocol):
    """The interface of such a model; see the module's text."""

    def run(
        self, inputs: Shaped[Tensor, "rows pos *item"], edits: Edits, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "rows seen outputs"]:
        """Outputs of a pass; if `positions` are given, at these only."""

    def activation(
        self, inputs: Shaped[Tensor, "rows pos *item"], edits: Edits, hook: str
    ) -> Float[Tensor, "rows pos d"]:
        """The activation at `hook` in a pass with these edits, before any edit at `hook` itself."""


@dataclass
class BridgeSiteModel:
    """A language model held by TransformerLens' bridge; activations are float32."""

    bridge: Any

    def __post_init__(self) -> None:
        self._points: dict[str, Any] = self.bridge.hook_dict

    def run(
        self, inputs: Shaped[Tensor, "rows pos"], edits: Edits, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "rows seen vocabulary"]:
        """Logits in float32.

        Raises:
            TaskError: if the model has no such hook.
            MeasurementError: if a hook did not fire exactly once, or the logits are not finite.
        """
        fired: list[int] = [0] * len(edits)
        hooks = [
            (name, _hook(edit, fired, place, self._rows(name, inputs)))
            for place, (name, edit) in enumerate(edits)
        ]
        for name, _ in edits:
            require_hook(self.bridge, self._points, name)
        if positions is not None:
            hooks.append((_UNEMBEDDING, lambda value, hook: value[:, list(positions)]))
        logits: Tensor = self._forward(inputs, hooks).float()
        for (name, _), times in zip(edits, fired, strict=True):
            if times != 1:
                raise MeasurementError(
                    f"hook {name} fired {times} times in one pass instead of once",
                    fix="choose a hook point that the model calls exactly once",
                )
        if not torch.isfinite(logits).all():
            raise MeasurementError(
                "logits are NaN or infinite after activations were changed at "
                + ", ".join(sorted({name for name, _ in edits})),
                fix="check the scale of the reconstructions, and of the background's values",
            )
        if positions is not None and logits.shape[1] != len(positions):
            raise MeasurementError(
                f"hook {_UNEMBEDDING} does not choose the positions of the logits",
                fix="this architecture cannot be measured so; please report it",
            )
        return logits

    def activation(
        self, inputs: Shaped[Tensor, "rows pos"], edits: Edits, hook: str
    ) -> Float[Tensor, "rows pos d"]:
        """The activation at `hook`; the pass ends there.

        Raises:
            TaskError: if the model has no such hook.
            MeasurementError: if it did not fire.
        """
        seen: list[Tensor] = []

        def keep(value: Tensor) -> None:
            seen.append(value.detach().clone())
            raise Reached

        require_hook(self.bridge, self._points, hook)
        fired = [0] * (len(edits) + 1)
        # The first function at a hook sees the activation before any edit.
        hooks = [
            (name, _hook(edit, fired, place, self._rows(name, inputs)))
            for place, (name, edit) in enumerate(((hook, keep), *edits))
        ]
        try:
            self._forward(inputs, hooks)
        except Reached:
            return seen[0]
        raise MeasurementError(
            f"hook {hook} exists but did not fire in a pass", fix="choose a hook that the model really calls"
        )

    def _forward(self, inputs: Tensor, hooks: list[tuple[str, Callable[..., Any]]]) -> Any:
        places = ", ".join(dict.fromkeys(name for name, _ in hooks)) or "no place"
        fix = "choose other hooks, or a model of another architecture"
        with of_the_bridge(f"a pass with hooks at {places}", architecture_of(self.bridge), fix):
            return hooked_pass(self.bridge, self._points, inputs, hooks)

    def _rows(self, name: str, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda value: by_token(name, value, inputs, architecture_of(self.bridge))


def _hook(
    edit: Edit, fired: list[int], place: int, rows: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor | None]:
    """A hook that calls `edit`; `rows` brings the hook's value into [rows, positions, d]."""

    def hook(value: Tensor, hook: Any) -> Tensor | None:
        fired[place] += 1
        new = edit(rows(value.float()))
        return None if new is None else new.to(value.dtype).reshape(value.shape)

    return hook
