"""Optimal constants: values of removed writers that minimise the loss on calibration prompts.

There is one constant per writer, the same at all positions and in all templates, which starts at the mean.
All are moved together, by Adam in units of the root mean square of their stage, to lower the mean KL to the
clean predictions at the scored positions of the calibration prompts; the best point visited is kept. Kept
writers of a circuit have constants too, for their removed edges.

Source: Li & Janson, "Optimal ablation for interpretability", 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from remainder.circuit.circuit import Circuit
from remainder.circuit.run import Values, record, rows_within, run_circuit

if TYPE_CHECKING:
    from remainder.circuit.backgrounds import Scene

__all__ = ["fit_constants"]

STEPS = 30
RATE = 0.05
"""Step size of Adam, in root mean squares of a stage's values."""


def fit_constants(scenes: list[Scene], circuit: Circuit, start: Values, *, steps: int = STEPS) -> Values:
    """Constants by stage, [1, 1, writers, size]; each step sees all calibration prompts.

    Args:
        scenes: the scenes of all templates.
        circuit: the circuit whose removed edges carry them.
        start: the first guess, of the same shapes.
    """
    scale = {
        name: torch.stack([scene.bank[name].square().mean() for scene in scenes])
        .mean()
        .sqrt()
        .clamp_min(1e-12)
        for name in start
    }
    best, lowest = dict(start), float("inf")
    with torch.enable_grad():
        moved = {name: torch.zeros_like(value, requires_grad=True) for name, value in start.items()}
        optimizer = torch.optim.Adam(moved.values(), lr=RATE)
        for step in range(steps + 1):
            now = {name: start[name] + scale[name] * moved[name] for name in start}
            optimizer.zero_grad()
            loss = sum(_loss(scene, circuit, now) for scene in scenes)
            if loss < lowest:
                best, lowest = {name: value.detach() for name, value in now.items()}, loss
            if step < steps:
                optimizer.step()
    return best


def _loss(scene: Scene, circuit: Circuit, constants: dict[str, Tensor]) -> float:
    """Mean KL on the calibration prompts of a template, in portions; gradients are accumulated."""
    prompts = scene.calibration
    places = [int(place) for place in np.flatnonzero(prompts.scored.any(0))]
    # A pass that is differentiated stores the values of every layer, so it takes fewer rows.
    size = max(min(rows_within(circuit, prompts.tokens.shape[1], budget=scene.budget) // 4, 16), 1)
    total = 0.0
    for start in range(0, len(prompts), size):
        part = prompts.take(slice(start, min(start + size, len(prompts))))
        tokens = torch.from_numpy(part.tokens).to(scene.device)
        mask = torch.from_numpy(part.scored[:, places]).to(scene.device)
        with torch.no_grad():
            clean = record(scene.model, tokens, places)[1][mask].log_softmax(-1)
        log_p = run_circuit(scene.model, circuit, tokens, constants, positions=places)[mask].log_softmax(-1)
        kl = (clean.exp() * (clean - log_p)).sum() / (prompts.scored.sum())
        if kl.requires_grad:
            kl.backward(retain_graph=True)
        total += float(kl.detach())
    return total
