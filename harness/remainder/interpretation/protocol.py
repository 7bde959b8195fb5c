"""The interface of interpretations: they replace activations by a reconstruction, which is then scored.

`Reconstruction` is the whole interface: `encode` activations to codes, `decode` codes to activations.
Any object with these two methods is accepted as it is, for example a sae-lens `SAE`; `adapt` wraps it and
checks every shape and value on the way. A transcoder differs only in that it reads one place and rebuilds
another. A skip-transcoder has a third method, `skip`, for the part that bypasses its codes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.base.messages import message_of
from remainder.errors import InterpretationError
from remainder.interpretation.casting import on_device
from remainder.residual.moments import Moments

__all__ = [
    "Adapted",
    "Alias",
    "FitMoments",
    "Reads",
    "Reconstruction",
    "Resting",
    "adapt",
]


FitMoments = Callable[[], Moments]
"""Computes mean and scatter of a site's activations on `fit`; called only where they are needed."""

Reads = Literal["in", "out"]
"""The activations at a site's `hook_in`, or at its `hook_out`."""


class Alias(NamedTuple):
    """Two hook names whose spelling suggests that they are one tensor."""

    told: str
    """The name in the file of the interpretation."""
    ours: str
    """The name in the task's site."""
    note: str = ""
    """The reason why they may differ, if one is known."""


@runtime_checkable
class Reconstruction(Protocol):
    """A sparse autoencoder, PCA, a codebook …: activations → codes → activations of the same site.

    Both methods work on whole windows, so they may use earlier positions; using later ones, other windows or
    other documents fails the conformance check.

    There may be a third method, `skip(x) -> [docs pos d]`: then x̂ = decode(encode(x)) + skip(x), as in a
    skip-transcoder. The skipped part is not counted as complexity; where x̂ rebuilds x itself, the conformance
    check allows two numbers per token there. `decode` must be a function of the codes alone.
    """

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        """Codes of activations; a feature is active where its code is not zero."""
        ...

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        """The reconstruction that the codes encode."""
        ...


class Resting:
    """The base of objects that hold a process, and can do without it until they are asked again."""

    def rest(self) -> None:
        """End the process; it is started again when it is needed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adapted:
    """An object with encode and decode (and skip), its results converted to float32 and checked.

    Raises (from its methods):
        InterpretationError: if a result is wrong; names the method, its result and the expected one.
    """

    inner: Any
    width: int
    name: str
    reads: Reads = "in"
    """The place of the site that it reads: `hook_in`, as a transcoder does, or `hook_out` itself."""
    warnings: tuple[str, ...] = ()
    """Doubts that the file leaves open, as sentences; whoever scores it passes them on."""
    aliases: tuple[Alias, ...] = ()
    """Names taken to be the site's; `submission.aliases` compares them on the loaded model."""

    def choose(
        self, x_in: Float[Tensor, "docs pos d"], x_out: Float[Tensor, "docs pos d"]
    ) -> Float[Tensor, "docs pos d"]:
        """The activations that it reads: those at `hook_in` or those at `hook_out`."""
        return x_in if self.reads == "in" else x_out

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"] | None:
        """The addition to the decoded codes, if it has a path past them."""
        if not callable(getattr(self.inner, "skip", None)):
            return None
        passed = _call(self.name, "skip", self.inner.skip, x)
        if passed.shape != x.shape:
            raise InterpretationError(
                f"{self.name}: skip gave shape {tuple(passed.shape)} for activations {tuple(x.shape)}",
                fix="return what is added to decode's result, of the same shape",
            )
        return passed

    def placed(self, device: torch.device) -> Adapted:
        """This interpretation on `device`: a copy, if any of its tensors are elsewhere."""
        moved = on_device(self.inner, self.name, self.width, device)
        return self if moved is self.inner else dataclasses.replace(self, inner=moved)

    def rest(self) -> None:
        """End a process that it is answered by, if there is one, until it is asked again."""
        if isinstance(self.inner, Resting):
            self.inner.rest()

    def coded(
        self, x_out: Float[Tensor, "docs pos d"], read: Float[Tensor, "docs pos d"]
    ) -> Float[Tensor, "docs pos d"]:
        """The target of the codes: the activation that is rebuilt, less the skipped part."""
        passed = self.skip(read)
        return x_out if passed is None else x_out - passed

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        codes = _call(self.name, "encode", self.inner.encode, x)
        if codes.shape[:-1] != x.shape[:-1] or codes.ndim != x.ndim:
            raise InterpretationError(
                f"{self.name}: encode gave shape {tuple(codes.shape)} for activations {tuple(x.shape)}",
                fix="return codes of shape [docs, positions, features]",
            )
        return codes

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        x = _call(self.name, "decode", self.inner.decode, codes)
        expected = (*codes.shape[:-1], self.width)
        if tuple(x.shape) != expected:
            raise InterpretationError(
                f"{self.name}: decode gave shape {tuple(x.shape)}, the site needs {expected}",
                fix=f"check that the interpretation was made for a site of width {self.width}",
            )
        return x

    def reconstruct(
        self, x: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"] | None = None
    ) -> tuple[Float[Tensor, "docs pos features"], Float[Tensor, "docs pos d"]]:
        """Codes and reconstruction, finite where `mask` holds (default: everywhere).

        Elsewhere nothing is read, and a method trained in half precision may well overflow: attention sinks
        have a hundred times the usual norm.
        """
        codes = self.encode(x)
        return codes, self.completed(codes, x, mask)

    def completed(
        self,
        codes: Float[Tensor, "docs pos features"],
        x: Float[Tensor, "docs pos d"],
        mask: Bool[Tensor, "docs pos"] | None = None,
    ) -> Float[Tensor, "docs pos d"]:
        """The reconstruction of activations whose codes are known; see `reconstruct`."""
        reconstruction = self.decode(codes)
        passed = self.skip(x)
        if passed is not None:
            reconstruction = reconstruction + passed
        self.require_finite(codes, reconstruction, mask)
        return reconstruction

    def require_finite(
        self,
        codes: Float[Tensor, "docs pos features"],
        reconstruction: Float[Tensor, "docs pos d"],
        mask: Bool[Tensor, "docs pos"] | None = None,
    ) -> None:
        """Raise InterpretationError if anything is NaN or infinite where `mask` holds (default: anywhere)."""
        for method, value in (("encode", codes), ("decode", reconstruction)):
            read = value if mask is None else value[mask]
            bad = int((~torch.isfinite(read)).sum())
            if bad:
                raise InterpretationError(
                    f"{self.name}: {method} gave {bad} values that are NaN or infinite",
                    fix="check the weights for NaN, and the dtype for overflow",
                )


