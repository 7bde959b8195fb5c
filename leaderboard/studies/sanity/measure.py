"""Train and measure the dictionaries of the studies; each has a file of rows, such as `synthetic.jsonl`.

    python leaderboard/studies/sanity/measure.py synthetic wiki steps

What is compared, and what would count as what, is in ANALYSIS.md, which is older than any row. A row has the
recipe of its dictionary, the steps it has seen, and scores; rows of `wiki` and `steps` also sums over each
document, from which scores follow (`scores.py`). Weights are not kept: `rows.json` has the hashes of the
scripts that make them, and the same seed makes them again. Rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens
import torch
from scipy.optimize import linear_sum_assignment

from remainder import open_task
from remainder.api.arguments import entry_of
from remainder.base.paths import project_root
from remainder.measure.plan import Plan, plan
from remainder.record.store import StoredRecord
from remainder.record.values import annealed_totals, column, document_totals
from remainder.report.quantities import number_of
from remainder.task.script import load_script

HERE = Path(__file__).resolve().parent
train, scores = load_script(HERE / "train.py"), load_script(HERE / "scores.py")
world = load_script(HERE / "world" / "build.py")
SCRIPTS = ("train.py", "scores.py", "measure.py", "world/build.py", "world/task.toml")
RUNGS = ("raw", "coded", "mean", "full", "renormalised-mean", "mirror", "noise-fitted")
PAIRS = 4
"""Antithetic pairs of the annealed loss."""

WIKI = {"latents": 320, "active": 12, "steps": 800, "batch": 512}
WIKI_CALIBRATION, WIKI_DOCUMENTS = 160, 20
"""Windows of calibration, and evaluation documents: fewer than the tier has."""
STEPS = (8, 16, 40, 80, 160, 400, 800)
COEFFICIENTS = {"topk": 0.0, "jumprelu": 1.0, "l1": 1.4}
SEEDS = 5
BASELINE_SEEDS = 3

WORLD_WIDTHS = (32, 48, 96)
WORLD_STEPS = (0, 6, 20, 60, 200, 600)
WORLD_ACTIVE = 4
WORLD_KINDS = {
    "topk": ("topk", "none", 0.0),
    "batchtopk": ("batchtopk", "none", 0.0),
    "jumprelu": ("jumprelu", "none", 1.0),
    "l1": ("l1", "none", 0.5),
    "frozen-decoder": ("topk", "frozen-decoder", 0.0),
}


class Zero:
    """The reconstruction by zeros, which CE recovered is relative to."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[..., :1])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes.expand(*codes.shape[:-1], self.width)

    def __init__(self, width: int) -> None:
        self.width = width


def settings(task: Any, calibration: int | None, documents: int | None, compat: bool) -> Plan:
    """What every dictionary is measured on: seven rungs, the annealed loss, net bits."""
    made = plan(
        task.task,
        "quick",
        rungs=RUNGS,
        documents=documents,
        compat=("saebench",) if compat else False,
        device="cpu",
    )._replace(annealed_pairs=PAIRS)
    return made if calibration is None else made._replace(calibration_windows=calibration)


def zero_losses(task: Any, calibration: int | None, documents: int | None) -> Any:
    """Sums over each document of the loss with zeros, as a table by document."""
    bare = settings(task, calibration, documents, compat=False)._replace(rungs=("raw",))
    stored = task.measure(entry_of(Zero(task.task.site.width), task.task, "zero"), bare)
    return document_totals(stored.values)["raw"]["loss"]


def columns_of(stored: StoredRecord, zero: Any) -> dict[str, list[float]]:
    """Sums over each document, in the order of their names."""
    totals = document_totals(stored.values)
    annealed = annealed_totals(stored.values, "full")
    raw = totals["raw"]
    if list(raw.index) != list(zero.index):
        raise ValueError("the loss with zeros is of other documents")
    found = {
        "tokens": column(totals["clean"], "tokens"),
        **{rung: column(totals[rung], "loss") for rung in ("clean", "raw", "mean")},
        "annealed": column(annealed[2 * PAIRS], "annealed"),
        "zero": zero.to_numpy(),
        "residual": column(raw, "residual_ss"),
        "centred": column(raw, "centred_ss"),
        "spliced": column(raw, "spliced"),
        "bits": column(totals["coded"], "bits"),
        "net": column(raw, "x_bits") - column(raw, "code_bits") - column(raw, "remainder_bits"),
    }
    kls = {"raw": "raw", "coded": "coded", "full": "full", "mirror": "mirror", "noise": "noise-fitted"}
    found |= {f"kl_{name}": column(totals[rung], "kl") for name, rung in kls.items()}
    return {name: [float(f"{value:.7g}") for value in values] for name, values in found.items()}


