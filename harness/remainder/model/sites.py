"""A model whose activations at several named places can be read and changed in one pass.

An *edit* is a function at a hook: it receives the activation there, in this pass, and returns the one to take
its place, or None to leave it. Later edits therefore see the effects of earlier ones.

What comes before the first edit is the same in every pass over the same tokens. So a model may have a method
`entry`, which gives what comes into the block of the first edit, and passes that are given it start there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.model.bridge import Reached, hooked_pass, require_hook
from remainder.model.bridge_errors import architecture_of, by_token, of_the_bridge
from remainder.model.skipping import Skipping, block_of

__all__ = [
    "BridgeSiteModel",
    "Edit",
    "Edits",
    "Entry",
    "SiteModel",
    "activation_from",
    "entry_of",
    "run_from",
]

Edit = Callable[[Tensor], Tensor | None]
"""Activation [rows, positions, d] → its replacement of the same shape, or None to leave it."""
Edits = Sequence[tuple[str, Edit]]
"""A hook and an edit; edits of one hook are called in their order."""

_UNEMBEDDING = "unembed.hook_in"
_TOLERANCE = {torch.float32: 1e-4}
"""Largest difference of logits of a pass that starts at a block, relative to the largest of them."""
_OTHERWISE = 2e-2


class Entry(NamedTuple):
    """The values that come into a block in a clean pass, from which passes over the same tokens can start."""

    block: int
    values: Float[Tensor, "rows pos d"]

    def rows(self, rows: slice) -> Entry:
        """A part of the rows."""
        return self._replace(values=self.values[rows])


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


def entry_of(
    model: SiteModel, inputs: Shaped[Tensor, "rows pos *item"], hooks: Iterable[str]
) -> Entry | None:
    """The block at which passes over these inputs with edits at `hooks` can start; None: at the inputs."""
    entry = getattr(model, "entry", None)
    found: Entry | None = None if entry is None else entry(inputs, hooks)
    return found


def run_from(
    model: SiteModel,
    entry: Entry | None,
    inputs: Shaped[Tensor, "rows pos *item"],
    edits: Edits,
    positions: Sequence[int] | None = None,
) -> Float[Tensor, "rows seen outputs"]:
    """Outputs of a pass that starts where `entry_of` these inputs says."""
    if entry is None:
        return model.run(inputs, edits, positions)
    assert isinstance(model, BridgeSiteModel)
    return model.run(inputs, edits, positions, entry=entry)


def activation_from(
    model: SiteModel,
    entry: Entry | None,
    inputs: Shaped[Tensor, "rows pos *item"],
    edits: Edits,
    hook: str,
) -> Float[Tensor, "rows pos d"]:
    """The activation at `hook` in a pass that starts where `entry_of` these inputs says."""
    if entry is None:
        return model.activation(inputs, edits, hook)
    assert isinstance(model, BridgeSiteModel)
    return model.activation(inputs, edits, hook, entry=entry)


@dataclass
class BridgeSiteModel:
    """A language model held by TransformerLens' bridge; activations are float32."""

    bridge: Any
    _skipping: Skipping | None = field(default=None, init=False)
    _starts: dict[int, bool] = field(default_factory=dict, init=False)
    """Whether a pass that starts at a block gives the logits of a whole one, as far as that was tried."""

    def __post_init__(self) -> None:
        self._points: dict[str, Any] = self.bridge.hook_dict

    @torch.no_grad()
    def entry(self, inputs: Shaped[Tensor, "rows pos"], hooks: Iterable[str]) -> Entry | None:
        """The values that come into the first block that has one of `hooks`; None where passes cannot start.

        Raises:
            TaskError: if the model has no such hook.
        """
        block = min(map(block_of, hooks), default=0)
        if block < 1 or not self._starts.get(block, True):
            return None
        name = f"blocks.{block}.hook_in"
        require_hook(self.bridge, self._points, name)
        seen: list[Tensor] = []

        def keep(value: Tensor, hook: Any) -> None:
            seen.append(value.detach().clone())
            raise Reached

        try:
            self._forward(inputs, [(name, keep)])
        except Reached:
            entry = Entry(block, seen[0])
        else:
            return None
        if block not in self._starts:
            self._starts[block] = self._starts_at(inputs, entry)
        return entry if self._starts[block] else None

    def _starts_at(self, inputs: Tensor, entry: Entry) -> bool:
        """Whether a pass that starts there gives the logits of a whole one."""
        some = inputs[:2]
        if self._skipping is None:  # on other tokens, since values of these must not be found by chance
            self._skipping = Skipping(self.bridge, lambda: self._forward(some.flip(1), []))
        whole, started = self.run(some, []), self.run(some, [], entry=entry.rows(slice(2)))
        tolerance = _TOLERANCE.get(next(self.bridge.parameters()).dtype, _OTHERWISE)
        return float((whole - started).abs().max()) <= tolerance * float(whole.abs().max())

    def run(
        self,
        inputs: Shaped[Tensor, "rows pos"],
        edits: Edits,
        positions: Sequence[int] | None = None,
        *,
        entry: Entry | None = None,
    ) -> Float[Tensor, "rows seen vocabulary"]:
        """Logits in float32.

        Args:
            entry: what comes into a block before all edits; the pass starts there.

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
        logits: Tensor = self._forward(inputs, hooks, entry).float()
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
        self,
        inputs: Shaped[Tensor, "rows pos"],
        edits: Edits,
        hook: str,
        *,
        entry: Entry | None = None,
    ) -> Float[Tensor, "rows pos d"]:
        """The activation at `hook`; the pass ends there.

        Args:
            entry: what comes into a block before all edits and `hook`; the pass starts there.

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
            self._forward(inputs, hooks, entry)
        except Reached:
            return seen[0]
        raise MeasurementError(
            f"hook {hook} exists but did not fire in a pass", fix="choose a hook that the model really calls"
        )

    def _forward(
        self, inputs: Tensor, hooks: list[tuple[str, Callable[..., Any]]], entry: Entry | None = None
    ) -> Any:
        places = ", ".join(dict.fromkeys(name for name, _ in hooks)) or "no place"
        fix = "choose other hooks, or a model of another architecture"
        with ExitStack() as stack:
            stack.enter_context(
                of_the_bridge(f"a pass with hooks at {places}", architecture_of(self.bridge), fix)
            )
            if entry is not None:
                assert self._skipping is not None  # made before there was an entry
                stack.enter_context(self._skipping.past(entry.block))
                hooks = [(f"blocks.{entry.block}.hook_in", lambda value, hook: entry.values), *hooks]
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
