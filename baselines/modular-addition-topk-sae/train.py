"""Train this baseline with sae-lens on the `fit` split, and write `weights/` and `train.log`.

    python baselines/modular-addition-topk-sae/train.py

Some minutes on one core. Activations are those of the task's `fit` split, shuffled anew in every epoch from
one seed. As many latents are active as the key-frequency subspace has directions. The same `train` makes
`modular-addition-topk-sae-6`, which has as many as that in all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import SAE, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file

from remainder.loading.open import open_task

__all__ = ["train"]

TASK = "tiny/modular-addition"
SEED, STEPS, BATCH, LATENTS, K = 0, 6000, 512, 256, 6
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


def train(folder: Path, latents: int) -> None:
    """Train `latents` latents, `K` of them active, and write weights and log to `folder`."""
    torch.set_num_threads(1)
    task = open_task(TASK, device="cpu")
    rows, held_out = task.rows("fit"), task.rows("evaluation")
    torch.manual_seed(SEED)
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=rows.shape[1],
            d_sae=latents,
            k=K,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(
                model_name=task.task.model.name,
                hook_name=task.task.site.hook_in,
                context_size=113,
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

    weights = folder / "weights"
    before = fvu(sae.eval(), held_out)
    sae.save_inference_model(weights)
    half = {name: value.half() for name, value in load_file(weights / "sae_weights.safetensors").items()}
    save_file(half, weights / "sae_weights.safetensors")
    config = json.loads((weights / "cfg.json").read_text())
    (weights / "cfg.json").write_text(json.dumps({**config, "dtype": "float16"}, indent=1) + "\n")
    for path in weights.iterdir():
        path.chmod(0o644)
    rounded = SAE.load_from_disk(weights, dtype="float32").eval()
    summary = {
        "task": TASK,
        "latents": latents,
        "k": K,
        "seed": SEED,
        "steps": STEPS,
        "pairs_seen": STEPS * BATCH,
        "unique_pairs": len(rows),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "dead_latents": int(trainer.dead_neurons.sum()),
        "fvu_fit": round(fvu(rounded, rows), 5),
        "fvu_evaluation": round(fvu(rounded, held_out), 5),
        "fvu_evaluation_float32": round(before, 5),
    }
    lines = [json.dumps(entry) for entry in (*trainer.log, summary)]
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    train(HERE, LATENTS)