def scores_of(columns: dict[str, list[float]], record: Any) -> dict[str, float | None]:
    """All scores, held against the record's, and those that need more than sums over documents.

    Raises:
        ValueError: a score of `scores.py` is not that of the record.
    """
    means = {name: np.asarray(values).mean() for name, values in columns.items()}
    found = {key: float(score.of(means)) for key, score in scores.SCORES.items()}
    for key, value in found.items():
        if key in ("gap_annealed", "annealed_difference", "ce_recovered"):
            continue  # of more draws in a record, or not in it
        number = number_of(record, key)
        if number.value is not None and abs(number.value - value) > 1e-4 * (1 + abs(value)):
            raise ValueError(f"{key} is {value}, in the record {number.value}")
    for key in ("efficiency", "l0"):
        found[key] = number_of(record, key).value
    return {key: None if value is None else float(f"{value:.6g}") for key, value in found.items()}


def peers_of(record: Any) -> dict[str, float | None]:
    """SAEBench's core numbers."""
    found = record.compat.saebench.model_dump(exclude={"tokens"})
    return {name: number["value"] for name, number in found.items() if isinstance(number, dict)}


def recovered(sae: Any, task: Any, seed: int) -> dict[str, float]:
    """What the dictionary has of the known sources: MCC of directions, and mean F1 of activity.

    Latents are matched one to one with sources: for MCC so that the sum of cosines is largest, for F1 so that
    that of F1 is. A source without a latent counts 0.
    """
    inputs = task.windows("evaluation").inputs.reshape(-1, world.SOURCES + world.WIDTH)
    truth = torch.from_numpy(inputs[:, : world.SOURCES] > 0).float()
    known = torch.from_numpy(world.directions(seed))
    x = torch.from_numpy(inputs[:, : world.SOURCES]) @ known
    x = x + world.NOISE * torch.from_numpy(inputs[:, world.SOURCES :])
    with torch.no_grad():
        active = (sae.encode(x) != 0).float()
        decoder = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        cosines = (decoder @ known.T).numpy()
        both = active.T @ truth
        f1 = (2 * both / (active.sum(0)[:, None] + truth.sum(0)).clamp_min(1e-12)).numpy()
    return {
        name: round(float(matrix[linear_sum_assignment(-matrix)].sum()) / world.SOURCES, 6)
        for name, matrix in (("mcc", cosines), ("f1", f1))
    }


class Store:
    """Rows of a study, appended as they come."""

    def __init__(self, name: str) -> None:
        self.path = HERE / f"{name}.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.there = {json.loads(line)["name"] for line in lines}

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n")
        self.there.add(row["name"])
        print(row["name"], row.get("seconds"), flush=True)


def measured(
    task: Any, chosen: Plan, dictionaries: dict[str, Any], zero: Any
) -> Iterator[tuple[str, dict[str, list[float]], dict[str, float | None], Any]]:
    """Name, sums over documents, scores and record of each dictionary, all in one group."""
    entries = [entry_of(sae, task.task, name) for name, sae in dictionaries.items()]
    for outcome in task.measure_group(entries, chosen):
        stored = outcome.record()
        columns = columns_of(stored, zero)
        yield outcome.entry.name, columns, scores_of(columns, stored.record), stored.record


def synthetic() -> None:
    store = Store("synthetic")
    task = open_task(HERE / "world", device="cpu")
    rows, made, facts = task.rows("fit"), {}, {}
    for kind, (method, constraint, coefficient) in WORLD_KINDS.items():
        for latents in WORLD_WIDTHS:
            recipe = train.Recipe(
                method, latents, WORLD_ACTIVE, coefficient, WORLD_STEPS[-1], 256, 0, constraint
            )
            kept, log = train.trained(rows, recipe, WORLD_STEPS)
            for seen, sae in kept.items():
                name = f"{kind}-{latents}-{seen}"
                if name not in store.there:
                    made[name] = sae
                    facts[name] = {
                        "run": f"{kind}-{latents}",
                        "recipe": recipe._asdict(),
                        "steps": seen,
                        "log": [line for line in log if line["step"] == seen],
                        "truth": recovered(sae, task, task.task.seed),
                    }
    zero, chosen = zero_losses(task, None, None), settings(task, None, None, False)
    for name, _, found, _ in measured(task, chosen, made, zero):
        store.add({"name": name, **facts[name], "scores": found})


def wiki_recipe(kind: str, seed: int, constraint: str = "none") -> Any:
    return train.Recipe(kind, coefficient=COEFFICIENTS[kind], seed=seed, constraint=constraint, **WIKI)


