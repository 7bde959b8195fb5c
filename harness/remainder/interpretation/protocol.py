"""The protocol of an interpretation, which replaces activations by a reconstruction.

`Reconstruction` is the whole interface: `encode` activations to codes, `decode` codes to activations.
Anything with these two methods is accepted as it is, a sae-lens `SAE` for one; `adapt` wraps it and
checks every shape and value on the way. A transcoder has the same methods, but reads one place and rebuilds
another; a skip-transcoder passes something past its codes, by a third method, `skip`.

The reference interpretations that every task carries (`Identity`, and `Projection` onto principal or
random directions, or onto none: the mean) are made here from moments of the `fit` split.
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
    "Codebook",
    "FitMoments",
    "Identity",
    "Projection",
    "Reads",
    "Reconstruction",
    "adapt",
    "mean_only",
    "principal_components",
    "random_projection",
]


FitMoments = Callable[[], Moments]
"""Gives mean and scatter of a site's activations on `fit`; called only by what needs them."""

Reads = Literal["in", "out"]
"""The activations at a site's `hook_in`, or at its `hook_out`."""


class Alias(NamedTuple):
    """Two hook names that were taken for one tensor by their spelling."""

    told: str
    """The name that the file of an interpretation states."""
    ours: str
    """The name of the task's site."""
    note: str = ""
    """Why they may differ, if there is more to say than that they do."""


@runtime_checkable
class Reconstruction(Protocol):
    """A sparse autoencoder, PCA, a codebook …: activations → codes → activations of the same site.

    Both methods work on whole windows, so a method may use earlier positions; using later ones, other
    windows or other documents fails the conformance check.

    There may be a third method, `skip(x) -> [docs pos d]`: then x̂ = decode(encode(x)) + skip(x), as in a
    skip-transcoder. What goes past the codes is not counted as complexity; where x̂ rebuilds x itself, the
    conformance check allows two numbers a token there. `decode` must be a function of the codes alone.
    """

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        """Codes of activations; a feature is active where its code is not zero."""
        ...

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        """The reconstruction that codes stand for."""
        ...


