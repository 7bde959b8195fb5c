"""An SAE of sae-lens in the midst of its training, as what sae-lens would save of it now.

1. It is copied, and whatever its activations are scaled by in training is folded into the copy.
2. sae-lens itself saves the copy for inference, and reads it again: classes that compute otherwise in
   training (by thresholds of a batch, say) become those that are scored.

Source: https://github.com/decoderesearch/SAELens, `training/sae_trainer.py`, `SAETrainer.fit`.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from typing import Any

from torch import nn

from remainder.base.messages import message_of
from remainder.errors import InterpretationError

__all__ = ["snapshot"]


def snapshot(thing: Any, scaler: Any = None) -> Any:
    """A copy of any interpretation as it is now, for scoring; the original is left alone.

    Args:
        scaler: the `ActivationScaler` of sae-lens' trainer, where the SAE is of sae-lens.

    Raises:
        InterpretationError: it cannot be copied, or a scale is given for what is no SAE of sae-lens.
    """
    try:
        copied = copy.deepcopy(thing)
    except Exception as problem:  # foreign code may raise anything; the cause is shown
        raise InterpretationError(
            f"a {type(thing).__name__} in training cannot be copied: {message_of(problem)}",
            fix="keep no tensors with a gradient behind them as its attributes, or give it as a nn.Module",
        ) from problem
    lens = sys.modules.get("sae_lens")
    if lens is None or not isinstance(copied, lens.TrainingSAE):
        if scaler is not None and (scaler.scaling_factor is not None or scaler.whitening is not None):
            raise InterpretationError(
                f"a {type(thing).__name__} is trained on scaled activations, and only an SAE of sae-lens has "
                "a place for the scale",
                fix='train it on the activations as they are: normalize_activations = "none"',
            )
        return copied.eval() if isinstance(copied, nn.Module) else copied
    if scaler is not None and scaler.scaling_factor is not None:
        copied.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler is not None and scaler.whitening is not None:
        white = scaler.whitening.to(copied.device)
        copied.fold_activation_whitening(
            mean=white.mean, whitening_matrix=white.matrix, unwhitening_matrix=white.inverse_matrix
        )
    with tempfile.TemporaryDirectory(prefix="remainder-") as folder:
        copied.save_inference_model(folder)
        return lens.SAE.load_from_disk(folder, device=str(copied.device)).eval()
