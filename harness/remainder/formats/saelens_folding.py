"""Scales that an SAE of sae-lens needs and that its class does not compute with: worked into its weights.

1. SAELens before version 6 could fine-tune a factor s for each latent: x̂ = (f(x) · s) W_dec + b_dec. It lies
   among the weights as `scaling_factor` or `finetuning_scaling_factor`; version 6 has no such thing. Row i of
   W_dec is multiplied by s_i, which is the same.
2. While an SAE is trained with `normalize_activations = expected_average_only_in`, activations are multiplied
   by one factor; with `covariance_whitening` they are whitened. sae-lens works that into the weights when
   the training ends. A checkpoint of before has it in `activation_scaler.json` (and
   `activation_whitening.safetensors`), one of SAELens 4 or 5 in `activations_store_state.safetensors`. We
   work it in as sae-lens does, by its own functions.
3. With `rescale_acts_by_decoder_norm` codes are divided by the norm of their decoder row. A row of zeros
   gives 0/0, and sae-lens then gives NaN for every token. We count 0: such a latent is never active, as its
   pre-activation is multiplied by that norm too, and adds nothing.

Source: https://github.com/decoderesearch/SAELens, `saes/sae.py`, `saes/topk_sae.py`,
`training/activation_scaler.py`; of version 5, `sae.py` (`apply_finetuning_scaling_factor`) and
`training/activations_store.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from remainder.base.files import brief, present
from remainder.base.messages import message_of
from remainder.errors import InterpretationError
from remainder.formats.fields import flag
from remainder.formats.tensors import Layout, header, read_json, read_tensors

__all__ = [
    "FACTORS",
    "check_scale",
    "fold_factor",
    "fold_scale",
    "needs_scale",
    "take_factor",
    "without_zero_rows",
]

FACTORS = ("finetuning_scaling_factor", "scaling_factor")
"""Names under which SAELens before version 6 stored step 1's s [d_sae]."""

SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
STORE, ESTIMATED = "activations_store_state.safetensors", "estimated_norm_scaling_factor"

_FINE_TUNED = ("standard", "gated", "jumprelu", "topk")  # the architectures that had such factors
_FACTOR, _WHITENING = "expected_average_only_in", "covariance_whitening"
_FOLD = {
    _FACTOR: "sae.fold_activation_norm_scaling_factor(factor)",
    _WHITENING: "sae.fold_activation_whitening(mean, matrix, inverse_matrix)",
}
_SHOWN = 8  # rows that a message lists


class _Scale(NamedTuple):
    """Scaling of activations before they were given to the SAE in its training."""

    file: Path
    factor: float | None
    whitened: bool


# step 1


def take_factor(
    config: Mapping[str, Any], tensors: dict[str, Tensor], where: Path
) -> Float[Tensor, " d_sae"] | None:
    """Take the factor of each latent out of the weights; None where there is none, or it is one throughout.

    Args:
        config: what `where` holds.
        tensors: of the weights' file; without the factor afterwards.
        where: the config's file.

    Raises:
        InterpretationError: if config and weights do not agree on whether there is one.
    """
    found = {name: tensors.pop(name) for name in FACTORS if name in tensors}
    is_said = flag(config, "finetuning_scaling_factor", where)
    if not found:
        if is_said:
            raise InterpretationError(
                f"{where}: finetuning_scaling_factor is true, and the weights have no tensor "
                f"{' or '.join(reversed(FACTORS))}",
                fix="take the weights that fine-tuning wrote; write false if the factor was worked in",
            )
        return None
    name, factor = next(iter(found.items()))
    if any(not torch.allclose(factor, other) for other in found.values()):
        raise InterpretationError(
            f"{where.parent}: the weights have both {' and '.join(found)}, and these differ",
            fix="keep the one that fine-tuning wrote",
        )
    if torch.allclose(factor, torch.ones_like(factor)):
        return None
    if not is_said:
        raise InterpretationError(
            f"{where}: the weights have a tensor {name} that is not one throughout, and "
            f"finetuning_scaling_factor is {brief(config.get('finetuning_scaling_factor', 'missing'))}",
            fix="if the SAE was fine-tuned, write finetuning_scaling_factor: true; else take that tensor out",
        )
    return factor


