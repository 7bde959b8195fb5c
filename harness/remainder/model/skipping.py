"""Passes of a bridged model that leave out what would change nothing.

A bridge has no way to start at a layer, or to leave a part out. So modules compute something else:
- `past`: the first blocks hand on what they get, and the caller puts in what the last of them would give;
- `silent`: some attentions and MLPs add nothing to the stream but attention's output bias.

Both give what they replace in its structure, of which tensors beside the first are None: whoever uses them
must check on the model that the result is as expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Skipping", "block_of"]


def block_of(hook: str) -> int:
    """Index of the block that holds a hook; 0 if it lies elsewhere, so that nothing before it is skipped."""
    parts = hook.split(".")
    return int(parts[1]) if parts[0] == "blocks" and parts[1].isdigit() else 0


class Skipping:
    """The modules of a bridge that can be skipped, and the structure of what each of them gives.

    Args:
        bridge: a `TransformerBridge`.
        run: an ordinary pass of it, in which the structures are recorded.
    """

    def __init__(self, bridge: Any, run: Callable[[], Any]) -> None:
        self._bridge = bridge
        self._structures: dict[str, Callable[[Tensor], Any]] = {}
        handles = [
            module.register_forward_hook(self._note(name)) for name, module in _modules(bridge).items()
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def past(self, blocks: int) -> Iterator[None]:
        """A context in which the first blocks hand on what they get."""
        names = [f"blocks.{index}" for index in range(blocks)]
        with self._replaced(names, lambda name, hidden: hidden):
            yield

    @contextmanager
    def silent(self, names: Iterable[str]) -> Iterator[None]:
        """A context in which these modules, such as `blocks.3.mlp`, add nothing but a bias."""
        with self._replaced(names, self._bias):
            yield

    def _bias(self, name: str, hidden: Tensor) -> Tensor:
        nothing = torch.zeros_like(hidden)
        if not name.endswith(".attn"):
            return nothing
        bias = getattr(self._bridge.blocks[block_of(name)].attn.o.original_component, "bias", None)
        return nothing if bias is None else nothing + bias

    def _note(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, (tuple, list)):
                kind, rest = type(output), [None] * (len(output) - 1)
                self._structures[name] = lambda first: kind([first, *rest])
            else:
                self._structures[name] = lambda first: first

        return hook

    @contextmanager
    def _replaced(self, names: Iterable[str], compute: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
        modules = _modules(self._bridge)

        def instead(name: str) -> Callable[..., Any]:
            def forward(*arguments: Any, **named: Any) -> Any:
                hidden = arguments[0] if arguments else named["hidden_states"]
                return self._structures[name](compute(name, hidden))

            return forward

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(_forwarding(modules[name], instead(name)))
            yield


def _modules(bridge: Any) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    for index, block in enumerate(bridge.blocks):
        modules[f"blocks.{index}"] = block
        for part in ("attn", "mlp"):
            if isinstance(module := getattr(block, part, None), nn.Module):
                modules[f"blocks.{index}.{part}"] = module
    return modules


@contextmanager
def _forwarding(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A context in which `module` computes `forward`; its weights and hooks stay."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