def _ways(problem: Exception) -> str:
    """A remedy for an exception of foreign code."""
    if re.search(r"dtype|scalar type|Half|BFloat16|Double", str(problem)):
        return "activations are float32; give it in float32 too: sae.to(torch.float32)"
    return "check that the interpretation was made for this site (its width, its dtype, its device)"


def _call(name: str, method: str, function: Any, argument: Tensor) -> Tensor:
    try:
        # A copy, since foreign code may work in place, and these activations are also its target.
        value = function(argument.clone())
    except (torch.OutOfMemoryError, InterpretationError):  # the latter of code that runs elsewhere
        raise
    except Exception as problem:  # foreign code may raise anything; the cause is shown
        raise InterpretationError(
            f"{name}: {method} failed on a tensor of shape {tuple(argument.shape)}: "
            f"{type(problem).__name__}: {message_of(problem)}",
            fix=_ways(problem),
        ) from problem
    if not isinstance(value, Tensor):
        raise InterpretationError(
            f"{name}: {method} gave {type(value).__name__} instead of a tensor",
            fix="return one torch tensor",
        )
    if value.is_complex() or value.layout != torch.strided:
        kind = "complex" if value.is_complex() else "sparse"
        raise InterpretationError(f"{name}: {method} gave a {kind} tensor", fix="return a dense, real one")
    return value.float()


def adapt(
    thing: Any,
    width: int,
    name: str | None = None,
    reads: Reads = "in",
    warnings: tuple[str, ...] = (),
    aliases: tuple[Alias, ...] = (),
) -> Adapted:
    """Wrap anything that has `encode` and `decode`, for a site of `width`.

    Args:
        warnings: doubts of its reader, in whole sentences.
        aliases: names that its reader took to be one tensor, to be compared on the loaded model.

    Raises:
        InterpretationError: if a method is missing, or its weights are of another width.
    """
    if isinstance(thing, Adapted):
        return thing
    kind = type(thing).__name__
    label = name or kind
    missing = [m for m in ("encode", "decode") if not callable(getattr(thing, m, None))]
    if missing:
        raise InterpretationError(
            f"{kind if label == kind.lower() else label} has no method {' or '.join(missing)}",
            fix="give it encode(x) -> codes and decode(codes) -> x̂, both on [docs, positions, ...]",
        )
    decoder = getattr(thing, "W_dec", None)
    if isinstance(decoder, Tensor) and decoder.ndim == 2 and decoder.shape[1] != width:
        turned = " (it looks transposed)" if decoder.shape[0] == width else ""
        raise InterpretationError(
            f"{label}: W_dec has shape {tuple(decoder.shape)}{turned}; the site has width {width}",
            fix=f"W_dec must be [features, {width}]",
        )
    if isinstance(thing, torch.nn.Module):
        for parameter, value in thing.state_dict().items():
            # The state of a module may hold objects that are not tensors.
            if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                raise InterpretationError(
                    f"{label}: weight {parameter} holds NaN or infinity", fix="train or export it again"
                )
    return Adapted(thing, width, label, reads, warnings, aliases)
