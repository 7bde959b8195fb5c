"""Train this baseline with sae-lens on the `fit` split, and write `weights/` and `train.log`.

    python baselines/digits-topk-sae-8/train.py

About half a minute on one core. Activations are those of the task's `fit` split, shuffled anew in every epoch
from one seed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

from remainder.loading.open import open_task

TASK = "tiny/digits"
SEED, STEPS, BATCH, LATENTS, K = 0, 3000, 256, 128, 8
HERE = Path(__file__).resolve().parent


def shuffled(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Batches without end; each epoch sees every row at most once, in a new seeded order."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            yield rows[order[start : start + BATCH]]


@torch.inference_mode()
def fvu(sae: torch.nn.Module, rows: torch.Tensor) -> float:
    """Fraction of variance unexplained."""
    left = sum(float((part - sae.decode(sae.encode(part))).square().sum()) for part in rows.split(1024))
    return left / float((rows - rows.mean(0)).square().sum())


class Logged(SAETrainer):  # type: ignore[type-arg]
    """The trainer of sae-lens, writing its losses to a log as they come."""

    log: list[dict[str, float]]

    def step(self, batch: torch.Tensor):  # type: ignore[no-untyped-def]
        output = super().step(batch)
        if self.n_training_steps % 250 == 0 or self.n_training_steps == STEPS - 1:
            losses = {
                name: round(float(torch.as_tensor(value).detach()), 5)
                for name, value in output.losses.items()
            }
            dead = int(self.dead_neurons.sum())
            self.log.append({"step": self.n_training_steps, **losses, "dead": dead})
        return output


def main() -> None:
    task = open_task(TASK)
    rows, held_out = task.rows("fit"), task.rows("evaluation")
    torch.manual_seed(SEED)
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=rows.shape[1],
            d_sae=LATENTS,
            k=K,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(
                model_name=task.task.model.name,
                hook_name=task.task.site.hook_in,
                context_size=12,
                dataset_path=f"split fit of {TASK}",
            ),
        )
    )
    # The decoder's bias starts at the mean in the scaled space that the trainer works in.
    scale = rows.shape[1] ** 0.5 / float(rows.norm(dim=-1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0) * scale)
    trainer = Logged(
        SAETrainerConfig(
            total_training_samples=STEPS * BATCH,
            train_batch_size_samples=BATCH,
            lr=1e-3,
            lr_end=1e-4,
            lr_warm_up_steps=100,
            lr_decay_steps=STEPS // 5,
            dead_feature_window=300,
            n_batches_for_norm_estimate=50,
        ),
        sae,
        shuffled(rows),
    )
    trainer.log = []
    start = time.monotonic()
    trainer.fit()
    seconds = time.monotonic() - start

    weights = HERE / "weights"
    sae.save_inference_model(weights)
    for path in weights.iterdir():
        path.chmod(0o644)
    sae.eval()
    summary = {
        "task": TASK,
        "seed": SEED,
        "steps": STEPS,
        "images_seen": STEPS * BATCH,
        "unique_images": len(rows),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "dead_latents": int(trainer.dead_neurons.sum()),
        "fvu_fit": round(fvu(sae, rows), 4),
        "fvu_evaluation": round(fvu(sae, held_out), 4),
    }
    lines = [json.dumps(entry) for entry in (*trainer.log, summary)]
    (HERE / "train.log").write_text("\n".join(lines) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
