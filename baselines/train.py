"""Train a sparse autoencoder or transcoder of a language model; write `weights/` and `train.log`.

    python baselines/train.py topk-sae-32                # baselines/topk-sae-32
    python baselines/train.py topk-sae-32 --seed 1       # baselines/topk-sae-32-seed-1

Activations are those of the task's `fit` split at spliced positions (attention sinks and special tokens
left out), shuffled anew in every epoch from the seed. Sparse autoencoders are trained by sae-lens. It has no
trainer for transcoders, whose inputs and targets differ: theirs is `fit_transcoder`, and the result is saved
as a sae-lens transcoder. Matrix products are bfloat16 unless the recipe says otherwise, sums and weights
float32; what is stored is float16.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import sae_lens
import torch
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from torch import Tensor

from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task

LATENTS, BATCH, STEPS = 2304, 2048, 2500
RATE, LAST_RATE, WARM_UP, DECAY = 1e-3, 1e-4, 100, STEPS // 5
DEAD_AFTER = 300  # steps without being active
EVALUATED = 88  # windows of the evaluation split
BASELINES = Path(__file__).resolve().parent


class Recipe(NamedTuple):
    """How one baseline is made: by a kind of sae-lens, with its settings, for a number of active latents."""

    kind: str
    active: int
    task: str = "smollm2-135m/resid-15"
    settings: Mapping[str, Any] = MappingProxyType({})
    steps: int = STEPS
    windows: int | None = None
    """Windows of `fit`, the first ones; None: all."""
    bfloat16: bool = True
    """Whether matrix products are bfloat16. Without units for it a processor is faster in float32."""
    steered: str | None = None
    """Name of the sparsity coefficient that is raised while more than `active` latents are active and
    lowered while fewer are, where the kind has no other way to be given their number."""


RECIPES = {
    "topk-sae-16": Recipe("TopK", 16),
    "topk-sae-32": Recipe("TopK", 32),
    "topk-sae-64": Recipe("TopK", 64),
    "topk-sae-32-resid-8": Recipe("TopK", 32, task="smollm2-135m/resid-8"),
    # Fewer tokens than the others: a pass of this model costs more than twice one of SmolLM2-135M.
    "topk-sae-32-gemma": Recipe(
        "TopK", 32, task="gemma-3-270m/resid-9", steps=300, windows=400, bfloat16=False
    ),
    "batchtopk-sae-32": Recipe("BatchTopK", 32),
    "matryoshka-sae-32": Recipe(
        "MatryoshkaBatchTopK", 32, settings={"matryoshka_widths": [144, 576, LATENTS]}
    ),
    "jumprelu-sae-32": Recipe(
        "JumpReLU",
        32,
        settings={
            "l0_coefficient": 1.0,
            "l0_warm_up_steps": STEPS // 4,
            "jumprelu_init_threshold": 0.1,
            "jumprelu_bandwidth": 0.5,
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": 32,
        },
    ),
    "l1-sae-32": Recipe(
        "Standard", 32, settings={"l1_coefficient": 1.0, "l1_warm_up_steps": WARM_UP}, steered="l1"
    ),
    "gated-sae-32": Recipe(
        "Gated", 32, settings={"l1_coefficient": 1.0, "l1_warm_up_steps": WARM_UP}, steered="l1"
    ),
    "transcoder-32": Recipe("JumpReLUTranscoder", 32, task="smollm2-135m/mlp-15"),
    "skip-transcoder-32": Recipe("JumpReLUSkipTranscoder", 32, task="smollm2-135m/mlp-15"),
}


def order(rows: int, seed: int) -> Iterator[Tensor]:
    """Indices of batches without end; each epoch sees every row at most once, in a new seeded order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = torch.randperm(rows, generator=generator)
        yield from (shuffled[start : start + BATCH] for start in range(0, rows - BATCH + 1, BATCH))


class Logged(SAETrainer):  # type: ignore[type-arg]
    """The trainer of sae-lens, which writes its losses to a log, and steers a sparsity coefficient."""

    log: list[dict[str, float]]
    recipe: Recipe

    def step(self, batch: Tensor):  # type: ignore[no-untyped-def]
        output = super().step(batch)
        l0 = float((output.feature_acts != 0).float().sum(-1).mean())
        entry = {"step": self.n_training_steps, "l0": round(l0, 2)}
        if self.recipe.steered is not None:
            scheduler = self.coefficient_schedulers[self.recipe.steered]
            if self.n_training_steps >= WARM_UP:
                scheduler.final_value *= (l0 / self.recipe.active) ** 0.02
                scheduler.current_value = scheduler.final_value
            entry["coefficient"] = round(scheduler.final_value, 5)
        if self.n_training_steps % 50 == 0 or self.n_training_steps == self.recipe.steps - 1:
            entry |= {
                name: round(float(torch.as_tensor(value).detach()), 5)
                for name, value in output.losses.items()
            }
            self.log.append({**entry, "dead": int(self.dead_neurons.sum())})
        return output


