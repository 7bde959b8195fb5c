"""Load a pretrained model through TransformerLens' bridge, and run it in two halves around a site.

Measuring uses a model through a `Runner`:
1. `prefix(tokens)` runs the model up to the site, once, and returns the activations there;
2. `suffix(tokens, prefix, activations)` runs only what comes after, with other activations put in;
3. `logits(rows)` applies the unembedding to the few rows that are scored, chunk by chunk.

The bridge cannot start at a layer. So the blocks before the site become pass-throughs that return their
input in the structure that they normally return, and the recorded input of the first kept block takes its
place; the unembedding becomes a pass-through as well. When a `BridgeRunner` is made, this is compared with
the full pass on real tokens. Where they differ (an architecture with state across blocks, or with something
after the unembedding), the runner falls back to the full pass and says so in `mode`, which goes into the
record.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from remainder.errors import AssetError, MeasurementError, TaskError
from remainder.model.bridge_errors import architecture_of, by_token, of_the_bridge
from remainder.task.spec import Site

__all__ = [
    "DTYPES",
    "BridgeRunner",
    "Prefix",
    "Reached",
    "Runner",
    "hooked_pass",
    "is_bridge",
    "require_hook",
    "require_once",
    "stored_weights",
    "tensors_hash",
    "weights_hash",
    "weights_size",
]

_ELSEWHERE = "choose another hook, or a model of another architecture"

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Prefix(NamedTuple):
    """Activations that the clean pass leaves at the site.

    `entry` is the input of the first block that the suffix runs; for a residual-stream site it is the
    site's own activation.
    """

    entry: Float[Tensor, "docs pos d_model"]
    x_in: Float[Tensor, "docs pos d_in"]
    x_out: Float[Tensor, "docs pos d_out"]


class Reached(Exception):  # noqa: N818 -- a signal, not an error
    """A signal raised inside a hook, to leave a forward pass once everything wanted has been seen."""


def weights_hash(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors in a folder's safetensors, sorted by name.

    It does not depend on how tensors are spread over files, nor on their order or metadata there.

    Raises:
        AssetError: if there is no such file, or one is truncated.
    """
    with ExitStack() as stack:
        where = stored_weights(folder, stack)
        return tensors_hash((name, where[name].get_tensor(name)) for name in sorted(where))


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order in which they are given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        raw = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{raw.dtype}|{tuple(raw.shape)}|".encode())
        digest.update(raw.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_size(folder: Path, dtype: torch.dtype) -> int:
    """Bytes that the weights in a folder's safetensors take in `dtype`; only the heads of the files are read.

    Raises:
        AssetError: if there is no such file, or one is truncated.
    """
    with ExitStack() as stack:
        shapes = [
            stored.get_slice(name).get_shape() for name, stored in stored_weights(folder, stack).items()
        ]
    size: int = dtype.itemsize * sum(math.prod(shape) for shape in shapes)
    return size


def stored_weights(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """The open safetensors file that holds each tensor of a folder; files are closed with `stack`.

    Raises:
        AssetError: if there is no such file, or one is truncated.
    """
    fix = "save or fetch the model again, as safetensors"
    where: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            stored = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as problem:
            raise AssetError(f"{path} is no whole safetensors file: {problem}", fix=fix) from problem
        where.update(dict.fromkeys(stored.keys(), stored))
    if not where:
        raise AssetError(f"{folder} holds no weights in safetensors files", fix=fix)
    return where


def is_bridge(model: Any) -> bool:
    """Whether a model behind TransformerLens' hooks is a bridge; else it is a `HookedTransformer`."""
    return hasattr(model, "original_model")


def require_hook(bridge: Any, points: Mapping[str, Any], name: str, hint: str = "") -> None:
    """Raise TaskError for a hook that is missing, or fires only with a switch set (costly in time or memory).

    Args:
        points: the `hook_dict` of the bridge.
        hint: what else to say on where such a name stands.
    """
    if name not in points:
        near = ", ".join(difflib.get_close_matches(name, points, n=3, cutoff=0.5)) or "another name"
        raise TaskError(f"the model has no hook {name!r}", fix=f"did you mean {near}?{hint}")
    point = points[name]
    try:
        if is_bridge(bridge):
            bridge.check_hooks_to_add(point.name)
        else:
            bridge.check_hooks_to_add(point, name, None)
    except (ValueError, AssertionError) as problem:
        raise TaskError(
            f"{architecture_of(bridge)}: hook {name} is switched off: {problem}",
            fix="choose a hook that is always on",
        ) from problem


def hooked_pass(
    bridge: Any,
    points: Mapping[str, Any],
    tokens: Shaped[Tensor, "docs pos"],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
) -> Any:
    """Logits of a bridge with hooks at some of its points, all of which are removed again.

    The bridge's `run_with_hooks` is slow: it resolves all aliases of all hook points several times a pass.

    Args:
        points: the `hook_dict` of the bridge.
    """
    level = bridge.context_level + 1
    try:
        for name, hook in hooks:
            points[name].add_hook(hook, level=level)
        settings = {"use_cache": False} if is_bridge(bridge) else {}
        return bridge(tokens, return_type="logits", **settings)
    finally:
        for name, _ in hooks:
            points[name].remove_hooks("fwd", level=level)


def require_once(fired: Counter[str], names: Iterable[str], fix: str) -> None:
    """Raise MeasurementError unless each hook fired exactly once in a pass."""
    for name in names:
        if fired[name] != 1:
            raise MeasurementError(
                f"hook {name} fired {fired[name]} times in one pass instead of once", fix=fix
            )


@runtime_checkable
class Runner(Protocol):
    """A model in two halves around a site."""

    mode: str
    """A description of how the second half is run."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's weights."""
        ...

    def prefix(self, inputs: Shaped[Tensor, "docs pos *item"]) -> Prefix:
        """Activations of the clean model at the site, float32."""
        ...

    def suffix(
        self,
        inputs: Shaped[Tensor, "docs pos *item"],
        prefix: Prefix,
        activations: Float[Tensor, "docs pos d_out"],
    ) -> Float[Tensor, "docs pos hidden"]:
        """The input of `logits`, with `activations` in place of the clean ones."""
        ...

    def logits(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows outputs"]:
        """The model's outputs in float32, from rows of `suffix`'s result."""
        ...


@dataclass
class BridgeRunner:
    """A runner of a bridged model in two halves around a site; see the module's text.

    Args:
        bridge: a TransformerLens `TransformerBridge`, or a `HookedTransformer`.
        site: the hooks at which activations are read and put back.
        probe: token ids of one window, used for the self-check.

    Raises:
        TaskError: if a hook of the site does not exist (near names are offered) or has another width.
        MeasurementError: if a hook exists but does not fire exactly once in a pass.
    """

    bridge: Any
    site: Site
    probe: Int[Tensor, "one pos"]
    mode: str = field(init=False)

    def __post_init__(self) -> None:
        self.bridge.eval().requires_grad_(False)
        self._points: dict[str, Any] = self.bridge.hook_dict
        for name in (self.site.hook_in, self.site.hook_out):
            require_hook(self.bridge, self._points, name, " [site] of the task names the hook")
        self._first = min(_block_of(self.site.hook_in), _block_of(self.site.hook_out))
        self._skip, self._split_head = self._first > 0, True
        self._architecture = architecture_of(self.bridge)
        self._sequences: dict[int, tuple[Any, ...] | list[Any] | None] = {}
        with torch.inference_mode():
            self.mode = self._self_check()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        device: torch.device = next(self.bridge.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's weights."""
        dtype: torch.dtype = next(self.bridge.parameters()).dtype
        return dtype

    def prefix(self, inputs: Int[Tensor, "docs pos"]) -> Prefix:
        """Activations of the clean model at the site, float32."""
        wanted = {self._entry, self.site.hook_in, self.site.hook_out}
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(value: Tensor, hook: Any) -> None:
                seen[name] = value.detach().float().clone()
                if len(seen) == len(wanted):
                    raise Reached

            return hook

        try:
            self._forward(inputs, [(name, keep(name)) for name in sorted(wanted)])
        except Reached:
            pass
        else:
            missing = ", ".join(sorted(wanted - set(seen)))
            raise MeasurementError(
                f"hook {missing} exists but did not fire in a forward pass",
                fix="choose a hook that this architecture really calls",
            )
        # If both hooks are the same, they share one tensor, so that it is stored and moved once.
        x_out = by_token(self.site.hook_out, seen[self.site.hook_out], inputs, self._architecture)
        x_in = x_out
        if not self.site.is_reconstruction:
            x_in = by_token(self.site.hook_in, seen[self.site.hook_in], inputs, self._architecture)
        entry = x_out if self._same_hook(self._entry, self.site.hook_out) else seen[self._entry]
        prefix = Prefix(entry, x_in, x_out)
        for name, x in ((self.site.hook_in, prefix.x_in), (self.site.hook_out, prefix.x_out)):
            if x.shape[-1] != self.site.width:
                raise TaskError(
                    f"hook {name} has width {x.shape[-1]}; the task's [site] says {self.site.width}",
                    fix=f"write width = {x.shape[-1]}",
                )
        return prefix

    def suffix(
        self,
        inputs: Int[Tensor, "docs pos"],
        prefix: Prefix,
        activations: Float[Tensor, "docs pos d_out"],
    ) -> Float[Tensor, "docs pos hidden"]:
        """The input of the unembedding, with `activations` in place of the clean ones at `hook_out`.

        Raises:
            MeasurementError: if a hook did not fire exactly once, or the result is not finite.
        """
        fired: Counter[str] = Counter()

        def put(name: str, new: Tensor) -> Callable[..., Tensor]:
            def hook(value: Tensor, hook: Any) -> Tensor:
                fired[name] += 1
                return new.to(value.dtype).reshape(value.shape)

            return hook

        hooks = [(self.site.hook_out, put(self.site.hook_out, activations))]
        if self._skip and not self._same_hook(self._entry, self.site.hook_out):
            hooks.insert(0, (self._entry, put(self._entry, prefix.entry)))
        with ExitStack() as stack:
            if self._skip:
                for index in range(self._first):
                    stack.enter_context(_replaced(self.bridge.blocks[index], self._pass_through(index)))
            if self._split_head:
                stack.enter_context(_replaced(self.bridge.unembed, lambda hidden: hidden))
            hidden: Tensor = self._forward(inputs, hooks)
        fix = "choose a hook point that the model calls exactly once"
        require_once(fired, [name for name, _ in hooks], fix)
        if not torch.isfinite(hidden).all():
            raise MeasurementError(
                f"the model's last hidden state is not finite after splicing at {self.site.hook_out}",
                fix="check the reconstruction's scale; float32 may help if this is bfloat16",
            )
        return hidden

    def logits(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocabulary"]:
        """Logits in float32 of rows of `suffix`'s result."""
        if not self._split_head:
            return rows.float()
        with of_the_bridge("the unembedding", self._architecture, _ELSEWHERE):
            logits: Tensor = self.bridge.unembed(rows[None])[0]
        return logits.float()

    def full_logits(self, tokens: Int[Tensor, "docs pos"]) -> Float[Tensor, "docs pos vocabulary"]:
        """Logits of the untouched model in one ordinary pass, against which the two halves are checked."""
        logits: Tensor = self._forward(tokens, [])
        return logits.float()

    def _forward(self, tokens: Tensor, hooks: list[tuple[str, Callable[..., Any]]]) -> Any:
        given = tokens.to(self.device)
        with of_the_bridge(f"a pass with a hook at {self.site.hook_out}", self._architecture, _ELSEWHERE):
            return hooked_pass(self.bridge, self._points, given, hooks)

    @property
    def _entry(self) -> str:
        own = "hook_in" if is_bridge(self.bridge) else "hook_resid_pre"
        return f"blocks.{self._first}.{own}" if self._first >= 0 else self.site.hook_out

    def _same_hook(self, one: str, other: str) -> bool:
        return self._points[one] is self._points[other]

    def _pass_through(self, index: int) -> Callable[..., Any]:
        rest = self._sequences[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            return hidden if rest is None else type(rest)([hidden, *rest])

        return forward

    def _record_structure(self) -> None:
        """Record the structure that each block before the site returns, on other tokens than the check's.

        Otherwise a model that carries values past the residual stream would find the right ones by chance.
        """
        handles = []

        def noted(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                kind = list if isinstance(output, list) else tuple  # GPT-1 gives a list
                is_several = isinstance(output, (tuple, list))
                self._sequences[index] = kind(output[1:]) if is_several else None

            return hook

        for index in range(max(self._first, 0)):
            handles.append(self.bridge.blocks[index].register_forward_hook(noted(index)))
        try:
            self.full_logits(self.probe.flip(-1))
        finally:
            for handle in handles:
                handle.remove()

    def _self_check(self) -> str:
        """Find the fastest of four ways of running the suffix that equals the full pass on the probe."""
        expected = self.full_logits(self.probe)
        tolerance = (1e-4 if self.dtype == torch.float32 else 2e-2) * float(expected.abs().max())
        prefix = self.prefix(self.probe)
        self._record_structure()
        for skip, split in ((True, True), (True, False), (False, True), (False, False)):
            self._skip, self._split_head = skip and self._first > 0, split
            hidden = self.suffix(self.probe, prefix, prefix.x_out)
            logits = torch.stack([self.logits(rows) for rows in hidden])
            if logits.shape == expected.shape and float((logits - expected).abs().max()) <= tolerance:
                parts = "blocks after the site only" if self._skip else "all blocks"
                return f"{parts}, {'chunked head' if split else 'full head'}"
        raise MeasurementError(
            f"putting the clean activations back at {self.site.hook_out} does not give the clean logits",
            fix="choose another hook: the model does not use this one's value, or uses it twice",
        )


def _block_of(hook: str) -> int:
    """Index of the block that holds a hook; 0 if it lies before the blocks, so that nothing is skipped."""
    match = re.match(r"blocks\.(\d+)\.", hook)
    return int(match.group(1)) if match else 0


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A context in which `module` computes `forward`; its weights and hooks stay."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
