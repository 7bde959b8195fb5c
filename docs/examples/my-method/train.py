"""Train this submission on the `fit` split of its task; write `weights.safetensors` and `train.log`.

    python docs/examples/my-method/train.py

Half a minute on one core. The codewords start as those of k-means, stage by stage, and are then trained
together with the decoder; which codewords are picked is not differentiated.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from method import Quantiser
from safetensors.torch import save_file

from remainder import open_task

TASK = "tiny/induction"
SEED, STEPS, BATCH, STAGES, CODEWORDS, HIDDEN = 0, 3000, 512, 3, 32, 128
HERE = Path(__file__).resolve().parent


def codebook(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The codewords of k-means: twenty rounds from rows that are drawn at random."""
    book = rows[torch.randperm(len(rows), generator=generator)[:CODEWORDS]].clone()
    for _ in range(20):
        nearest = torch.cdist(rows, book).argmin(-1)
        counts = torch.bincount(nearest, minlength=CODEWORDS)
        sums = torch.zeros_like(book).index_add_(0, nearest, rows)
        book[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return book


def start(rows: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights before training: k-means of what each stage leaves, and a decoder that only adds."""
    mean, books = rows.mean(0), []
    left = rows - mean
    for _ in range(STAGES):
        books.append(codebook(left, generator))
        left = left - books[-1][torch.cdist(left, books[-1]).argmin(-1)]
    width = rows.shape[1]
    return {
        "mean": mean,
        "books": torch.stack(books),
        "inner": torch.randn(width, HIDDEN, generator=generator) / width**0.5 / rows.std(),
        "bias": torch.zeros(HIDDEN),
        "outer": torch.zeros(HIDDEN, width),
    }


@torch.no_grad()
def fvu(method: Quantiser, rows: torch.Tensor) -> float:
    """Fraction of variance unexplained."""
    left = float((rows - method.decode(method.encode(rows))).square().sum())
    return round(left / float((rows - rows.mean(0)).square().sum()), 5)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    task = open_task(TASK, device="cpu")
    rows, held_out = task.rows("fit"), task.rows("calibration")
    weights = start(rows, generator)
    method, log = Quantiser(weights), []
    log.append({"step": 0, "fvu_fit": fvu(method, rows), "fvu_calibration": fvu(method, held_out)})
    trained = [value.requires_grad_() for name, value in weights.items() if name != "mean"]
    optimiser = torch.optim.Adam(trained, lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(1, STEPS + 1):
        batch = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        loss = (batch - method.decode(method.encode(batch))).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            log.append({"step": step, "fvu_fit": fvu(method, rows), "fvu_calibration": fvu(method, held_out)})
    weights = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    save_file(weights, HERE / "weights.safetensors")
    (HERE / "weights.safetensors").chmod(0o644)
    summary = {"task": TASK, "seed": SEED, "unique_rows": len(rows), "torch": torch.__version__}
    lines = [json.dumps(entry) for entry in (*log, summary)]
    (HERE / "train.log").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
