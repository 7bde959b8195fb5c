"""Train the model of tiny/induction; write `weights.safetensors` and `train.log`.

    python tasks/tiny/induction/train.py

About ten minutes on a free core. Every batch is new: sequences come from the stream of SEED, which no split
of the task uses. Weights are trained in float32 and stored in float16; the log gives loss and accuracy
before and after.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from remainder.build import load_script

SEED, STEPS, BATCH, RATE, WARM, DECAY = 20240229, 6000, 128, 2e-3, 100, 0.1
HERE = Path(__file__).resolve().parent


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    script = load_script(HERE / "build.py")
    rng = np.random.default_rng(SEED)
    model = script.Induction()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM, 1.0) * (1 - step / STEPS)
    )

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens, lengths = script.sequences(count, rng)
        return torch.tensor(tokens[:, :-1]), torch.tensor(tokens[:, 1:]), torch.tensor(script.scored(lengths))

    def quality(count: int = 1024) -> dict[str, float]:
        inputs, targets, mask = batch(count)
        with torch.inference_mode():
            logits = model(inputs)[mask]
        right = (logits.argmax(-1) == targets[mask]).float().mean()
        return {
            "loss": float(f"{cross_entropy(logits, targets[mask]):.4g}"),
            "accuracy": round(float(right), 5),
        }

    start = time.monotonic()
    log = []
    for step in range(STEPS):
        inputs, targets, mask = batch(BATCH)
        loss = cross_entropy(model(inputs)[mask], targets[mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            log.append(json.dumps({"step": step, "loss": float(f"{loss.item():.4g}")}))
            print(log[-1], flush=True)

    before = quality()
    weights = {name: value.detach().half() for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    save_file(weights, HERE / "weights.safetensors")
    summary = {
        "seed": SEED,
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "seconds": round(time.monotonic() - start),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "held_out_float32": before,
        "held_out_float16": quality(),
    }
    log.append(json.dumps(summary))
    print(log[-1], flush=True)
    (HERE / "train.log").write_text("\n".join(log) + "\n")


if __name__ == "__main__":
    main()
