"""A model as a graph: the inputs of every stage can be changed, and its outputs observed.

A `CircuitModel` runs a batch of prompts of one length, and calls a `Tap` at every stage of the graph, in
order:
1. `tap.read(stage, stream)` returns the inputs of the stage's readers, [rows, positions, readers, width], in
   place of the stream that they would all read;
2. `tap.write(stage, values)` receives the values of the stage's writers, [rows, positions, writers, size].
   For heads these are z, before the output matrix, which is smaller than their addition to the stream.
`outputs(stage, values)` maps these values to additions to the stream. Additions that come from no writer (the
output biases of attention) stay in the stream.

Without a tap the model runs as it is. A tap may have two attributes:
- `positions`: the only ones where it wants logits, so that a model may skip the others;
- `skipped`: names of stages that it is not called at, and whose writers add nothing to the stream. Only a
  model that says so by `skips` heeds it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.errors import MeasurementError, TaskError
from remainder.model.architecture import Architecture, Graph, Stage
from remainder.model.bridge import hooked_pass, require_once
from remainder.model.bridge_errors import architecture_of, of_the_bridge
from remainder.model.skipping import Skipping

__all__ = ["BridgeCircuitModel", "CircuitModel", "Tap"]


@runtime_checkable
class Tap(Protocol):
    """An observer of a pass that may change it. The stage `input` reads nothing, `logits` writes nothing."""

    def read(
        self, stage: Stage, stream: Float[Tensor, "rows pos d"]
    ) -> Float[Tensor, "rows pos readers d"] | None:
        """The inputs of the stage's readers; None: all of them read the stream."""

    def write(self, stage: Stage, values: Float[Tensor, "rows pos writers size"]) -> None:
        """Receive the values of the stage's writers."""


@runtime_checkable
class CircuitModel(Protocol):
    """A model with a graph; see the module's text."""

    @property
    def graph(self) -> Graph: ...

    def run(
        self, tokens: Int[Tensor, "rows pos"], tap: Tap | None = None
    ) -> Float[Tensor, "rows seen vocabulary"]:
        """Logits in float32."""

    def outputs(
        self, stage: Stage, values: Float[Tensor, "*rows writers size"]
    ) -> Float[Tensor, "*rows writers d"]:
        """The addition of each of the stage's writers to the stream."""


_UNEMBEDDING = "unembed.hook_in"
_NO_GRAPH = "this architecture cannot be measured as a graph"
_OTHER = (
    "choose a model of an architecture that TransformerLens' bridge can split by head, such as GPT-2, Llama, "
    "Qwen2 or GPT-NeoX"
)