def fold_factor(sae: Any, factor: Float[Tensor, " d_sae"], where: Path) -> None:
    """Multiply the decoder's rows by a fine-tuned factor.

    Raises:
        InterpretationError: if its architecture never had one.
    """
    kind = sae.cfg.architecture()
    if kind not in _FINE_TUNED or getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        raise InterpretationError(
            f"{where}: finetuning_scaling_factor is true for the architecture {kind}, which SAELens never "
            "fine-tuned so",
            fix="multiply the rows of W_dec by scaling_factor, if that is meant, and save it without",
        )
    with torch.no_grad():
        sae.W_dec.mul_(factor.to(sae.W_dec)[:, None])


# step 2


def needs_scale(normalisation: str) -> bool:
    """Whether weights trained with it are for activations that were rescaled before they were given to it."""
    return normalisation in _FOLD


def check_scale(sae: Any, where: Path) -> None:
    """Refuse an SAE whose scale is neither worked in nor beside its config; nothing of size is read.

    Args:
        sae: of sae-lens, whose weights may be missing yet.
        where: the config's file.

    Raises:
        InterpretationError: naming the normalisation, and the file where the scale would be.
    """
    _scale_for(sae, where)


def fold_scale(sae: Any, where: Path) -> tuple[str, ...]:
    """Fold the scale beside the config into the weights; return warnings about it in whole sentences.

    Raises:
        InterpretationError: if there is none where one is needed, or it cannot be worked in.
    """
    scale = _scale_for(sae, where)
    if scale is None:
        return ()
    if not needs_scale(sae.cfg.normalize_activations):
        return (
            f"{scale.file.name} has a scale of activations, and normalize_activations is none: the scale is "
            "taken to be worked into the weights.",
        )
    try:
        if scale.factor is not None:
            sae.fold_activation_norm_scaling_factor(scale.factor)
        else:
            tensors = _read_whitening(scale.file, sae.cfg.d_in)
            sae.fold_activation_whitening(tensors["mean"], tensors["matrix"], tensors["inverse_matrix"])
    except NotImplementedError as problem:
        raise InterpretationError(
            f"{where}: the scale in {scale.file.name} cannot be worked into a {type(sae).__name__}: "
            f"{message_of(problem)}",
            fix="train it with another normalize_activations",
        ) from problem
    return ()


def _scale_for(sae: Any, where: Path) -> _Scale | None:
    """Read what lies beside a config, if it is what its normalisation asks for."""
    normalisation = sae.cfg.normalize_activations
    found = _scale_in(where.parent)
    if not needs_scale(normalisation):
        if found is not None and found.factor == 1.0:
            return None  # SAELens 3 noted this wherever it scaled nothing
        if found is not None and normalisation != "none":
            raise InterpretationError(
                f"{where}: normalize_activations is {normalisation}, and {found.file.name} beside it has "
                "another scale of activations",
                fix="keep the one of the two that it was trained with",
            )
        return found
    if found is None:
        files = f"{SCALER} or {STORE}" if normalisation == _FACTOR else f"{SCALER} with {WHITENING}"
        raise InterpretationError(
            f"{where}: normalize_activations is {normalisation}: its weights are for rescaled activations, "
            f"and the file does not say by how much, nor does {files} beside it",
            fix=f"fold the scale in before saving: {_FOLD[normalisation]}, put that file of the training "
            "beside it, or give an SAE that sae-lens saved at the end of training",
        )
    if found.whitened != (normalisation == _WHITENING):
        has = "a whitening" if found.whitened else "a factor"
        raise InterpretationError(
            f"{where}: normalize_activations is {normalisation}, and {found.file.name} beside it has {has}",
            fix="take both from one checkpoint",
        )
    if hasattr(sae.cfg, "d_out"):
        raise InterpretationError(
            f"{where}: normalize_activations is {normalisation} for a transcoder: {found.file.name} says how "
            "its input was scaled, and not how its output was",
            fix="work both scales into its weights, and save it with normalize_activations = none",
        )
    return found


