"""What the interpretations keep of the rule, and what of the wrong labels that the network memorised.

    python tasks/tiny/rule-and-noise/memorised.py

Seconds; writes `memorised.json` beside this file.

Steps, for each baseline of this task, put in at the site (raw: what it leaves out is zero):
1. shifted (the task's evaluation split, labels by the rule): accuracy and cross-entropy, minus those of the
   clean network.
2. The same cross-entropy after each has got its own temperature: logits are divided by the number that is
   best on calibration. A network that is too sure gains from any damage that makes it less sure; after this,
   what is left is a gain in what it knows.
3. memorised (the examples of `fit` whose label breaks the rule): share that still gets the memorised label,
   share that gets what the rule says instead, and cross-entropy of the memorised label minus clean.
4. right (the other examples of `fit`): accuracy.
Intervals: 95 %, studentised bootstrap over documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from remainder.loading.open import open_task
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.record.schema import Number
from remainder.submission.open import baselines_for
from remainder.task.script import load_script

__all__ = ["compare", "spliced", "table", "temperature"]

HERE = Path(__file__).resolve().parent
SEED = 0

Array = NDArray[np.float64]


def spliced(network: torch.nn.Module, inputs: Tensor, interpretation: Any) -> Tensor:
    """Logits [documents, 20, 4] with activations at the site replaced; None replaces nothing."""

    def replace(module: torch.nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if interpretation is None else interpretation.decode(interpretation.encode(output))

    handle = network.get_submodule("hidden").register_forward_hook(replace)
    try:
        with torch.inference_mode():
            logits: Tensor = network(inputs).double()
    finally:
        handle.remove()
    return logits


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The number by which to divide logits for the least cross-entropy."""

    def loss(log_t: float) -> float:
        return float(_losses(logits / np.exp(log_t), labels).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 6), method="bounded").x))


def compare(clean: Mapping[str, Tensor], other: Mapping[str, Tensor], data: Any) -> dict[str, Estimate]:
    """Steps 1 to 4 for logits by split, of the clean network and with an interpretation put in."""
    labels = {split: torch.from_numpy(part) for split, part in data.labels.items()}
    rule = torch.from_numpy(data.rule["fit"])
    found: dict[str, Estimate] = {}

    shifted = labels["evaluation"]
    everywhere = torch.ones_like(shifted, dtype=torch.bool)
    both = (other["evaluation"], clean["evaluation"])
    new = Bootstrap(len(shifted), seed=SEED)
    hits, clean_hits = (_ratio(logits.argmax(-1) == shifted, everywhere) for logits in both)
    found["shifted: accuracy"] = new.estimate(hits)
    found["shifted: accuracy − clean"] = new.difference(hits, clean_hits)
    losses, clean_losses = (_ratio(_losses(logits, shifted), everywhere) for logits in both)
    found["shifted: cross-entropy − clean"] = new.difference(losses, clean_losses)
    warm = [
        logits / temperature(part["calibration"], labels["calibration"])
        for logits, part in zip(both, (other, clean), strict=True)
    ]
    losses, clean_losses = (_ratio(_losses(logits, shifted), everywhere) for logits in warm)
    found["shifted: cross-entropy at own temperature"] = new.estimate(losses)
    found["shifted: cross-entropy at own temperature − clean at its own"] = new.difference(
        losses, clean_losses
    )

    known = labels["fit"]
    wrong = known != rule
    old = Bootstrap(len(known), seed=SEED)
    guesses = other["fit"].argmax(-1)
    found["memorised: gets the memorised label"] = old.estimate(_ratio(guesses == known, wrong))
    found["memorised: gets the rule's label"] = old.estimate(_ratio(guesses == rule, wrong))
    losses, clean_losses = (_ratio(_losses(part["fit"], known), wrong) for part in (other, clean))
    found["memorised: cross-entropy − clean"] = old.difference(losses, clean_losses)
    found["right: accuracy"] = old.estimate(_ratio(guesses == known, ~wrong))
    return found


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def _ratio(values: Tensor, counted: Tensor) -> Ratio:
    """The mean of `values` where `counted`, as sums by document."""
    return Ratio((values.double() * counted).sum(1).numpy(), counted.double().sum(1).numpy())


def table(baselines: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The numbers of `memorised.json` as the Markdown table of the README, most raw gain first."""
    columns = (
        ("shifted: accuracy", 100, ".1f"),
        ("shifted: cross-entropy − clean", 1, "+.2f"),
        ("shifted: cross-entropy at own temperature − clean at its own", 1, "+.3f"),
        ("memorised: gets the memorised label", 100, ".0f"),
        ("memorised: gets the rule's label", 100, ".0f"),
    )
    lines = [
        "| interpretation | right, shifted | Δ raw | Δ at own temperature | memorised | rule instead |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(baselines, key=lambda name: baselines[name][columns[1][0]]["value"]):
        cells = []
        for column, factor, form in columns:
            number = baselines[name][column]
            value, low, high = (
                None if number[key] is None else format(factor * number[key], form).replace("-", "−")
                for key in ("value", "low", "high")
            )
            cells.append(f"{value} [{low}, {high}]" if low and high else f"{value}")
        lines.append(f"| {name.removeprefix('rule-and-noise-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    task = open_task("tiny/rule-and-noise")
    script = load_script(HERE / "build.py")
    network, data = script.build(task.task.seed, HERE).module, script.data()
    inputs = {split: torch.from_numpy(part) for split, part in data.inputs.items()}
    clean = {split: spliced(network, part, None) for split, part in inputs.items()}
    warmth = temperature(clean["calibration"], torch.from_numpy(data.labels["calibration"]))
    result = {}
    for submission in baselines_for(task.task):
        interpretation = submission.build(task.task, lambda: task.fit_moments(len(inputs["fit"])))
        other = {split: spliced(network, part, interpretation) for split, part in inputs.items()}
        result[submission.name] = {
            name: Number.of(estimate).model_dump() for name, estimate in compare(clean, other, data).items()
        }
    content = {
        "source": "tasks/tiny/rule-and-noise/memorised.py",
        "wrong labels": int((data.labels["fit"] != data.rule["fit"]).sum()),
        "clean temperature": round(warmth, 4),
        "baselines": result,
    }  # fmt: skip
    (HERE / "memorised.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(table(result))


if __name__ == "__main__":
    main()
