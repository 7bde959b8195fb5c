"""Train the network of this task on the `fit` split; write `weights.safetensors` and `train.log`.

    python tasks/tiny/digits/train.py

A few seconds on one core. `train` takes several networks at once: `clone.py` trains its own with it, by the
same recipe (AdamW, constant rate, batches of 64, 2,000 steps; chosen once, nothing was tuned on it).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from remainder.build import load_script

__all__ = ["BATCH", "SEED", "STEPS", "epochs", "evaluate", "logits", "train"]

HERE = Path(__file__).resolve().parent
SEED, STEPS, BATCH, RATE, DECAY = 0, 2000, 64, 2e-3, 1e-2

Weights = dict[str, Tensor]
Batches = Callable[[int], tuple[Tensor, Tensor]]
"""Step → images [networks, batch, 64] and digits [networks, batch]."""

task = load_script(HERE / "build.py")


def logits(weights: Weights, images: Tensor) -> Tensor:
    """Logits [networks, n, 10] of networks whose weights are stacked along the first axis.

    Args:
        images: [n, 64], shown to all networks, or [networks, n, 64].
    """
    network = task.Network()
    one = lambda weights, images: functional_call(network, weights, (images,))  # noqa: E731
    result: Tensor = torch.vmap(one, in_dims=(0, 0 if images.ndim == 3 else None))(weights, images)
    return result


def evaluate(weights: Weights, images: Tensor, digits: Tensor) -> tuple[Tensor, Tensor]:
    """Hits (1 or 0) and cross-entropy in nats, both [networks, n], of images [n, 64]."""
    with torch.inference_mode():
        log_p = logits(weights, images).log_softmax(-1)
        losses = -log_p[:, torch.arange(len(digits)), digits]
        return (log_p.argmax(-1) == digits).double(), losses.double()


def train(batches: Batches, seeds: Sequence[int], log: Callable[[dict[str, float]], None] | None) -> Weights:
    """Train one network for each seed of its first weights; returns their weights, stacked."""
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(task.Network())
    weights, _ = stack_module_state(networks)
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        images, digits = batches(step)
        each = nn.functional.cross_entropy(logits(weights, images).flatten(0, 1), digits.flatten())
        # Every network's own mean: their gradients do not meet.
        (each * len(seeds)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if log is not None and (step % 200 == 0 or step == STEPS - 1):
            log({"step": step, "loss": round(float(each.detach()), 5)})
    return {name: value.detach() for name, value in weights.items()}


def epochs(images: Tensor, digits: Tensor, seeds: Sequence[int]) -> Batches:
    """Batches from fixed images: [n, 64] for all networks, or [networks, n, 64]; new order every epoch.

    Each network goes through its images in an order of its own.
    """
    if images.ndim == 2:
        images = images.expand(len(seeds), *images.shape)
        digits = digits.expand(len(seeds), *digits.shape)
    generators = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    per_epoch = images.shape[1] // BATCH
    orders: list[Tensor] = []
    own = torch.arange(len(seeds))[:, None]

    def batch(step: int) -> tuple[Tensor, Tensor]:
        place = step % per_epoch
        if place == 0:
            orders[:] = [torch.randperm(images.shape[1], generator=generator) for generator in generators]
        chosen = torch.stack([order[place * BATCH : (place + 1) * BATCH] for order in orders])
        return images[own, chosen], digits[own, chosen]

    return batch


def main() -> None:
    torch.set_num_threads(1)
    splits = {
        name: (torch.from_numpy(part.inputs).flatten(0, 1), torch.from_numpy(part.targets).flatten())
        for name, part in task.splits().items()
    }
    entries: list[dict[str, object]] = []
    weights = train(epochs(*splits["fit"], [SEED]), [SEED], entries.append)
    summary: dict[str, object] = {
        "seed": SEED,
        "steps": STEPS,
        "batch": BATCH,
        "rate": RATE,
        "weight_decay": DECAY,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    for name, (images, digits) in splits.items():
        hits, losses = evaluate(weights, images, digits)
        summary[f"{name}_images"] = len(digits)
        summary[f"{name}_accuracy"] = round(float(hits.mean()), 5)
        summary[f"{name}_cross_entropy"] = round(float(losses.mean()), 5)
    save_file({name: value[0].contiguous() for name, value in weights.items()}, HERE / "weights.safetensors")
    (HERE / "weights.safetensors").chmod(0o644)
    lines = [json.dumps(entry) for entry in (*entries, summary)]
    (HERE / "train.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
