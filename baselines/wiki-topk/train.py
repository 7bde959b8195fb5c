"""Train a sparse autoencoder of tiny/wiki or tiny/wiki-mlp with sae-lens; write `weights/` and `train.log`.

    python baselines/wiki-topk/train.py --kind topk --site wiki

`--kind` is topk, jumprelu or l1; `--site` is wiki or wiki-mlp; the folder is baselines/SITE-KIND. A few
minutes on one core. Activations are those of the task's `fit` split at spliced positions (attention sinks and
special tokens left out), shuffled anew in every epoch from one seed. All have about 12 active latents: the
JumpReLU one through its quadratic loss around that number, the L1 one through the choice of its coefficient.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sae_lens
import torch
from sae_lens import (
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file

from remainder.loading.open import open_task

SEED, BATCH, LATENTS, ACTIVE = 0, 1024, 320, 12
BASELINES = Path(__file__).resolve().parent.parent
# Of the sparsity term, by kind and site.
COEFFICIENTS = {
    ("jumprelu", "wiki"): 1.0,
    ("jumprelu", "wiki-mlp"): 1.0,
    ("l1", "wiki"): 1.4,
    ("l1", "wiki-mlp"): 1.4,
}


def shuffled(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Batches without end; each epoch sees every row at most once, in a new seeded order."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            yield rows[order[start : start + BATCH]]


def make(kind: str, coefficient: float | None, steps: int, **shared: Any) -> Any:
    """An untrained sparse autoencoder of `kind`."""
    if kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=ACTIVE, **shared))
    if kind == "jumprelu":
        return JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(
                l0_coefficient=coefficient,
                l0_warm_up_steps=steps // 4,
                jumprelu_init_threshold=0.1,
                jumprelu_bandwidth=0.5,
                jumprelu_sparsity_loss_mode="quadratic",
                target_l0=ACTIVE,
                **shared,
            )
        )
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(l1_coefficient=coefficient, l1_warm_up_steps=steps // 4, **shared)
    )


@torch.inference_mode()
def scores(sae: Any, rows: torch.Tensor) -> dict[str, float]:
    """Fraction of variance unexplained, active latents a row, share of latents that are never active."""
    left, active, used = 0.0, 0.0, torch.zeros(LATENTS, dtype=torch.bool)
    for part in rows.split(8192):
        codes = sae.encode(part)
        left += float((part - sae.decode(codes)).square().sum())
        active += float((codes != 0).sum())
        used |= (codes != 0).any(0)
    return {
        "fvu": round(left / float((rows - rows.mean(0)).square().sum()), 4),
        "l0": round(active / len(rows), 2),
        "dead_share": round(1 - float(used.float().mean()), 4),
    }


class Logged(SAETrainer):  # type: ignore[type-arg]
    """The trainer of sae-lens, writing its losses to a log as they come."""

    log: list[dict[str, float]]

    def step(self, batch: torch.Tensor):  # type: ignore[no-untyped-def]
        output = super().step(batch)
        if self.n_training_steps % 200 == 0:
            losses = {
                name: round(float(torch.as_tensor(value).detach()), 5)
                for name, value in output.losses.items()
            }
            l0 = round(float((output.feature_acts != 0).float().sum(-1).mean()), 2)
            self.log.append({"step": self.n_training_steps, **losses, "l0": l0})
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a sparse autoencoder of tiny/wiki or tiny/wiki-mlp.")
    parser.add_argument("--kind", choices=("topk", "jumprelu", "l1"), required=True)
    parser.add_argument("--site", choices=("wiki", "wiki-mlp"), required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--coefficient", type=float, help="of the sparsity term; default: see COEFFICIENTS")
    options = parser.parse_args()
    coefficient = options.coefficient or COEFFICIENTS.get((options.kind, options.site))
    task = open_task(f"tiny/{options.site}", device="cpu")
    rows, held_out = task.rows("fit"), task.rows("evaluation")
    torch.manual_seed(SEED)
    assert task.task.corpus is not None
    sae = make(
        options.kind,
        coefficient,
        options.steps,
        d_in=rows.shape[1],
        d_sae=LATENTS,
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(
            model_name=task.task.model.name,
            hook_name=task.task.site.hook_in,
            context_size=task.task.corpus.window,
            dataset_path=f"{task.task.corpus.name}, split fit of {task.task.id}",
        ),
    )
    # The decoder's bias starts at the mean in the scaled space that the trainer works in.
    scale = rows.shape[1] ** 0.5 / float(rows.norm(dim=-1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0) * scale)
    trainer = Logged(
        SAETrainerConfig(
            total_training_samples=options.steps * BATCH,
            train_batch_size_samples=BATCH,
            lr=1e-3,
            lr_end=1e-5,
            lr_warm_up_steps=100,
            lr_decay_steps=options.steps // 3,
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

    folder = BASELINES / f"{options.site}-{options.kind}"
    weights = folder / "weights"
    sae.save_inference_model(weights)
    stored = sae_lens.SAE.load_from_disk(weights, dtype="float32").eval()
    single = {"fit": scores(stored, rows), "evaluation": scores(stored, held_out)}
    half = {name: value.half() for name, value in load_file(weights / "sae_weights.safetensors").items()}
    save_file(half, weights / "sae_weights.safetensors")
    config = json.loads((weights / "cfg.json").read_text())
    (weights / "cfg.json").write_text(json.dumps({**config, "dtype": "float16"}, indent=1) + "\n")
    stored = sae_lens.SAE.load_from_disk(weights, dtype="float32").eval()
    summary = {
        "task": task.task.id,
        "kind": options.kind,
        "coefficient": coefficient,
        "latents": LATENTS,
        "seed": SEED,
        "steps": options.steps,
        "rows_seen": options.steps * BATCH,
        "unique_rows": len(rows),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "sae_lens": sae_lens.__version__,
        "float32": single,
        "float16": {"fit": scores(stored, rows), "evaluation": scores(stored, held_out)},
    }
    lines = [json.dumps(entry) for entry in (*trainer.log, summary)]
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
