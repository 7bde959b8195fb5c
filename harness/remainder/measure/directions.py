"""Directions along which the shape of a residual matters: what the loss reads, and what features write.

- Loss gradients: leading eigenvectors of the second moment of ∂(sum of losses)/∂x over spliced calibration
  tokens.
- Decoder rows: of the features with the largest summed squared contribution on calibration.

Source: protocol 1, section 6 ("along functional directions").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.loading.activations import Batch
from remainder.measure.codes import CodeSample
from remainder.measure.decoders import AffineDecoder
from remainder.measure.likelihood import likelihood_of
from remainder.model.bridge import Prefix, Runner

__all__ = ["decoder_directions", "gradient_directions", "loss_gradients"]

_PART = 4  # windows whose graph is in memory at a time


def gradient_directions(
    runner: Runner, batches: Iterable[Batch], count: int = 16
) -> Float[Tensor, "directions d"]:
    """Unit directions that the loss depends on most, leading one first; float64."""
    total: Tensor | None = None
    for batch in batches:
        for start in range(0, len(batch.windows), _PART):
            part = slice(start, start + _PART)
            rows = _gradients(runner, batch, part)[batch.spliced[part]].double()
            total = rows.T @ rows if total is None else total + rows.T @ rows
    if total is None:
        raise ValueError("no batch was given")
    _, vectors = torch.linalg.eigh(total)
    leading: Tensor = vectors.flip(-1).T[:count].contiguous()
    return leading


def loss_gradients(runner: Runner, batch: Batch) -> Float[Tensor, "docs pos d"]:
    """Gradients of the summed loss of each window with respect to its activations at the site."""
    starts = range(0, len(batch.windows), _PART)
    return torch.cat([_gradients(runner, batch, slice(start, start + _PART)) for start in starts])


def _gradients(runner: Runner, batch: Batch, part: slice) -> Float[Tensor, "docs pos d"]:
    """Gradients of the summed loss of each window with respect to its activations at the site."""
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: tensors made in inference mode cannot take part in a graph.
        inputs, targets = batch.inputs[part].clone(), batch.targets[part].clone()
        scored = batch.scored[part].clone()
        prefix = Prefix(*(tensor[part].clone() for tensor in batch.prefix))
        x = prefix.x_out.clone().requires_grad_()
        outputs = runner.logits(runner.suffix(inputs, prefix, x)[scored])
        likelihood = likelihood_of(targets)
        loss = likelihood.compare(likelihood.keep(outputs), outputs, targets[scored]).loss.sum()
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.detach()


def decoder_directions(
    sample: CodeSample, decoder: AffineDecoder, count: int = 32
) -> Float[Tensor, "directions d"] | None:
    """Unit decoder rows of the features that contribute most; None if no feature contributes."""
    rows = decoder.directions.double()
    if sample.squares is None:
        return None
    energy = sample.squares.to(rows.device)[decoder.live] * rows.square().sum(-1)
    chosen = energy.argsort(descending=True, stable=True)[:count]
    chosen = chosen[energy[chosen] > 0]
    if len(chosen) == 0:
        return None
    directions = rows[chosen]
    unit: Tensor = directions / directions.norm(dim=-1, keepdim=True)
    return unit