@dataclass
class BridgeCircuitModel:
    """A language model that TransformerLens' bridge holds, split into queries, keys, values and MLPs.

    Args:
        bridge: a `TransformerBridge`; its switches for split inputs are set while a pass with a tap runs.
        probe: tokens for the self-check.

    Raises:
        TaskError: if heads do not write one by one into a stream that is read before its norm (as with norms
            after attention), or the bridge cannot split their inputs.
        MeasurementError: if the split pass does not give the logits of the ordinary pass.
    """

    bridge: Any
    probe: Int[Tensor, "rows pos"]
    graph: Graph = field(init=False)
    skips: bool = field(default=False, init=False)
    """Whether a tap may have stages skipped."""

    def __post_init__(self) -> None:
        self._architecture = architecture_of(self.bridge)
        self.graph = Graph(_shape_of(self.bridge.cfg, self._architecture))
        self._hooks_of: dict[str, tuple[str, ...]] = {
            stage.name: self._reading_hooks(stage) for stage in self.graph.stages[1:]
        }
        self._writing = {stage.name: self._writing_hook(stage) for stage in self.graph.stages[:-1]}
        self._points = self.bridge.hook_dict
        needed = itertools.chain(*self._hooks_of.values(), self._writing.values())
        missing = [name for name in needed if name not in self._points]
        if missing:
            raise TaskError(
                f"{self._architecture}: the model has no hook {missing[0]}, which circuits need", fix=_OTHER
            )
        # Attribution takes gradients with respect to the stages' inputs, never to weights.
        self.bridge.requires_grad_(False)
        try:
            with torch.no_grad():
                self._skipping = Skipping(self.bridge, lambda: self.run(self.probe.flip(-1)))
                self._self_check()
        except MeasurementError as problem:  # raised by the model as it is, before anything was measured
            raise TaskError(f"{self._architecture}: {problem.what}", fix=_OTHER) from problem

    def run(
        self, tokens: Int[Tensor, "rows pos"], tap: Tap | None = None
    ) -> Float[Tensor, "rows seen vocabulary"]:
        """Logits in float32, the tap called at every stage.

        Raises:
            MeasurementError: if a hook did not fire exactly once.
        """
        if tap is None:
            return self._forward(tokens, [])
        fired: Counter[str] = Counter()
        hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
        skipped: frozenset[str] = getattr(tap, "skipped", frozenset()) if self.skips else frozenset()
        for stage in self.graph.stages:
            if stage.name not in skipped:
                hooks += self._taps(stage, tap, fired)
        positions = getattr(tap, "positions", None)
        if positions is not None:

            def some(value: Tensor, hook: Any) -> Tensor:
                fired[_UNEMBEDDING] += 1
                return value[:, list(positions)]

            hooks.append((_UNEMBEDDING, some))
        with ExitStack() as stack:
            stack.callback(self._split, False)
            self._split(True)
            stack.enter_context(self._skipping.silent(map(_module_of, skipped)))
            logits = self._forward(tokens, hooks)
        require_once(fired, [name for name, _ in hooks], _NO_GRAPH)
        return logits

    def outputs(
        self, stage: Stage, values: Float[Tensor, "*rows writers size"]
    ) -> Float[Tensor, "*rows writers d"]:
        """Additions to the stream: heads' z times their part of the output matrix, other values unchanged."""
        if not stage.name.startswith("a"):
            return values
        weight = self._output_matrix(int(stage.name[1:]))
        return torch.einsum("...hz,hzd->...hd", values, weight.to(values.dtype))

    def _split(self, on: bool) -> None:
        """A context in which the bridge lets the inputs of heads and MLPs be changed one by one."""
        with of_the_bridge("splitting the inputs of its heads", self._architecture, _OTHER):
            for switch in ("set_use_split_qkv_input", "set_use_hook_mlp_in"):
                getattr(self.bridge, switch)(on)

    def _output_matrix(self, layer: int) -> Float[Tensor, "heads size d"]:
        with of_the_bridge("finding the output matrix of its heads", self._architecture, _OTHER):
            linear = self.bridge.blocks[layer].attn.o.original_component
            weight: Tensor = linear.weight
        # GPT-2's Conv1D keeps [in, out], everything else [out, in]: see TransformerLens' attention bridge.
        matrix = weight if type(linear).__name__ == "Conv1D" else weight.T
        return matrix.reshape(self.graph.architecture.heads, -1, matrix.shape[-1])

    def _reading_hooks(self, stage: Stage) -> tuple[str, ...]:
        if stage.name == "logits":
            return (f"blocks.{self.graph.architecture.layers - 1}.hook_out",)
        block = f"blocks.{stage.name[1:]}"
        if stage.name.startswith("m"):
            return (f"{block}.hook_mlp_in",)
        return tuple(f"{block}.attn.hook_{kind}_input" for kind in ("q", "k", "v"))

    def _writing_hook(self, stage: Stage) -> str:
        if stage.name == "input":
            return "blocks.0.hook_in"
        block = f"blocks.{stage.name[1:]}"
        return f"{block}.hook_mlp_out" if stage.name.startswith("m") else f"{block}.attn.hook_z"

    def _taps(
        self, stage: Stage, tap: Tap, fired: Counter[str]
    ) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """Hooks that call the tap at one stage."""
        shape = self.graph.architecture
        kept: list[Tensor | None] = []

        def write(value: Tensor, hook: Any) -> None:
            fired[self._writing[stage.name]] += 1
            if stage.name.startswith("a"):
                tap.write(stage, value.reshape(*value.shape[:2], shape.heads, -1))
            else:
                tap.write(stage, value[:, :, None])

        def whole(value: Tensor, hook: Any) -> Tensor | None:
            fired[self._hooks_of[stage.name][0]] += 1
            inputs = tap.read(stage, value)
            return None if inputs is None else inputs[:, :, 0]

        def split(place: int) -> Callable[..., Tensor | None]:
            def hook(value: Tensor, hook: Any) -> Tensor | None:
                fired[self._hooks_of[stage.name][place]] += 1
                if place == 0:  # queries, keys and values are read at once
                    inputs = tap.read(stage, value[:, :, 0])
                    kept.clear()
                    sizes = [shape.heads, shape.groups, shape.groups]
                    kept.extend([None] * 3 if inputs is None else torch.split(inputs, sizes, dim=2))
                return kept[place]

            return hook

        names = self._hooks_of.get(stage.name, ())
        hooks: list[tuple[str, Callable[..., Tensor | None]]] = [
            (name, whole if len(names) == 1 else split(place)) for place, name in enumerate(names)
        ]
        if stage.name in self._writing:
            hooks.append((self._writing[stage.name], write))
        return hooks

    def _forward(self, tokens: Tensor, hooks: list[tuple[str, Callable[..., Any]]]) -> Tensor:
        with of_the_bridge("a pass", self._architecture, _OTHER):
            logits: Tensor = hooked_pass(self.bridge, self._points, tokens, hooks)
        return logits.float()

    def _self_check(self) -> None:
        """Check that the split pass gives the ordinary logits, and that writes add up to what is read."""
        check = _Adding(self)
        expected, split = self.run(self.probe), self.run(self.probe, check)
        dtype = next(self.bridge.parameters()).dtype
        tolerance = (1e-4 if dtype == torch.float32 else 3e-2) * float(expected.abs().max())
        if float((expected - split).abs().max()) > tolerance:
            raise MeasurementError(
                "a pass with split queries, keys and values does not give the ordinary logits", fix=_NO_GRAPH
            )
        if check.missing > (1e-4 if dtype == torch.float32 else 3e-2):
            raise TaskError(
                f"{self._architecture}: what heads and MLPs write does not add up to what later ones read "
                "(norms after attention, or another stream beside it)",
                fix="circuits need an architecture whose residual stream is a sum",
            )
        self.skips = True
        nothing = _Nothing(self.graph)
        self.run(self.probe, nothing)
        assert nothing.stream is not None
        assert check.unwritten is not None
        # Both are the input and the biases: what is left where no head and no MLP writes.
        away = float((nothing.stream - check.unwritten).abs().max())
        self.skips = away <= (1e-4 if dtype == torch.float32 else 3e-2) * check.size


