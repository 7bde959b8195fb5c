"""Find the key frequencies of `tiny/modular-addition` and the two subspaces that they give.

    python baselines/modular-addition-key-frequencies/make_subspace.py

Nanda et al. (2023), sections 4 and 5: the logits are a sum of cos(w_k(a + b − c)) over few key frequencies
w_k = 2πk/113, and the map from neurons to logits, W_out W_U [512, 113], has about twice their number as its
rank: for every key frequency, one direction of the MLP is read out as cos(w_k c) and one as sin(w_k c).

1. For k = 1 … 56, regress the centred logits on cos(w_k(a + b − c)), on all pairs of the `fit` documents. Key
   frequencies are those that hold at least 5 % of the logits' power.
2. Read-out directions: W_out W_U cos(w_k c) and W_out W_U sin(w_k c), by the model's weights.
3. Regression directions: the coefficients of the activations on cos(w_k(a + b)) and sin(w_k(a + b)), least
   squares on `fit`.
4. Both are made orthonormal, and scored on the held-out pairs of `fit`; the rest of an activation becomes its
   mean over `fit`.

The interpretation is the read-out directions. A projection on them loses nothing that the logits read of the
key frequencies, whatever else moves the MLP. A projection on the regression directions loses what the logits
read of everything that is orthogonal to them, unless both spaces are one; it is kept beside the other, in
`modular-addition-regression`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from remainder.interpretation.references import Projection, principal_components, random_projection
from remainder.loading.open import open_task
from remainder.loading.site import ScriptTask

HERE = Path(__file__).resolve().parent
TASK, MODULUS, THRESHOLD = "tiny/modular-addition", 113, 0.05


def waves(frequencies: list[int], numbers: Tensor) -> Tensor:
    """cos(w_k n) of all frequencies, then sin(w_k n), [2 frequencies, numbers]."""
    angles = 2 * math.pi / MODULUS * torch.tensor(frequencies)[:, None] * numbers.double()
    return torch.cat([angles.cos(), angles.sin()])


def power_shares(logits: Tensor, sums: Tensor) -> Tensor:
    """Share of the power of centred logits [rows, 113] that cos(w_k(a + b − c)) holds, for k = 1 … 56."""
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    distance = (sums[:, None] - torch.arange(MODULUS)) % MODULUS
    shares = []
    for k in range(1, MODULUS // 2 + 1):
        wave = torch.cos(2 * math.pi * k / MODULUS * distance.double())
        # cos² sums to 113/2 over all c, so this is the power of the least-squares fit with one amplitude.
        amplitude = float((centred * wave).mean()) * 2
        shares.append(amplitude**2 / 2 / float(centred.square().mean()))
    return torch.tensor(shares)


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of what rows [k, d] span, [k, d], float32."""
    return torch.linalg.qr(rows.T)[0].T.float().contiguous()


def main() -> None:
    task = open_task(TASK, device="cpu")
    assert isinstance(task, ScriptTask)
    model, windows = task.built.module, task.windows("fit")
    x = task.rows("fit")  # every position is spliced, so rows are pairs in their order
    pairs = torch.from_numpy(windows.inputs).reshape(-1, 2)
    scored = torch.from_numpy(windows.scored).reshape(-1)
    sums = pairs.sum(-1) % MODULUS
    with torch.inference_mode():
        logits = model(pairs)

    shares = power_shares(logits, sums)
    order = shares.argsort(descending=True)
    frequencies = sorted(int(k) + 1 for k in order if shares[k] >= THRESHOLD)
    rank = 2 * len(frequencies)

    read_out = (model.W_out @ model.W_U).detach().double()
    design = torch.cat([torch.ones(1, len(sums), dtype=torch.float64), waves(frequencies, sums)]).T
    coefficients = torch.linalg.lstsq(design, x.double()).solution[1:]
    mean = x.double().mean(0).float()
    moments = task.fit_moments(len(windows))
    candidates = {
        "key-frequencies": Projection(
            mean, orthonormal(waves(frequencies, torch.arange(MODULUS)) @ read_out.T)
        ),
        "regression": Projection(mean, orthonormal(coefficients)),
        "pca": principal_components(moments, rank),
        "random": random_projection(moments, rank, seed=0),
    }

    clean = logits[scored].double().log_softmax(-1)
    scores = {}
    for name, projection in candidates.items():
        reconstruction = projection.decode(projection.encode(x))
        handle = model.mlp_post.register_forward_hook(lambda module, args, output, new=reconstruction: new)
        with torch.inference_mode():
            log_p = model(pairs)[scored].double().log_softmax(-1)
        handle.remove()
        left = float((x - reconstruction).square().sum() / (x - mean).square().sum())
        scores[name] = {
            "kl": float(f"{float((clean.exp() * (clean - log_p)).sum(-1).mean()):.4g}"),
            "loss": float(f"{-float(log_p.gather(-1, sums[scored, None]).mean()):.4g}"),
            "accuracy": round(float((log_p.argmax(-1) == sums[scored]).double().mean()), 4),
            "variance_explained": round(1 - left, 4),
        }
    for name in ("key-frequencies", "regression"):
        path = HERE.parent / f"modular-addition-{name}" / "subspace.safetensors"
        save_file({"directions": candidates[name].directions, "mean": mean}, path)
        path.chmod(0o644)
    cosines = torch.linalg.svdvals(
        candidates["key-frequencies"].directions @ candidates["regression"].directions.T
    )
    summary = {
        "task": TASK,
        "pairs": len(pairs),
        "scored_pairs": int(scored.sum()),
        "logit_power_by_frequency": {int(k) + 1: round(float(shares[k]), 5) for k in order[:8]},
        "key_frequencies": frequencies,
        "rank": rank,
        "singular_values_of_neuron_logit_map": [
            round(float(v), 3) for v in torch.linalg.svdvals(read_out)[: rank + 4]
        ],
        "principal_cosines_of_both_subspaces": [round(float(c), 3) for c in cosines],
        "clean_loss": float(f"{-float(clean.gather(-1, sums[scored, None]).mean()):.4g}"),
        "scores_on_fit": scores,
        "torch": torch.__version__,
    }
    text = json.dumps(summary, indent=1)
    (HERE / "make_subspace.log").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