def add_rows(
    task: Any, store: Store, made: dict[str, Any], facts: dict[str, Any], *, compat: bool = False
) -> None:
    """Measure dictionaries of tiny/wiki, or of the same text with another model, in one group."""
    made = {name: sae for name, sae in made.items() if name not in store.there}
    if not made:
        return
    zero = zero_losses(task, WIKI_CALIBRATION, WIKI_DOCUMENTS)
    chosen = settings(task, WIKI_CALIBRATION, WIKI_DOCUMENTS, compat)
    for name, columns, found, record in measured(task, chosen, made, zero):
        peers = {"saebench": peers_of(record)} if compat else {}
        store.add({"name": name, **facts[name], "scores": found, **peers, "columns": columns})


def facts_of(kind: str, recipe: Any, seen: int, log: list[dict[str, float]]) -> dict[str, Any]:
    of_step = [line for line in log if line["step"] == seen]
    return {"kind": kind, "recipe": recipe._asdict(), "steps": seen, "log": of_step}


def wiki() -> None:
    """The trained ones, and the baselines of the sanity checks; the most important rows come first."""
    store = Store("wiki")
    task = open_task("tiny/wiki", device="cpu")
    rows = task.rows("fit")

    def go(where: Any, kind: str, constraint: str, data: torch.Tensor, seeds: int, **more: bool) -> None:
        made, facts = {}, {}
        for seed in range(seeds):
            name, recipe, given = f"{kind}-{seed}", wiki_recipe("topk", seed, constraint), data
            if name in store.there:
                continue
            if kind == "shuffled":  # each coordinate in an order of its own
                generator = torch.Generator().manual_seed(seed)
                order = torch.stack([torch.randperm(len(data), generator=generator) for _ in data[0]], 1)
                given = data.gather(0, order)
            if kind == "untrained":  # what training begins with
                recipe = recipe._replace(steps=1)
            seen = 0 if kind == "untrained" else recipe.steps
            kept, log = train.trained(given, recipe, (seen,))
            made[name], facts[name] = kept[seen], facts_of(kind, recipe, seen, log)
        add_rows(where, store, made, facts, **more)

    go(task, "trained", "none", rows, SEEDS, compat=True)
    go(task, "frozen-decoder", "frozen-decoder", rows, BASELINE_SEEDS)
    go(task, "untrained", "none", rows, BASELINE_SEEDS)
    go(task, "soft-frozen-decoder", "soft-frozen-decoder", rows, BASELINE_SEEDS)
    go(task, "frozen-encoder", "frozen-encoder", rows, BASELINE_SEEDS)
    go(task, "shuffled", "none", rows, BASELINE_SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        drawn = random_model(Path(folder))
        go(drawn, "random-model", "none", drawn.rows("fit"), BASELINE_SEEDS)


def steps() -> None:
    """Snapshots of one run each of three methods."""
    store = Store("steps")
    task = open_task("tiny/wiki", device="cpu")
    rows, made, facts = task.rows("fit"), {}, {}
    for kind in COEFFICIENTS:
        recipe = wiki_recipe(kind, 0)
        kept, log = train.trained(rows, recipe, STEPS)
        for seen, sae in kept.items():
            made[f"{kind}-0-{seen}"] = sae
            facts[f"{kind}-0-{seen}"] = facts_of(kind, recipe, seen, log)
    add_rows(task, store, made, facts)


def random_model(folder: Path) -> Any:
    """The task with a model of the same shape whose weights are as they are before training."""
    source = project_root() / "tasks" / "tiny" / "wiki"
    maker = load_script(source / "train.py")
    model = maker.make_model(0, 0.0)
    (folder / "drawn").mkdir(parents=True)
    shutil.copytree(source / "model", folder / "model")
    model.half().save_pretrained(folder / "model")
    text = (source / "task.toml").read_text(encoding="utf-8")
    pinned = [line for line in text.splitlines() if line.startswith(("folder =", "weights_sha256 ="))]
    for line in pinned:
        text = text.replace(line, f'hub = "{folder / "model"}"' if line.startswith("folder") else "")
    (folder / "drawn" / "task.toml").write_text(text, encoding="utf-8")
    return open_task(folder / "drawn", device="cpu")


def write_provenance() -> None:
    """Hashes of the scripts, and versions."""
    content = {
        "scripts": {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in SCRIPTS},
        "torch": torch.__version__,
        "sae_lens": sae_lens.__version__,
    }
    (HERE / "rows.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and measure the dictionaries of the studies.")
    parser.add_argument("study", nargs="+", choices=("synthetic", "wiki", "steps"))
    torch.set_num_threads(1)
    studies = parser.parse_args().study
    write_provenance()
    for study in studies:
        {"synthetic": synthetic, "wiki": wiki, "steps": steps}[study]()


if __name__ == "__main__":
    sys.exit(main())
