"""Train the model of this task until it has grokked; write `weights.safetensors` and `train.log`.

    python tasks/tiny/modular-addition/train.py

Four minutes on an idle core. The recipe is that of Nanda et al. (2023), AdamW with rate 1e-3, betas (0.9,
0.98) and weight decay 1, but for two things:

1. Batches of 512 instead of all pairs: as many steps, a seventh of the time.
2. Once it has grokked, Adam's ε rises from 1e-8 to 1e-5. Weight decay then shrinks the logits until the loss
   rests at 2e-4 instead of 1e-7 nats, which is what float32 can resolve of a loss.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from remainder.build import load_script

HERE = Path(__file__).resolve().parent
SEED, STEPS, BATCH, RATE, DECAY = 1, 9000, 512, 1e-3, 1.0
EPSILON, LATE_EPSILON, LATE = 1e-8, 1e-5, 6000
WARM_UP, COOL_DOWN = 10, 1500
"""Steps in which the rate rises to `RATE`, and in which it falls to a fiftieth of it."""

script = load_script(HERE / "model.py")


@torch.inference_mode()
def measure(model: nn.Module, pairs: Tensor) -> dict[str, float]:
    """Accuracy and cross-entropy (nats, from float64 log-probabilities) on pairs [n, 2]."""
    log_p = model(pairs).double().log_softmax(-1)
    sums = pairs.sum(-1) % script.MODULUS
    loss = float(nn.functional.nll_loss(log_p, sums))
    return {
        "accuracy": round(float((log_p.argmax(-1) == sums).double().mean()), 5),
        "loss": float(f"{loss:.5g}"),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    every = script.pairs_of(np.arange(script.MODULUS)).reshape(-1, 2)
    trained = torch.from_numpy(script.training_pairs())
    held_out = torch.from_numpy(every[script.held_out(every)])
    model = script.ModularAddition()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    generator = torch.Generator().manual_seed(SEED)
    lines: list[dict[str, object]] = []
    start = time.monotonic()
    for step in range(STEPS + 1):
        if step % 250 == 0:
            both = {"trained": measure(model, trained), "held_out": measure(model, held_out)}
            lines.append({"step": step, **{f"{k}_{m}": v for k, d in both.items() for m, v in d.items()}})
            print(json.dumps(lines[-1]), flush=True)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * min(1, max(0.02, (STEPS - step) / COOL_DOWN))
            group["eps"] = EPSILON if step < LATE else LATE_EPSILON
        batch = trained[torch.randint(len(trained), (BATCH,), generator=generator)]
        # Of a loss of 1e-7, float32 would keep one digit.
        loss = nn.functional.cross_entropy(model(batch).double(), batch.sum(-1) % script.MODULUS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = round(time.monotonic() - start)

    full = measure(model, held_out)
    with torch.inference_mode():
        clean = model(held_out).double().log_softmax(-1)
    half = {name: value.half() for name, value in model.state_dict().items()}
    save_file(half, HERE / "weights.safetensors")
    (HERE / "weights.safetensors").chmod(0o644)
    model.load_state_dict({name: value.float() for name, value in half.items()})
    with torch.inference_mode():
        rounded = model(held_out).double().log_softmax(-1)
    summary = {
        "seed": SEED, "steps": STEPS, "batch": BATCH, "rate": RATE, "weight_decay": DECAY,
        "trained_pairs": len(trained), "held_out_pairs": len(held_out), "seconds": seconds,
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        **{f"held_out_{name}_float32": value for name, value in full.items()},
        **{f"held_out_{name}_float16": value for name, value in measure(model, held_out).items()},
        "kl_of_rounding_to_float16": float(f"{float((clean.exp() * (clean - rounded)).sum(-1).mean()):.3g}"),
    }  # fmt: skip
    text = "\n".join(json.dumps(line) for line in (*lines, summary))
    (HERE / "train.log").write_text(text + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
