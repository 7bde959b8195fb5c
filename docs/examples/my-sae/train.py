"""Train this submission with sae-lens on the `fit` split of its task; write `weights/` and `train.log`.

    python docs/examples/my-sae/train.py

Half a minute on one core. Copy it for an SAE of your own: the task gives the activations, and the SAE says in
its metadata of which model and at which hook it was made, so that the benchmark can tell where it fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import SAE, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

from remainder import open_task

TASK = "tiny/induction"
SEED, STEPS, BATCH, LATENTS, K = 0, 4000, 512, 128, 4
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
    left = float((rows - sae.decode(sae.encode(rows))).square().sum())
    return round(left / float((rows - rows.mean(0)).square().sum()), 5)


class Logged(SAETrainer):  # type: ignore[type-arg]
    """The trainer of sae-lens, writing its losses to a log as they come."""

    log: list[dict[str, float]]

    def step(self, batch: torch.Tensor):  # type: ignore[no-untyped-def]
        output = super().step(batch)
        if self.n_training_steps % 250 == 0:
            losses = {
                name: round(float(torch.as_tensor(value).detach()), 5)
                for name, value in output.losses.items()
            }
            self.log.append({"step": self.n_training_steps, **losses, "dead": int(self.dead_neurons.sum())})
        return output


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    task = open_task(TASK, device="cpu")
    rows, held_out = task.rows("fit"), task.rows("calibration")
    metadata = SAEMetadata(model_name=task.task.model.name, hook_name=task.task.site.hook_in)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=LATENTS, k=K, metadata=metadata))
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0))
    settings = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-4,
        lr_warm_up_steps=100,
        lr_decay_steps=STEPS // 5,
        dead_feature_window=300,
    )
    trainer = Logged(settings, sae, shuffled(rows))
    trainer.log = []
    trainer.fit()
    sae.save_inference_model(HERE / "weights")
    for path in (HERE / "weights").iterdir():
        path.chmod(0o644)
    stored = SAE.load_from_disk(HERE / "weights").eval()
    summary = {
        "task": TASK,
        "latents": LATENTS,
        "k": K,
        "seed": SEED,
        "steps": STEPS,
        "unique_rows": len(rows),
        "torch": torch.__version__,
        "fvu_fit": fvu(stored, rows),
        "fvu_calibration": fvu(stored, held_out),
    }
    lines = [json.dumps(entry) for entry in (*trainer.log, summary)]
    (HERE / "train.log").write_text("\n".join(lines) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
