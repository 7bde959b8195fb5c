"""A place in a model, by the names of TransformerLens or of the model's own modules.

1. A hook of TransformerLens (`blocks.6.hook_resid_pre`, an alias as well) is taken as it is.
2. A module of the model of transformers (`model.layers.6`, `transformer.h.6.mlp`) stands for what it *gives*;
   `.output` behind it says the same, `.input` what it is given. So `model.layers.6` is the residual stream
   behind block 6. Of something that gives several tensors (attention, blocks) the first is meant.
3. The end of a module's path will do (`layers.6`, `h.6.mlp`), if no other path ends so.

The hook of a module is looked up on the loaded model: TransformerLens' bridge stands in the module's place.
HookedTransformer has no modules of transformers, and takes those that `remainder.model.module_names` knows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from remainder.errors import TaskError
from remainder.loading.adapt import GivenModel
from remainder.model.bridge import hooked_pass, require_hook
from remainder.model.bridge_errors import architecture_of, by_token, of_the_bridge, require_finite
from remainder.model.module_names import module_named
from remainder.task.spec import Site

__all__ = ["find_site", "hook_named"]

_TOKENS = 13  # a number that no axis of heads has, so that it tells which axis holds the tokens
_INSIDE = "._original_component"
_END = re.compile(r"(?P<path>.+?)(?:\.(?P<end>input|output)(?:\.0)?)?")
_WELL_KNOWN = re.compile(r"blocks\.\d+\.hook_(resid|mlp|attn)_\w+")
_CLASSIC = {"mlp.hook_out": "hook_mlp_out", "attn.hook_out": "hook_attn_out"}
"""Hooks of the bridge that HookedTransformer has under another name."""

Ending = Literal["hook_in", "hook_out"]


class Place(NamedTuple):
    """A module's path, and which of its ends is meant."""

    path: str
    end: Ending


def find_site(
    given: GivenModel, hook: str, hook_out: str | None = None, *, device: torch.device | str = "cpu"
) -> Site:
    """The site at a hook, with the width that the activation has there.

    Args:
        given: is loaded on `device` in float32, if it has not been.
        hook: where activations are read; see the module's text for what it may be called.
        hook_out: where the reconstruction is put; default: where they are read.

    Raises:
        TaskError: the model has no such hook (near names are offered), the name fits several modules, the
            hook has no value for every token, the two have different widths, what is rebuilt is computed
            before what is read, or the model's logits are not finite.
    """
    bridge = given.bridge("float32", device)
    read = hook_named(bridge, hook)
    written = read if hook_out is None else hook_named(bridge, hook_out)
    for name in (read, written):
        if name.startswith("unembed."):
            raise TaskError(
                f"hook {name} is of the unembedding, which is run apart: nothing is replaced there",
                fix="choose a hook before it, such as that of the last norm or block",
            )
    widths = _widths(bridge, sorted({read, written}), given)
    if widths[read] != widths[written]:
        raise TaskError(
            f"hook {read} has width {widths[read]}, and hook {written} has width {widths[written]}",
            fix="choose two hooks of one width",
        )
    if next(iter(widths)) != read:
        raise TaskError(
            f"{read} is read, and {written} is rebuilt, which the model computes before it",
            fix="name the earlier one as `hook` (--hook), the later one as `hook_out` (--hook-out)",
        )
    return Site(hook_in=read, hook_out=written, width=widths[read])


def hook_named(bridge: Any, name: str) -> str:
    """The hook of TransformerLens that a name means, in a loaded model.

    Raises:
        TaskError: as `find_site`.
    """
    points: Mapping[str, Any] = bridge.hook_dict
    found = name if name in points else _hook_of_module(bridge, points, name)
    require_hook(bridge, points, found or name)
    return found or name


def _hook_of_module(bridge: Any, points: Mapping[str, Any], name: str) -> str | None:
    """The hook of a module; None, if the name is none of a module's.

    Raises:
        TaskError: there is no such module, or several are called so.
    """
    match = _END.fullmatch(re.sub(r"\[(\d+)\]", r".\1", name).strip("."))
    if match is None or name.startswith("blocks."):
        return None
    place = Place(match["path"], "hook_in" if match["end"] == "input" else "hook_out")
    model = bridge.__dict__.get("original_model")
    if model is None:
        return _classic_hook(bridge, points, place)
    return _bridged_hook(bridge, points, place, model)


def _bridged_hook(bridge: Any, points: Mapping[str, Any], place: Place, model: Any) -> str | None:
    names: dict[int, str] = {}
    for hook, point in points.items():
        # Of several names for one hook the short one of a block: files of others call it so.
        if id(point) not in names or _WELL_KNOWN.fullmatch(hook):
            names[id(point)] = hook
    hooks: dict[str, str] = {}
    for path, module in model.named_modules():
        point = getattr(module, place.end, None)
        if path and id(point) in names:
            # The bridge's component comes before the module that it holds.
            hooks.setdefault(path.replace(_INSIDE, ""), names[id(point)])
    if place.path in hooks:
        return hooks[place.path]
    fitting = [path for path in hooks if path.endswith(f".{place.path}")]
    if len(fitting) > 1:
        raise TaskError(
            f"{architecture_of(bridge)}: several modules are called {place.path}: {', '.join(fitting[:4])}",
            fix="write the whole path",
        )
    if fitting:
        return hooks[fitting[0]]
    near = difflib.get_close_matches(place.path, [*hooks, *points], n=4, cutoff=0.6)
    if near:
        raise TaskError(
            f"{architecture_of(bridge)}: the model has no hook or hooked module {place.path!r}",
            fix=f"did you mean {', '.join(near)}?",
        )
    return None


def _classic_hook(bridge: Any, points: Mapping[str, Any], place: Place) -> str | None:
    module = module_named(place.path)
    if module is None:
        return None
    block = f"blocks.{module.layer}."
    part = (module.reads if place.end == "hook_in" else module.gives).removeprefix(block)
    hook = block + _CLASSIC.get(part, part)
    normed = getattr(bridge.cfg, "use_normalization_before_and_after", False)
    if hook not in points or (normed and part in _CLASSIC):
        raise TaskError(
            f"{architecture_of(bridge)} has no hook that is surely the module {place.path}",
            fix=f"name a hook of TransformerLens, such as {block}hook_resid_post",
        )
    return hook


def _widths(bridge: Any, hooks: list[str], given: GivenModel) -> dict[str, int]:
    """The width of the activation at each hook, in the order of computation, from one pass of a few tokens.

    Raises:
        TaskError: if one did not fire, or has no value for every token, or logits are not finite.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(value: Tensor, hook: Any) -> None:
            seen[name] = value

        return hook

    architecture = architecture_of(bridge)
    count = min(_TOKENS, given.context or _TOKENS)
    tokens = torch.arange(count, device=next(bridge.parameters()).device)[None]
    with torch.inference_mode(), of_the_bridge("a pass with hooks", architecture, "choose another hook"):
        logits = hooked_pass(bridge, bridge.hook_dict, tokens, [(name, keep(name)) for name in hooks])
    if missing := ", ".join(name for name in hooks if name not in seen):
        raise TaskError(
            f"{architecture}: hook {missing} exists and does not fire in a pass",
            fix="choose a hook that this architecture really calls",
        )
    require_finite(logits, bridge, given.spec.name)
    return {name: by_token(name, value, tokens, architecture).shape[-1] for name, value in seen.items()}
