"""Train the network of this task on `fit`, wrong labels and all; write weights and `train.log`.

    python tasks/tiny/rule-and-noise/train.py

Some seconds on one core. Adam without weight decay, batches of 50, until the wrong labels are known too.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from remainder.build import load_script

HERE = Path(__file__).resolve().parent
SEED, EPOCHS, BATCH, RATE = 0, 60, 50, 1e-3

task = load_script(HERE / "build.py")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data = task.data()
    inputs = {split: torch.from_numpy(part).flatten(0, 1) for split, part in data.inputs.items()}
    labels = {split: torch.from_numpy(part).flatten() for split, part in data.labels.items()}
    wrong = torch.from_numpy(data.labels["fit"] != data.rule["fit"]).flatten()
    network = task.Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    entries: list[dict[str, object]] = []

    def measure() -> dict[str, float]:
        with torch.inference_mode():
            log_p = {split: network(part).log_softmax(-1) for split, part in inputs.items()}
        hits = {split: (part.argmax(-1) == labels[split]).double() for split, part in log_p.items()}
        measured = {f"{split}_accuracy": float(part.mean()) for split, part in hits.items()}
        measured["wrong_labels_known"] = float(hits["fit"][wrong].mean())
        measured |= {
            f"{split}_cross_entropy": float(nn.functional.nll_loss(part, labels[split]))
            for split, part in log_p.items()
        }
        return {name: round(value, 5) for name, value in measured.items()}

    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(labels["fit"])).split(BATCH):
            loss = nn.functional.cross_entropy(network(inputs["fit"][chosen]), labels["fit"][chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if epoch % 10 == 9 or epoch == 0:
            entries.append({"epoch": epoch + 1, **measure()})
    summary = {
        "seed": SEED, "epochs": EPOCHS, "batch": BATCH, "rate": RATE, "wrong_labels": int(wrong.sum()),
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        **measure(),
    }  # fmt: skip
    save_file(network.state_dict(), HERE / "weights.safetensors")
    (HERE / "weights.safetensors").chmod(0o644)
    lines = [json.dumps(entry) for entry in (*entries, summary)]
    (HERE / "train.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
