"""Wrappers that bring what sae-lens computes outside of `encode` and `decode` into these and `skip`.

A reconstruction is then always decode(encode(x)) + skip(x), and `decode` a function of codes alone:

- a skip-transcoder's x W_skipᵀ goes into `skip`;
- where an activation is normalised before encoding, x = σ z + μ, codes are in units of x: σ f(z). What
  remains, μ + (σ − 1) b_dec, goes into `skip`;
- a temporal SAE's codes are the sum of the novel and the predicted ones. Its prediction looks at the token
  itself too (its attention asks with it, and the prediction is scaled to it), so it is counted;
- if the model's writing weights were centred, the SAE is given x − m·1 with m the mean of x over the
  width, and m·1 goes into `skip`, but for a transcoder, whose output is another tensor. TransformerLens
  centres models with LayerNorm, and passes over the setting for those with RMSNorm. So do we; where the
  norm cannot be told, the SAE is refused;
- a skip matrix is refused where what it reads is what it rebuilds;
- the reshaping of `hook_z` is turned off: the heads' outputs come one behind the other already.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from remainder.errors import InterpretationError
from remainder.formats.object_config import plain
from remainder.formats.places import check_count, check_no_skip
from remainder.formats.saelens_centring import is_centred
from remainder.formats.saelens_checks import Looked
from remainder.interpretation.protocol import Reads
from remainder.task.spec import Task

__all__ = ["is_of_sae_lens", "wrapped"]

_COUNTS = ("k", "kval_topk", "max_iterations")
_OF_THE_TOKEN = {"layer_norm", "constant_norm_rescale"}


def is_of_sae_lens(obj: Any) -> bool:
    """Whether an object is one of sae-lens's own classes."""
    lens = sys.modules.get("sae_lens")  # if it was never imported, this cannot be one of its objects
    return lens is not None and isinstance(obj, lens.SAE)


def wrapped(obj: Any, name: str, task: Task, reads: Reads, looked: Looked) -> Any:
    """The obj itself, or for an object of sae-lens in what this module's text asks for.

    Raises:
        InterpretationError: if there is no such way to take it apart, or a number of active latents is none.
    """
    if not is_of_sae_lens(obj):
        return obj
    lens = sys.modules["sae_lens"]
    for field in _COUNTS:
        if getattr(obj.cfg, field, None) is not None:
            check_count(plain(getattr(obj.cfg, field)), plain(obj.cfg.d_sae), name, field)
    normalised = obj.cfg.normalize_activations in _OF_THE_TOKEN
    temporal = isinstance(obj, lens.TemporalSAE)
    if temporal and normalised:
        raise InterpretationError(
            f"{name}: a temporal SAE with normalize_activations = {obj.cfg.normalize_activations} cannot "
            "be taken apart into codes and what goes past them",
            fix="train it with constant_scalar_rescale or none",
        )
    if obj.hook_z_reshaping_mode:
        obj = copy.copy(obj)  # parameters are shared; the object of the notebook stays as it is
        obj.turn_off_forward_pass_hook_z_reshaping()
    inner: Any = obj
    if temporal:
        inner = _Temporal(obj)
    elif isinstance(obj, lens.SkipTranscoder):
        check_no_skip(task.site, reads, name)
        inner = _Skipping(obj)
    elif normalised:
        inner = _Normalised(obj)
    if is_centred(looked, task.model, name):
        inner = _Centred(inner, rebuilds=not isinstance(obj, lens.Transcoder))
    return inner


class _Wrapper(nn.Module):
    """A wrapper around an object of sae-lens, or around another wrapper."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the inner object by its own method, which keeps its notes of dtype and device in step."""
        self.inner.to(*args, **kwargs)
        return self

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        codes: Tensor = self.inner.encode(x)
        return codes

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        x: Tensor = self.inner.decode(codes)
        return x


class _Skipping(_Wrapper):
    """A skip-transcoder."""

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        passed: Tensor = x @ self.inner.W_skip.T
        return passed


class _Normalised(_Wrapper):
    """x = σ z + μ with σ and μ of each token; the SAE is of z."""

    def __init__(self, inner: Any) -> None:
        super().__init__(copy.copy(inner))
        self.inner.run_time_activation_norm_fn_in = _unchanged
        self.inner.run_time_activation_norm_fn_out = _unchanged

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        scale, shift = self._scale(x)
        # sae-lens divides by slightly more than it multiplies with afterwards.
        floor = 1e-5 if self.inner.cfg.normalize_activations == "layer_norm" else 0.0
        codes: Tensor = self.inner.encode((x - shift) / (scale + floor)) * scale
        return codes

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        scale, shift = self._scale(x)
        base: Tensor = self.inner.decode(x.new_zeros(1, 1, self.inner.cfg.d_sae))
        return shift + (scale - 1) * base

    def _scale(self, x: Float[Tensor, "docs pos d"]) -> tuple[Tensor, Tensor]:
        """σ and μ [docs pos 1]."""
        if self.inner.cfg.normalize_activations == "layer_norm":
            return x.std(-1, keepdim=True), x.mean(-1, keepdim=True)
        scale = x.norm(dim=-1, keepdim=True) / self.inner.cfg.d_in**0.5
        return scale, torch.zeros_like(scale)


class _Temporal(_Wrapper):
    """Codes of what is new at a token and of what is predicted, added up."""

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        novel, predicted = self.inner.encode_with_predictions(x)
        codes: Tensor = novel + predicted
        return codes

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        sae = self.inner
        x: Tensor = codes @ sae.W_dec
        if not sae.cfg.tied_weights or sae.cfg.apply_b_dec_to_input:
            x = x + sae.b_dec
        x = sae.run_time_activation_norm_fn_out(x)
        return x


class _Centred(_Wrapper):
    """Given x − m·1, m the mean over the width; m·1 goes past it, if it rebuilds what it reads."""

    def __init__(self, inner: Any, *, rebuilds: bool) -> None:
        super().__init__(inner)
        self.rebuilds = rebuilds

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        codes: Tensor = self.inner.encode(x - x.mean(-1, keepdim=True))
        return codes

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        mean = x.mean(-1, keepdim=True)
        passed = mean.expand_as(x) if self.rebuilds else torch.zeros_like(x)
        return passed + self.inner.skip(x - mean) if hasattr(self.inner, "skip") else passed


def _unchanged(x: Tensor) -> Tensor:
    return x
