"""A copy of somebody's model that shares its weights, so that nothing done to the copy reaches the original.

Measuring puts hooks into a model, turns training mode off, wraps modules and changes precision. All of that
is done to a copy: `copy.deepcopy` with every parameter and buffer already in its memo, so that modules are
new and tensors are those of the original. What converts a tensor afterwards (`.to`) gives the copy its own.

Hooks that somebody left on would change what is measured, or be called by it; they are refused. Those that
libraries keep on a model for their own use (transformers notes outputs by them) do nothing outside of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from remainder.base.messages import message_of
from remainder.errors import TaskError
from remainder.model.device import pick_device

__all__ = ["copy_of", "parts_of"]

_LIBRARIES = frozenset({"accelerate", "nnsight", "torch", "transformer_lens", "transformers"})


def copy_of(model: nn.Module, name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in evaluation mode, with its weights in `dtype` on `device`; the original stays as it is.

    Args:
        name: of the model, for messages.

    Raises:
        TaskError: its weights are not all in one place, are quantised, or hooks were left on.
    """
    _check(model, name)
    memo: dict[int, Any] = {}
    left_out: list[tuple[int, str]] = []
    for number, module in enumerate(parts_of(model)):
        for weight in module._parameters.values():
            if weight is not None:
                memo[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
        memo |= {id(buffer): buffer for buffer in module._buffers.values() if buffer is not None}
        for key, value in vars(module).items():
            # nnsight keeps a `forward` of its own on the modules that it wraps, an object or (before 0.8) a
            # function, which leads back to the original; the class's is behind it.
            if _is_of_nnsight(value):
                memo[id(value)] = None
                left_out.append((number, key))
    try:
        copied: Any = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, ValueError) as problem:  # a module may hold what cannot be copied
        raise TaskError(
            f"the model {name} cannot be copied, and is not measured itself: {message_of(problem)}",
            fix="save it (save_pretrained) and give the folder",
        ) from problem
    parts = list(parts_of(copied))
    for number, key in left_out:
        del parts[number].__dict__[key]
    for whole in _wholes(copied):
        whole.eval()
        # Not `.to` of the class: HookedTransformer's takes one argument, and the bridge's prints.
        nn.Module.to(whole, device=device, dtype=dtype)
    if hasattr(copied, "cfg"):
        copied.cfg.dtype, copied.cfg.device = dtype, str(device)
    return copied


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """All modules of a model, each once; of a bridge also those of the model behind it."""
    seen: set[int] = set()
    for whole in _wholes(model):
        for part in whole.modules():
            if id(part) not in seen:
                seen.add(id(part))
                yield part


def _wholes(model: nn.Module) -> list[nn.Module]:
    behind = model.__dict__.get("original_model")
    return [model] if behind is None else [model, behind]


def _check(model: nn.Module, name: str) -> None:
    tensors: list[Tensor] = []
    for part in parts_of(model):
        tensors += [weight for weight in part._parameters.values() if weight is not None]
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            if _package(getattr(hook, "func", hook)) not in _LIBRARIES:
                raise TaskError(
                    f"the model {name} has a hook on a {type(part).__name__}, which would change what is "
                    "measured or be called by it",
                    fix="remove it first: HANDLE.remove()",
                )
        if getattr(part, "fwd_hooks", None):
            raise TaskError(
                f"the model {name} has a hook at {getattr(part, 'name', 'a hook point')}, which would change "
                "what is measured or be called by it",
                fix="remove it first: model.reset_hooks(including_permanent=True)",
            )
    if getattr(model, "_acts_to_saes", None):
        raise TaskError(
            f"the model {name} runs with SAEs spliced in", fix="take them out: model.reset_saes()"
        )
    places = sorted({str(tensor.device) for tensor in tensors})
    if places == ["meta"]:
        raise TaskError(f"the weights of the model {name} are not loaded", fix="load them: model.dispatch()")
    if len(places) != 1:
        raise TaskError(
            f"the weights of the model {name} lie in several places ({', '.join(places)}), and models over "
            "several devices are not supported",
            fix="load it on one, without device_map, or give its folder",
        )
    pick_device(places[0])  # refuses kinds that are not supported
    if whole := [tensor.dtype for tensor in tensors if not tensor.is_floating_point()]:
        raise TaskError(
            f"the model {name} is quantised: it has weights of {whole[0]}", fix="give it unquantised"
        )


def _is_of_nnsight(value: Any) -> bool:
    """Whether an object or function is nnsight's, also where it goes by the name of what it wraps."""
    code = getattr(getattr(value, "__func__", value), "__globals__", {}).get("__name__", "")
    return "nnsight" in (str(type(value).__module__).partition(".")[0], code.partition(".")[0])


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or type(thing).__module__).partition(".")[0]