class Identity:
    """x̂ = x, every coordinate a feature: the perfect reconstruction at full complexity."""

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        return x

    def decode(self, codes: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        return codes


@dataclass(frozen=True)
class Projection:
    """x̂ = m + (x − m) Vᵀ V for orthonormal rows V [features d]."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "features d"]

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        return (x - self.mean.to(x)) @ self.directions.to(x).T

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        return self.mean.to(codes) + codes @ self.directions.to(codes)


@dataclass(frozen=True)
class Codebook:
    """x̂ = the nearest of a few centroids [entries d]; the code is 1 at that entry, 0 elsewhere."""

    centroids: Float[Tensor, "entries d"]

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos entries"]:
        distances = torch.cdist(x.flatten(0, -2), self.centroids.to(x))
        codes = torch.nn.functional.one_hot(distances.argmin(-1), len(self.centroids))
        return codes.to(x.dtype).reshape(*x.shape[:-1], len(self.centroids))

    def decode(self, codes: Float[Tensor, "docs pos entries"]) -> Float[Tensor, "docs pos d"]:
        return codes @ self.centroids.to(codes)


def mean_only(moments: Moments) -> Projection:
    """x̂ = E x: no features at all."""
    return Projection(moments.mean.float(), torch.zeros(0, len(moments.mean)))


def principal_components(moments: Moments, rank: int) -> Projection:
    """Projection on the `rank` leading principal components.

    Raises:
        InterpretationError: if `rank` exceeds the width, or what the rows of `moments` can span.
    """
    _check_rank(rank, len(moments.mean))
    if moments.count <= rank:
        raise InterpretationError(
            f"{rank} principal components cannot be found from {moments.count} rows",
            fix="fit on more windows",
        )
    _, vectors = torch.linalg.eigh(moments.covariance)
    return Projection(moments.mean.float(), vectors.flip(-1).T[:rank].float().contiguous())


def random_projection(moments: Moments, rank: int, seed: int) -> Projection:
    """Projection on `rank` random orthonormal directions (QR of a seeded Gaussian matrix)."""
    width = len(moments.mean)
    _check_rank(rank, width)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))
    return Projection(moments.mean.float(), basis.T.float().contiguous())


def _check_rank(rank: int, width: int) -> None:
    if not 0 < rank <= width:
        raise InterpretationError(
            f"rank is {rank}, but the site has width {width}", fix=f"choose a rank from 1 to {width}"
        )


@dataclass(frozen=True)
class Adapted:
    """Any object with encode and decode (and skip), its results in float32 and checked.

    Raises (from its methods):
        InterpretationError: naming the method, what it gave and what was expected.
    """

    inner: Any
    width: int
    name: str
    reads: Reads = "in"
    """Whether it is given the site's `hook_in`, as a transcoder, or `hook_out` itself."""
    warnings: tuple[str, ...] = ()
    """Sentences of its reader on what the file leaves open; whoever scores it passes them on."""
    aliases: tuple[Alias, ...] = ()
    """Names by which its place was taken for the site's; `submission.aliases` compares them on the model."""

    def choose(
        self, x_in: Float[Tensor, "docs pos d"], x_out: Float[Tensor, "docs pos d"]
    ) -> Float[Tensor, "docs pos d"]:
        """The activations that it reads, of those at `hook_in` and at `hook_out`."""
        return x_in if self.reads == "in" else x_out

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"] | None:
        """The part that is added to the decoded codes; None without a path past the codes."""
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

    def coded(
        self, x_out: Float[Tensor, "docs pos d"], read: Float[Tensor, "docs pos d"]
    ) -> Float[Tensor, "docs pos d"]:
        """The activation that the codes stand for: what is rebuilt, less what goes past them."""
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

        Elsewhere – at attention sinks, whose norm is a hundred times the usual – a method trained in half
        precision may well overflow, and nothing is read there.
        """
        codes = self.encode(x)
        reconstruction = self.decode(codes)
        passed = self.skip(x)
        if passed is not None:
            reconstruction = reconstruction + passed
        for method, value in (("encode", codes), ("decode", reconstruction)):
            read = value if mask is None else value[mask]
            bad = int((~torch.isfinite(read)).sum())
            if bad:
                raise InterpretationError(
                    f"{self.name}: {method} gave {bad} values that are NaN or infinite",
                    fix="check the weights for NaN, and the dtype for overflow",
                )
        return codes, reconstruction


def _ways(problem: Exception) -> str:
    """Advice on what foreign code raised."""
    if re.search(r"dtype|scalar type|Half|BFloat16|Double", str(problem)):
        return "activations are float32; give it in float32 too: sae.to(torch.float32)"
    return "check that the interpretation was made for this site (its width, its dtype, its device)"


def _call(name: str, method: str, function: Any, argument: Tensor) -> Tensor:
    try:
        # A copy, since foreign code may work in place, and these activations are also what it is scored by.
        value = function(argument.clone())
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # whatever foreign code raises, the cause is shown
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
        warnings: of its reader, in whole sentences.
        aliases: of its reader, for the loaded model to bear out.

    Raises:
        InterpretationError: if it lacks one of them, or says that it was made for another width.
    """
    if isinstance(thing, Adapted):
        return thing
    label = name or type(thing).__name__
    missing = [m for m in ("encode", "decode") if not callable(getattr(thing, m, None))]
    if missing:
        raise InterpretationError(
            f"{label} has no method {' or '.join(missing)}",
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
            # A module may keep things that are no tensors in its state.
            if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                raise InterpretationError(
                    f"{label}: weight {parameter} holds NaN or infinity", fix="train or export it again"
                )
    return Adapted(thing, width, label, reads, warnings, aliases)
