"""Find the edges of the induction circuit, and write them as circuits.

    python tasks/tiny/induction-circuit/edges.py

Source: Elhage et al. 2021 and Olsson et al. 2022 for what an induction circuit is; edges are removed as in
Conmy et al., "Towards Automated Circuit Discovery", 2023.

Steps, all on the split `fit`, with backgrounds of prompts of `calibration`:
1. An induction circuit, of a previous-token head p of layer 0 and sets B of heads of layer 1 and V of layer
   0: the input into q, k and v of p, of V and of B; p into the keys of B; V into the values of B; B into the
   logits. The textbook's has no V: the token that is copied comes straight from the input.
2. p is the head that attends most to the previous token (`../induction/heads.json`). For all B and V: the
   gap to clean, as a share of that of the empty circuit.
3. `circuit.json`: the fewest edges whose share is at most SHARE under counterfactual and mean-positional
   background; of several, the smallest larger share of the two. `textbook.json`: the one of lowest share
   without V. `other.json`: as `circuit.json`, but with p exchanged for the head that attends least to the
   previous token.
4. `edges.json`: these shares.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from remainder.circuit.backgrounds import BACKGROUNDS, Scene
from remainder.circuit.circuit import Circuit
from remainder.formats.eap_ig import stored, write
from remainder.model.architecture import INPUTS
from remainder.task.prompts import Prompts
from remainder.task.script import load_script

SHARE = 0.05
COUNT = 20
"""Prompts of each template."""
NAMES = {"counterfactual": "counterfactual", "mean-positional": "raw"}
HERE = Path(__file__).resolve().parent


def edges(previous: int, values: Sequence[int], induction: Sequence[int]) -> list[str]:
    """Names of the edges of an induction circuit (step 1)."""
    first = sorted({previous, *values})
    found = [f"input->a0.h{head}<{kind}>" for head in first for kind in INPUTS]
    found += [f"input->a1.h{head}<{kind}>" for head in induction for kind in INPUTS]
    found += [f"a0.h{previous}->a1.h{head}<k>" for head in induction]
    found += [f"a0.h{value}->a1.h{head}<v>" for head in induction for value in values]
    return found + [f"a1.h{head}->logits" for head in induction]


@torch.no_grad()
def loss(scenes: Iterable[Scene], circuit: Circuit, background: str) -> float:
    """Mean over templates, nats per scored position."""
    found = []
    for scene in scenes:
        logits = scene.run(circuit, BACKGROUNDS[background])
        prompts: Prompts = scene.evaluation
        right = torch.from_numpy(prompts.correct[..., 0]).flatten()
        seen = torch.from_numpy(prompts.scored[:, scene.positions])
        found.append(float(cross_entropy(logits[seen], right)))
    return float(np.mean(found))


def main() -> None:
    torch.set_num_threads(1)
    script = load_script(HERE / "circuit.py")
    induction = load_script(HERE.parent / "induction" / "build.py")
    model = script.circuit_model(HERE.parent / "induction")
    fit, calibration, _ = script.splits(induction, 1, COUNT)
    scenes = [Scene(model, bank, asked, seed=1) for bank, asked in zip(calibration, fit, strict=True)]
    clean = loss(scenes, Circuit.full(model.graph), "raw")
    empty = {name: loss(scenes, Circuit.empty(model.graph), rung) - clean for name, rung in NAMES.items()}

    def shares(names: list[str]) -> dict[str, float]:
        circuit = Circuit.of_edges(model.graph, names)
        return {name: (loss(scenes, circuit, rung) - clean) / empty[name] for name, rung in NAMES.items()}

    scores = json.loads((HERE.parent / "induction" / "heads.json").read_text())
    attention = scores["attention"]["previous_token_0"]
    most, least = int(np.argmax(attention)), int(np.argmin(attention))
    heads = [one for size in range(5) for one in itertools.combinations(range(4), size)]
    tried = {
        (values, chosen): shares(edges(most, values, chosen)) for values in heads for chosen in heads[1:]
    }
    worst = {sets: max(found.values()) for sets, found in tried.items()}
    good = [sets for sets in tried if worst[sets] <= SHARE]
    best = min(good, key=lambda sets: (len(edges(most, *sets)), worst[sets]))
    textbook = min((sets for sets in tried if not sets[0]), key=lambda sets: worst[sets])
    others = tuple(sorted({most: least, least: most}.get(head, head) for head in best[0]))
    report = {"empty": {name: round(gap, 3) for name, gap in empty.items()}}
    for name, previous, values, chosen in (
        ("circuit", most, *best),
        ("textbook", most, *textbook),
        ("other", least, others, best[1]),
    ):
        found = edges(previous, values, chosen)
        share = {key: float(f"{value:.3g}") for key, value in shares(found).items()}
        report[name] = {
            "previous_token": previous,
            "values": values,
            "induction": chosen,
            "edges": len(found),
            "share_of_gap": share,
        }
        write(HERE / f"{name}.json", stored(Circuit.of_edges(model.graph, found)))
    (HERE / "edges.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
