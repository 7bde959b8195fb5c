"""Train the SAE of this repository with sae-lens, and write `my-sae/`. Under a minute on one core.

python train.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

from remainder import open_task

TASK = "tiny/digits"
SEED, STEPS, BATCH, LATENTS, K = 0, 3000, 256, 96, 12


def shuffled(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Batches without end, in a new seeded order in every epoch."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        for chosen in torch.randperm(len(rows), generator=generator).split(BATCH)[:-1]:
            yield rows[chosen]


def main() -> None:
    task = open_task(TASK)
    rows = task.rows("fit")
    torch.manual_seed(SEED)
    site = SAEMetadata(model_name=task.task.model.name, hook_name=task.task.site.hook_in)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=LATENTS, k=K, metadata=site))
    sae.b_dec.data = rows.mean(0)
    settings = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-4,
        lr_warm_up_steps=100,
        lr_decay_steps=STEPS // 5,
        dead_feature_window=300,
    )
    SAETrainer(settings, sae, shuffled(rows)).fit()
    sae.save_inference_model(Path(__file__).resolve().parent / "my-sae")


if __name__ == "__main__":
    main()
