"""Training of every dictionary of the studies: sae-lens, one recipe, snapshots on the way.

`trained` gives dictionaries by the number of steps that they have seen; 0 is the untrained one. The recipe is
that of `baselines/wiki-topk/train.py`, shorter. Constraints follow Korznikov et al. 2026 ("Sanity checks for
sparse autoencoders"):

- `frozen-decoder`: directions of the decoder stay as they were drawn.
- `soft-frozen-decoder`: each keeps a cosine of at least 0.8 with the direction that was drawn; it is put back
  on that cone after every step, its length untouched.
- `frozen-encoder`: weights and bias of the encoder stay as they were drawn.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import sae_lens
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from torch import Tensor

CONSTRAINTS = ("none", "frozen-decoder", "soft-frozen-decoder", "frozen-encoder")
LEAST_COSINE = 0.8


class Recipe(NamedTuple):
    """How a dictionary is trained."""

    kind: str
    """`topk`, `batchtopk`, `jumprelu` or `l1`."""
    latents: int
    active: int
    """Active latents per row, of `l1` through its coefficient alone."""
    coefficient: float
    """Of the sparsity term of `jumprelu` and `l1`."""
    steps: int
    batch: int
    seed: int
    constraint: str = "none"


def _made(recipe: Recipe, width: int) -> Any:
    shared: dict[str, Any] = {
        "d_in": width,
        "d_sae": recipe.latents,
        "normalize_activations": "expected_average_only_in",
    }
    warm_up = recipe.steps // 4
    if recipe.kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=recipe.active, **shared))
    if recipe.kind == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=recipe.active, **shared))
    if recipe.kind == "jumprelu":
        return JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(
                l0_coefficient=recipe.coefficient,
                l0_warm_up_steps=warm_up,
                jumprelu_init_threshold=0.1,
                jumprelu_bandwidth=0.5,
                jumprelu_sparsity_loss_mode="quadratic",
                target_l0=recipe.active,
                **shared,
            )
        )
    if recipe.kind == "l1":
        return StandardTrainingSAE(
            StandardTrainingSAEConfig(l1_coefficient=recipe.coefficient, l1_warm_up_steps=warm_up, **shared)
        )
    raise ValueError(f"there is no kind {recipe.kind!r}")


def _batches(rows: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """Batches without end; each epoch sees every row at most once, in a new seeded order."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - recipe.batch + 1, recipe.batch):
            yield rows[order[start : start + recipe.batch]]


def inference(sae: Any, scale: float) -> Any:
    """The dictionary as it is used, for activations that are not scaled."""
    folded = copy.deepcopy(sae)
    folded.fold_activation_norm_scaling_factor(scale)
    with tempfile.TemporaryDirectory() as folder:
        folded.save_inference_model(folder)
        return sae_lens.SAE.load_from_disk(folder, dtype="float32").eval()


class _Snapshots(SAETrainer):  # type: ignore[type-arg]
    """The trainer of sae-lens, with a constraint, and dictionaries kept at some steps."""

    wanted: Collection[int] = ()
    constraint = "none"
    drawn: Tensor
    kept: dict[int, Any]
    log: list[dict[str, float]]

    def step(self, batch: Tensor):  # type: ignore[no-untyped-def]
        if self.n_training_steps == 0:
            self._keep(0)
        output = super().step(batch)
        if self.constraint == "soft-frozen-decoder":
            self._put_back()
        seen = self.n_training_steps + 1
        if seen in self.wanted:
            self._keep(seen)
            losses = {name: float(torch.as_tensor(loss).detach()) for name, loss in output.losses.items()}
            active = float((output.feature_acts.detach() != 0).float().sum(-1).mean())
            self.log.append(
                {"step": seen, "l0": round(active, 2), **{name: round(v, 5) for name, v in losses.items()}}
            )
        return output

    def _keep(self, seen: int) -> None:
        if seen in self.wanted:
            assert self.activation_scaler.scaling_factor is not None
            self.kept[seen] = inference(self.sae, self.activation_scaler.scaling_factor)

    @torch.no_grad()
    def _put_back(self) -> None:
        weights = self.sae.W_dec
        length = weights.norm(dim=-1, keepdim=True)
        along = (weights * self.drawn).sum(-1, keepdim=True)
        across = weights - along * self.drawn
        across = across / across.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        edge = length * (LEAST_COSINE * self.drawn + (1 - LEAST_COSINE**2) ** 0.5 * across)
        weights.copy_(torch.where(along < LEAST_COSINE * length, edge, weights))


def trained(
    rows: Tensor, recipe: Recipe, snapshots: Collection[int]
) -> tuple[dict[int, Any], list[dict[str, float]]]:
    """Dictionaries by steps seen, and the log of their losses.

    Args:
        rows: activations to train on, `[rows, width]`.
        snapshots: numbers of steps, at most those of the recipe.
    """
    if recipe.constraint not in CONSTRAINTS:
        raise ValueError(f"there is no constraint {recipe.constraint!r}")
    torch.manual_seed(recipe.seed)
    sae = _made(recipe, rows.shape[1])
    if recipe.constraint == "frozen-decoder":
        sae.W_dec.requires_grad_(False)
    if recipe.constraint == "frozen-encoder":
        sae.W_enc.requires_grad_(False)
        sae.b_enc.requires_grad_(False)
    # The decoder's bias starts at the mean, in the scaled space that the trainer works in.
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0) * rows.shape[1] ** 0.5 / float(rows.norm(dim=-1).mean()))
    trainer = _Snapshots(
        SAETrainerConfig(
            total_training_samples=recipe.steps * recipe.batch,
            train_batch_size_samples=recipe.batch,
            lr=1e-3,
            lr_end=1e-5,
            lr_warm_up_steps=recipe.steps // 40,
            lr_decay_steps=recipe.steps // 3,
            dead_feature_window=300,
            n_batches_for_norm_estimate=50,
        ),
        sae,
        _batches(rows, recipe),
    )
    trainer.wanted, trainer.constraint, trainer.kept, trainer.log = set(snapshots), recipe.constraint, {}, []
    trainer.drawn = (sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)).detach().clone()
    trainer.fit()
    return trainer.kept, trainer.log
