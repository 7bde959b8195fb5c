"""Find the heads of the induction circuit, and write them as interpretations.

    python tasks/tiny/induction/heads.py

Source: Olsson et al. 2022 for the two scores; mean ablation as in Wang et al., "Interpretability in the
Wild", 2023.

Steps, all on the split `fit`:
1. Scores from attention, per head: *previous token* is the mean attention from each position to the one
   before; *induction* the mean attention from scored positions to what followed the same token the first
   time.
2. Ablation: for every set of heads of a layer, the loss with these heads kept and the others at their mean.
3. The circuit at a layer is the smallest set whose gap to clean is at most SHARE of the gap with no head
   kept; of several of that size, the one of lowest loss. *Other* is a set of as many heads that shares as
   few as possible with it; of several, again the one of lowest loss.
4. Write `heads.json`, and for both sets at both sites baselines of format "subspace": unit vectors of the
   kept heads' coordinates, and the mean of the site.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from remainder.loading.open import open_task
from remainder.loading.site import ScriptTask

SHARE = 0.05
SIZE = 16
HERE = Path(__file__).resolve().parent
BASELINES = HERE.parents[2] / "baselines"
SITES = {"tiny/induction": "heads_0", "tiny/induction-heads": "heads_1"}


def previous_token_scores(pattern: Float[Tensor, "windows heads pos pos"]) -> Float[Tensor, " heads"]:
    """Mean attention to the position before (step 1)."""
    return pattern.diagonal(-1, -2, -1).mean((0, 2))


def induction_scores(
    pattern: Float[Tensor, "windows heads pos pos"],
    tokens: Int[Tensor, "windows pos"],
    scored: Bool[Tensor, "windows pos"],
) -> Float[Tensor, " heads"]:
    """Mean attention from scored positions to those whose previous token is the token at hand (step 1)."""
    followed = nn.functional.pad(tokens[:, None, :-1] == tokens[:, :, None], (1, 0))
    # The position after the one at hand "follows the same token" too, but lies in the future.
    attended = (pattern * followed[:, None]).sum(-1)
    return attended.transpose(0, 1)[:, scored].mean(1)


def kept_rows(heads: Sequence[int]) -> Float[Tensor, "kept d"]:
    """Unit vectors of the coordinates of some heads."""
    return torch.eye(4 * SIZE).unflatten(0, (4, SIZE))[list(heads)].flatten(0, 1)


@torch.inference_mode()
def measure(task: ScriptTask) -> dict[str, Any]:
    """Loss and share of right answers for every set of heads kept (step 2)."""
    windows, site = task.windows("fit"), task.task.site.hook_in
    tokens, targets = torch.from_numpy(windows.inputs), torch.from_numpy(windows.targets)
    scored = torch.from_numpy(windows.scored)
    mean = task.rows("fit").mean(0)
    layer = task.built.module.get_submodule(site)

    def run(heads: Sequence[int]) -> dict[str, Any]:
        directions = kept_rows(heads)
        hook = layer.register_forward_hook(
            lambda module, args, z: mean + (z - mean) @ directions.T @ directions
        )
        logits = task.built.module(tokens)[scored]
        hook.remove()
        right = (logits.argmax(-1) == targets[scored]).double().mean()
        loss = float(f"{cross_entropy(logits, targets[scored]):.5g}")
        return {"heads": list(heads), "loss": loss, "accuracy": round(float(right), 5)}

    sets = [heads for size in range(5) for heads in itertools.combinations(range(4), size)]
    results = [run(heads) for heads in sets]
    empty, clean = results[0]["loss"], results[-1]["loss"]
    enough = [one for one in results if one["loss"] - clean <= SHARE * (empty - clean)]
    circuit = min(enough, key=lambda one: (len(one["heads"]), one["loss"]))

    def unlike(one: dict[str, Any]) -> tuple[int, float]:
        return len({*one["heads"]} & {*circuit["heads"]}), one["loss"]

    others = [one for one in results if len(one["heads"]) == len(circuit["heads"]) and one is not circuit]
    return {
        "circuit": circuit["heads"],
        "other": min(others, key=unlike)["heads"],
        "share_of_gap": float(f"{(circuit['loss'] - clean) / (empty - clean):.3g}"),
        "kept": results,
    }


@torch.inference_mode()
def attention_scores(task: ScriptTask) -> dict[str, list[float]]:
    """Both scores of the heads of both layers."""
    windows, model = task.windows("fit"), task.built.module
    tokens, scored = torch.from_numpy(windows.inputs), torch.from_numpy(windows.scored)
    x = model.embedding(tokens) + model.position.weight[: tokens.shape[1]]
    found = {}
    for i, layer in enumerate((model.layer_0, model.layer_1)):
        pattern = layer.pattern(x)
        found[f"previous_token_{i}"] = previous_token_scores(pattern)
        found[f"induction_{i}"] = induction_scores(pattern, tokens, scored)
        x = x + layer.output(layer.mixed(x))
    return {name: [round(float(value), 4) for value in scores] for name, scores in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    for name in SITES:
        task = open_task(name, device="cpu")
        assert isinstance(task, ScriptTask)
        report["attention"] = attention_scores(task)
        report[name] = measure(task)
        for kind in ("circuit", "other"):
            folder = BASELINES / f"{name.partition('/')[2]}-{kind}"
            folder.mkdir(exist_ok=True)
            # Ones and zeros lose nothing in half precision.
            save_file(
                {
                    "directions": kept_rows(report[name][kind]).half(),
                    "mean": task.rows("fit").mean(0).contiguous(),
                },
                folder / "subspace.safetensors",
            )
    (HERE / "heads.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