def _scale_in(folder: Path) -> _Scale | None:
    """The scale that a checkpoint's folder holds, if it holds one."""
    scaler = folder / SCALER
    if not present(scaler):
        store = folder / STORE
        if not present(store) or ESTIMATED not in header(store):
            return None
        value = read_tensors(store, Layout({ESTIMATED: ()}, {}, "it is one number", closed=False))[ESTIMATED]
        return _Scale(store, _positive(float(value), store, ESTIMATED), False)
    fields = read_json(scaler)
    if "scaling_factor" not in fields:
        raise InterpretationError(
            f"{scaler} has no field scaling_factor, but {brief(sorted(fields))}",
            fix="take the file that sae-lens wrote beside the checkpoint",
        )
    if others := sorted(fields.keys() - {"scaling_factor", "has_whitening"}):
        raise InterpretationError(
            f"{scaler}: the field {others[0]} ({brief(fields[others[0]])}) is not known; it may change how "
            "activations were scaled",
            fix="take the file that sae-lens wrote beside the checkpoint, or fold the scale in before saving",
        )
    factor = fields["scaling_factor"]
    # sae-lens reads the matrices if they are there, unless the file says that there are none.
    stated = flag(fields, "has_whitening", scaler) if "has_whitening" in fields else None
    whitened = present(folder / WHITENING) if stated is None else stated
    if factor is None and not whitened:
        return None
    if factor is None:
        return _Scale(folder / WHITENING, None, True)
    if whitened:
        raise InterpretationError(
            f"{scaler} has a scaling_factor and a whitening; expected one of the two",
            fix="keep the one that the SAE was trained with",
        )
    return _Scale(scaler, _positive(factor, scaler, "scaling_factor"), False)


def _positive(value: Any, file: Path, field: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise InterpretationError(
            f"{file}: {field} is {brief(value)}; expected a number above 0, which activations are multiplied "
            "by",
            fix="take the file that sae-lens wrote beside the checkpoint",
        )
    return float(value)


def _read_whitening(file: Path, width: int) -> dict[str, Tensor]:
    """Mean [d_in], matrix and its inverse [d_in d_in], in the type that they are stored in (float64)."""
    square = ("d_in", "d_in")
    layout = Layout(
        {"mean": ("d_in",), "matrix": square, "inverse_matrix": square},
        {"d_in": width},
        f"cfg.json says d_in = {width}",
    )
    read_tensors(file, layout)
    tensors = load_file(file)
    product = tensors["matrix"].double() @ tensors["inverse_matrix"].double()
    if not torch.allclose(product, torch.eye(width, dtype=torch.float64), atol=1e-2):
        raise InterpretationError(
            f"{file}: inverse_matrix is not the inverse of matrix", fix="take both from one checkpoint"
        )
    return tensors


# step 3


def without_zero_rows(sae: Any) -> tuple[Any, tuple[str, ...]]:
    """A copy whose latents with a decoder row of zeros add nothing; the SAE itself, if there is no such row.

    The second value holds warnings about it, in whole sentences.
    """
    if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return sae, ()
    with torch.no_grad():
        norms = sae.W_dec.norm(dim=-1)
        empty = ~(1 / norms).isfinite() & norms.isfinite()
        if not empty.any():
            return sae, ()
        copied = copy.deepcopy(sae)
        kept = norms.masked_fill(empty, 0.0)
        copied.W_enc.mul_(kept)
        copied.b_enc.mul_(kept)
        copied.W_dec.div_(norms.masked_fill(empty, 1.0)[:, None])
    copied.cfg.rescale_acts_by_decoder_norm = False
    rows = empty.nonzero().flatten().tolist()
    listed = ", ".join(map(str, rows[:_SHOWN])) + (f" and {len(rows) - _SHOWN:,} more" * (len(rows) > _SHOWN))
    return copied, (
        f"W_dec has rows of zeros ({listed}), and codes are divided by their norms "
        "(rescale_acts_by_decoder_norm): these latents count as never active.",
    )