def _module_of(stage: str) -> str:
    """Name of the module that computes a stage of heads or of an MLP, such as `blocks.3.attn` of `a3`."""
    return f"blocks.{stage[1:]}.{'attn' if stage.startswith('a') else 'mlp'}"


def _shape_of(config: Any, architecture: str) -> Architecture:
    """Numbers of layers and heads, and the width, from a bridge's config.

    Raises:
        TaskError: if one is missing, as in the config of a model without attention.
    """
    counts: dict[str, int] = {}
    for name in ("n_layers", "n_heads", "d_model"):
        value = getattr(config, name, None)
        if not isinstance(value, int) or value < 1:
            raise TaskError(
                f"{architecture}: the config of TransformerLens' bridge has {name} = {value}; circuits need "
                "a model of attention heads",
                fix=_OTHER,
            )
        counts[name] = value
    return Architecture(
        layers=counts["n_layers"],
        heads=counts["n_heads"],
        groups=getattr(config, "n_key_value_heads", None) or counts["n_heads"],
        width=counts["d_model"],
        parallel=bool(getattr(config, "parallel_attn_mlp", False)),
    )


class _Adding:
    """A tap that checks that the stream changes by what was written, up to a constant (biases)."""

    def __init__(self, model: BridgeCircuitModel) -> None:
        self.model = model
        self.total: Tensor | None = None
        self.offset: Tensor | None = None
        self.missing = 0.0
        """Largest unexplained part, relative to the size of the stream."""
        self.unwritten: Tensor | None = None
        """The part of what the logits read that no head or MLP wrote."""
        self.size = 0.0
        """Largest entry of what the logits read."""
        self._pending: list[Tensor] = []

    def read(self, stage: Stage, stream: Tensor) -> Tensor:
        # In a parallel layer, the MLP reads the stream before its heads have written.
        late = self.model.graph.architecture.parallel and stage.name.startswith("m")
        written = self._pending[:-1] if late else self._pending
        rest = stream - torch.stack(written).sum(0)
        varying = rest - rest.mean((0, 1), keepdim=True)
        self.missing = max(self.missing, float(varying.abs().max() / stream.abs().max()))
        self.unwritten, self.size = rest + written[0], float(stream.abs().max())
        return stream[:, :, None].expand(-1, -1, stage.readers.stop - stage.readers.start, -1)

    def write(self, stage: Stage, values: Tensor) -> None:
        self._pending.append(self.model.outputs(stage, values).sum(2))


class _Nothing:
    """A tap that has all heads and MLPs skipped, and keeps what the logits then read."""

    def __init__(self, graph: Graph) -> None:
        self.skipped = frozenset(stage.name for stage in graph.stages[1:-1])
        self.stream: Tensor | None = None

    def read(self, stage: Stage, stream: Tensor) -> None:
        self.stream = stream
        return None

    def write(self, stage: Stage, values: Tensor) -> None:
        pass
