"""Run a plain torch module with other activations spliced in at one of its submodules, or at several.

The site is the dotted name of a submodule whose output is [docs, positions, width]. Its output is read in one
ordinary pass, and replaced in another: modules that a script builds are small, so nothing is skipped.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from remainder.errors import MeasurementError, TaskError
from remainder.model.bridge import DTYPES, Prefix, tensors_hash
from remainder.model.sites import Edit, Edits
from remainder.task.script import guarded
from remainder.task.spec import Site

__all__ = ["ModuleRunner", "module_hash"]


def module_hash(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, sorted by name."""
    return tensors_hash(sorted(module.state_dict().items()))


@dataclass
class ModuleRunner:
    """A runner of a module as a whole, which reads or replaces activations at a site.

    Args:
        module: maps inputs [docs, positions, ...] to outputs [docs, positions, classes or 1].
        site: names of submodules, and the width of their output.
        probe: inputs of a few windows, used for the self-check.
        dtype, device: precision and device of the weights, which are copied.

    Raises:
        TaskError: if there is no such submodule (near names are offered), or its output has another shape.
        MeasurementError: if it is not called exactly once in a pass, or the pass does not use its output.
    """

    module: nn.Module
    site: Site
    probe: Shaped[Tensor, "docs pos *item"]
    dtype_name: str = field(default="float32", kw_only=True)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"), kw_only=True)
    mode: str = field(default="the whole module", init=False)

    def __post_init__(self) -> None:
        for name in (self.site.hook_in, self.site.hook_out):
            self._require(name)
        copied = copy.deepcopy(self.module)
        self.module = copied.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        with torch.inference_mode():
            self._self_check()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the module's weights."""
        return DTYPES[self.dtype_name]

    def prefix(self, inputs: Shaped[Tensor, "docs pos *item"]) -> Prefix:
        """Activations of the clean module at the site, float32."""
        seen: dict[str, list[Tensor]] = {self.site.hook_in: [], self.site.hook_out: []}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                if not isinstance(output, Tensor):
                    kind = type(output).__name__
                    raise TaskError(f"submodule {name} gives a {kind}", fix="choose one that gives a tensor")
                seen[name].append(output.detach().float().clone())

            return hook

        with self._hooked([(name, keep(name)) for name in seen]):
            self._forward(inputs)
        for name, outputs in seen.items():
            self._require_once(name, len(outputs))
            expected = (*inputs.shape[:2], self.site.width)
            if tuple(outputs[0].shape) != expected:
                raise TaskError(
                    f"submodule {name} gives shape {tuple(outputs[0].shape)}; expected {expected}",
                    fix="[docs, positions, width], with the width that [site] of the task says",
                )
        x_in, x_out = seen[self.site.hook_in][0], seen[self.site.hook_out][0]
        return Prefix(x_out, x_out if self.site.is_reconstruction else x_in, x_out)

    def suffix(
        self,
        inputs: Shaped[Tensor, "docs pos *item"],
        prefix: Prefix,
        activations: Float[Tensor, "docs pos d_out"],
    ) -> Float[Tensor, "docs pos outputs"]:
        """The module's outputs, with `activations` in place of the clean ones at `hook_out`.

        Raises:
            MeasurementError: if the result is not finite.
        """
        calls = 0

        def put(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return activations.to(output.dtype)

        with self._hooked([(self.site.hook_out, put)]):
            outputs = self._forward(inputs)
        self._require_once(self.site.hook_out, calls)
        if not torch.isfinite(outputs).all():
            raise MeasurementError(
                f"the module's outputs are not finite after splicing at {self.site.hook_out}",
                fix="check the reconstruction's scale; float32 may help if this is bfloat16",
            )
        return outputs

    @property
    def outputs(self) -> int:
        """Number of classes, or 1."""
        return self._forward(self.probe).shape[-1]

    def run(
        self, inputs: Shaped[Tensor, "docs pos *item"], edits: Edits, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "docs seen outputs"]:
        """Outputs of a pass whose activations are changed at several submodules; see `model.sites`.

        Raises:
            TaskError: if there is no such submodule.
            MeasurementError: if one was not called exactly once, or the outputs are not finite.
        """
        fired = [0] * len(edits)

        def hook(place: int, edit: Edit) -> Callable[..., Tensor | None]:
            def change(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
                fired[place] += 1
                new = edit(output.float())
                return None if new is None else new.to(output.dtype)

            return change

        for name, _ in edits:
            self._require(name)
        with self._hooked([(name, hook(place, edit)) for place, (name, edit) in enumerate(edits)]):
            outputs = self._forward(inputs).float()
        for (name, _), calls in zip(edits, fired, strict=True):
            self._require_once(name, calls)
        if not torch.isfinite(outputs).all():
            raise MeasurementError(
                "the module's outputs are not finite after changes at "
                + ", ".join(dict.fromkeys(name for name, _ in edits)),
                fix="check the scale of the reconstructions",
            )
        return outputs if positions is None else outputs[:, list(positions)]

    def activation(
        self, inputs: Shaped[Tensor, "docs pos *item"], edits: Edits, hook: str
    ) -> Float[Tensor, "docs pos d"]:
        """The activation at a submodule in a pass with these edits, before any edit at this one."""
        seen: list[Tensor] = []

        def keep(value: Tensor) -> None:
            seen.append(value.detach().clone())

        self.run(inputs, [(hook, keep), *edits])  # the first function at a hook sees what no other changed
        return seen[0]

    def logits(self, rows: Float[Tensor, "rows outputs"]) -> Float[Tensor, "rows outputs"]:
        """The outputs in float32."""
        return rows.float()

    def _forward(self, inputs: Tensor) -> Tensor:
        given = inputs.to(self.device)
        outputs: Tensor = self.module(given.to(self.dtype) if given.is_floating_point() else given)
        return outputs

    def _self_check(self) -> None:
        with guarded("a forward pass of the module"):
            clean = self._forward(self.probe)
        if not isinstance(clean, Tensor):
            raise TaskError(f"the module gives a {type(clean).__name__}", fix="give one tensor")
        if not torch.isfinite(clean).all():
            raise TaskError("the module's own outputs are NaN or infinite", fix="check its weights")
        prefix = self.prefix(self.probe)
        if not prefix.x_out.any():
            raise TaskError(
                f"submodule {self.site.hook_out} gives nothing but zeros", fix="choose another site"
            )
        if clean.ndim != 3 or clean.shape[:2] != self.probe.shape[:2]:
            raise TaskError(
                f"the module gives shape {tuple(clean.shape)} for inputs {tuple(self.probe.shape)}",
                fix="outputs must be [docs, positions, classes], or [docs, positions, 1] for numbers",
            )
        again = self.suffix(self.probe, prefix, prefix.x_out)
        tolerance = (1e-4 if self.dtype == torch.float32 else 2e-2) * float(clean.abs().max())
        if float((again - clean).abs().max()) > tolerance:
            raise MeasurementError(
                f"putting the clean activations back at {self.site.hook_out} does not give the clean outputs",
                fix="make the module deterministic",
            )

    @contextmanager
    def _hooked(self, hooks: Iterable[tuple[str, Callable[..., Any]]]) -> Iterator[None]:
        handles = [self.module.get_submodule(name).register_forward_hook(hook) for name, hook in hooks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _require(self, name: str) -> None:
        names = [known for known, _ in self.module.named_modules() if known]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
            raise TaskError(
                f"the module has no submodule {name!r}",
                fix=f"did you mean {', '.join(near)}? [site] of the task names the submodule",
            )

    def _require_once(self, name: str, calls: int) -> None:
        if calls != 1:
            raise MeasurementError(
                f"submodule {name} was called {calls} times in one pass instead of once",
                fix="choose a submodule that the module calls exactly once",
            )