def fit_sae(task: LoadedTask, recipe: Recipe, seed: int) -> tuple[Any, list[dict[str, float]]]:
    """An SAE trained by sae-lens on the task's activations, and its training curve."""
    rows = task.rows("fit", recipe.windows).bfloat16()
    config = getattr(sae_lens, f"{recipe.kind}TrainingSAEConfig")(
        d_in=rows.shape[1],
        d_sae=LATENTS,
        normalize_activations="expected_average_only_in",
        metadata=metadata(task),
        **({"k": recipe.active} if "TopK" in recipe.kind else {}),
        **recipe.settings,
    )
    sae = getattr(sae_lens, f"{recipe.kind}TrainingSAE")(config)
    # The decoder's bias starts at the mean in the scaled space that the trainer works in.
    scale = rows.shape[1] ** 0.5 / float(rows.float().norm(dim=-1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(rows.float().mean(0) * scale)
    trainer = Logged(
        SAETrainerConfig(
            total_training_samples=recipe.steps * BATCH,
            train_batch_size_samples=BATCH,
            lr=RATE,
            lr_end=LAST_RATE,
            lr_warm_up_steps=WARM_UP,
            lr_decay_steps=recipe.steps // 5,
            dead_feature_window=DEAD_AFTER,
            n_batches_for_norm_estimate=50,
            autocast=recipe.bfloat16,
        ),
        sae,
        (rows[batch].float() for batch in order(len(rows), seed)),
    )
    trainer.log, trainer.recipe = [], recipe
    trainer.fit()
    return sae, trainer.log


def fit_transcoder(task: LoadedTask, recipe: Recipe, seed: int) -> tuple[Any, list[dict[str, float]]]:
    """A transcoder with BatchTopK activations, saved with the threshold that these amount to.

    As in sae-lens' BatchTopK: over a batch the `active` largest activations a row are kept, the threshold is
    a moving average of the smallest one kept, and latents that were not active for a while learn the error
    that is left (as many of them as half the width). Inputs and outputs are scaled to a root mean square of
    1, and the scales folded into the weights at the end. The skip matrix starts at zero.
    """
    batches = list(task.activations("fit").batches(64))
    x = torch.cat([batch.prefix.x_in[batch.spliced] for batch in batches]).bfloat16()
    y = torch.cat([batch.prefix.x_out[batch.spliced] for batch in batches]).bfloat16()
    scale_in, scale_out = (float(rows.float().square().mean().sqrt()) for rows in (x, y))
    width = x.shape[1]
    config = getattr(sae_lens, f"{recipe.kind}Config")(
        d_in=width, d_out=width, d_sae=LATENTS, apply_b_dec_to_input=False, metadata=metadata(task)
    )
    transcoder = getattr(sae_lens, recipe.kind)(config)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(LATENTS, width), dim=1)
        transcoder.W_enc.copy_(torch.nn.functional.normalize(torch.randn(width, LATENTS), dim=0))
        transcoder.W_dec.copy_(0.1 * directions)
        transcoder.b_dec.copy_(y.float().mean(0) / scale_out)
    weights = dict(transcoder.named_parameters())
    weights.pop("threshold")
    optimizer = torch.optim.Adam(weights.values(), lr=RATE, betas=(0.9, 0.999))
    idle, threshold = torch.zeros(LATENTS), 0.0
    log: list[dict[str, float]] = []
    for step, batch in zip(range(STEPS), order(len(x), seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step)
        inputs, targets = x[batch].float() / scale_in, y[batch].float() / scale_out
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = (inputs @ weights["W_enc"] + weights["b_enc"]).relu()
            norms = weights["W_dec"].detach().norm(dim=1)
            least = (before.detach() * norms).flatten().topk(recipe.active * BATCH).values[-1]
            codes = torch.where(before * norms >= least, before, 0)
            output = codes @ weights["W_dec"] + weights["b_dec"]
            if "W_skip" in weights:
                output = output + inputs @ weights["W_skip"].T
        error = targets - output.float()
        loss = error.square().sum(-1).mean()
        idle = torch.where((codes > 0).any(0), 0, idle + 1)
        dead = idle > DEAD_AFTER
        auxiliary = torch.zeros(())
        if number := int(dead.sum()):
            revived = min(number, width // 2)
            candidates = torch.where(dead, before, -math.inf).topk(revived, dim=-1)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                sparse = torch.zeros_like(before).scatter(-1, candidates.indices, candidates.values)
                rebuilt = sparse @ weights["W_dec"]
            share = min(1.0, number / (width // 2))
            auxiliary = share * (error.detach() - rebuilt.float()).square().sum(-1).mean()
        optimizer.zero_grad()
        (loss + auxiliary).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        # As a moving average over the last hundred batches, from the first one on.
        threshold += (float(least) - threshold) / min(step + 1, 100)
        if step % 50 == 0 or step == STEPS - 1:
            l0 = float((codes > 0).float().sum(-1).mean())
            entry = {"step": step, "l0": round(l0, 2), "mse_loss": round(float(loss.detach()), 5)}
            entry |= {"auxiliary_loss": round(float(auxiliary.detach()), 5), "dead": number}
            log.append(entry)
    with torch.no_grad():
        # A latent is active where its activation times its decoder's norm reaches the threshold.
        transcoder.threshold.copy_(threshold / transcoder.W_dec.norm(dim=1))
        transcoder.W_enc /= scale_in
        transcoder.W_dec *= scale_out
        transcoder.b_dec *= scale_out
        if "W_skip" in weights:
            transcoder.W_skip *= scale_out / scale_in
    return transcoder, log


def rate_at(step: int) -> float:
    """The learning rate, as sae-lens has it: warm-up, constant, linear decay."""
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    return RATE - (RATE - LAST_RATE) * max(0.0, (step - (STEPS - DECAY)) / DECAY)


def metadata(task: LoadedTask) -> SAEMetadata:
    """What the file says of its origin."""
    assert task.task.corpus is not None
    site = task.task.site
    return SAEMetadata(
        model_name=task.task.model.name,
        hook_name=site.hook_in,
        **({} if site.is_reconstruction else {"hook_name_out": site.hook_out}),
        context_size=task.task.corpus.window,
        dataset_path=f"{task.task.corpus.name}, split fit of {task.task.id}",
    )


@torch.inference_mode()
def scores(sae: Any, task: LoadedTask, split: Any, windows: int | None) -> dict[str, float]:
    """Fraction of variance unexplained, active latents a row, and share of latents that are never active."""
    left, active, used = 0.0, 0.0, torch.zeros(LATENTS, dtype=torch.bool)
    outputs = []
    for batch in task.activations(split, windows).batches(16):
        x, y = batch.prefix.x_in[batch.spliced], batch.prefix.x_out[batch.spliced]
        codes = sae.encode(x)
        rebuilt = sae(x) if "transcoder" in sae.cfg.architecture() else sae.decode(codes)
        left += float((y - rebuilt).double().square().sum())
        active += float((codes != 0).sum())
        used |= (codes != 0).any(0)
        outputs.append(y)
    rows = torch.cat(outputs).double()
    return {
        "fvu": round(left / float((rows - rows.mean(0)).square().sum()), 4),
        "l0": round(active / len(rows), 2),
        "dead_share": round(1 - float(used.float().mean()), 4),
    }


def store(sae: Any, folder: Path) -> Any:
    """Save as float16 in sae-lens' format; gives what is read back, as float32."""
    # What a training SAE is at inference; a transcoder is that already.
    getattr(sae, "save_inference_model", sae.save_model)(folder)
    half = {name: value.half() for name, value in load_file(folder / "sae_weights.safetensors").items()}
    save_file(half, folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "dtype": "float16"}, indent=1) + "\n")
    return sae_lens.SAE.load_from_disk(folder, dtype="float32").eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a baseline of a language model.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = RECIPES[options.name]
    folder = BASELINES / (options.name + (f"-seed-{options.seed}" if options.seed else ""))
    folder.mkdir(exist_ok=True)
    task = open_task(recipe.task, device="cpu")
    torch.manual_seed(options.seed)
    start = time.monotonic()
    fit = fit_transcoder if "Transcoder" in recipe.kind else fit_sae
    sae, log = fit(task, recipe, options.seed)
    seconds = time.monotonic() - start
    stored = store(sae, folder / "weights")
    fitted = task.activations("fit", recipe.windows)
    unique = sum(int(batch.spliced.sum()) for batch in fitted.batches(64))
    summary = {
        "baseline": folder.name,
        "task": task.task.id,
        "kind": recipe.kind,
        "latents": LATENTS,
        "seed": options.seed,
        "steps": recipe.steps,
        "tokens_seen": recipe.steps * BATCH,
        "unique_tokens": unique,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "sae_lens": sae_lens.__version__,
        "fit": scores(stored, task, "fit", recipe.windows),
        "evaluation": scores(stored, task, "evaluation", EVALUATED),
    }
    (folder / "train.log").write_text("\n".join(json.dumps(entry) for entry in (*log, summary)) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
