"""The noise floor of the tiny boards: retrain interpretations with five seeds, and see which ranks repeat.

    python tasks/tiny/noise_floor.py [tiny/digits ...]

Some ten minutes on one core for all tasks; writes `noise-floor.json` beside this file and
`docs/noise-floor.md`. Tasks that are not named keep the results that they have.

Steps, for each task:
1. Retrain each interpretation by the training script of its baseline, unchanged but for constants (the seed,
   and what `TASKS` says). The seed moves the initial weights and the order of the activations; these, the
   model and the noise that the rungs draw are the same for all.
2. Score each by `remainder.evaluate`.
3. `noise_floor_statistics.py`: the spread between seeds and between methods, among those that have seeds.
4. A board for each seed: all methods in order of the score. Neighbours are told apart if the 95 % interval of
   their paired difference over documents leaves out 0. Methods without a seed (PCA) stand on every board.
5. The same for all pairs of seeds of one method.
6. Order kept: of neighbours by mean score, how many pairs of trainings, one of each, are in the order of the
   means.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from remainder import evaluate
from remainder.api import Result
from remainder.formats import saelens
from remainder.interpretation.references import Codebook
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.record.store import StoredRecord
from remainder.report.compare import compare_records
from remainder.task.script import load_script

__all__ = [
    "SEEDS",
    "TASKS",
    "Method",
    "Study",
    "order_kept",
    "page",
    "retrain",
    "score",
    "study",
    "told_apart",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]  # of the checkout that this script lies in, whichever one the package is from
BASELINES = ROOT / "baselines"
RESULTS, PAGE = HERE / "noise-floor.json", ROOT / "docs" / "noise-floor.md"
_STATISTICS = load_script(HERE / "noise_floor_statistics.py")
SEEDS = tuple(range(5))
SCORES = {"kl_raw": "raw", "kl_gaussian": "full"}
"""Rung by score, as `remainder.report.compare` names scores."""


_PAGE = """\
# How much of a rank is luck in training?

A board ranks interpretations that were trained once. Train one again, from another seed, and its score
moves: that is the **noise floor** of the board. Here {seeded} interpretations of the tiny models were
trained with {seeds} seeds each. A seed moves the initial weights and the order of the training data.
Everything else stays: the model, its activations, the documents that are scored, the noise that the rungs
draw.

A difference between two scores raises two questions, and they have different answers:

- **Would these two sets of weights be in the same order on other documents?** The board answers this:
  neighbours are *told apart* if the 95 % interval of their paired difference over documents leaves out 0.
- **Would these two methods be in the same order, had both been trained again?** Only other seeds answer
  this. *Order kept* counts it: of two neighbours by mean score, how many pairs of trainings, one of each,
  are in that order.

## Scores

Nats per token. `±` is the standard deviation over seeds; the next column runs from the lowest to the
highest seed.

{tables}

## The floor

{floor}

*Between seeds*: standard deviation over seeds, pooled over the methods of the task. *Between methods*:
that of their mean scores, less what seeds contribute to it. PCA has no seed: it is on every board, but
not in the two spreads and their ratio. *Neighbours told apart*: over the boards of all seeds. *Seeds told
apart*: pairs of trainings of one and the same method whose paired difference over documents leaves out 0.

## What it says
- **Most ranks stand.** Methods differ by {ratio_low} to {ratio_high} times what seeds do. The documents
  tell {neighbours} neighbours apart, and another pair of trainings keeps the order in {kept} cases.
- **But a difference that documents resolve need not be one of methods.** Of pairs of trainings of the
  same method, {same} are told apart; it would be 5 % if they differed by nothing but the choice of
  documents. The intervals are not wrong: the two are different interpretations, and one is better. It is
  just not the method that made it so, and another training does not repeat it.
- **How high the floor is depends on the task.** The spread of seeds is {share_low} to {share_high} of the
  mean score: {wiki_shares} in `tiny/wiki`, with {tokens} different activations to train on, and
  {other_shares} in the other two, with {images} and {sums}. Whether that is the reason was not tested.
- **A large floor.** In `tiny/modular-addition` at k = 6, with nothing changed but the seed, KL raw runs
  from {grokked_kl}, and {grokked_same} pairs of seeds are told apart.
- **Explained variance does not show it.** For TopK with k = 4 in `tiny/digits` it is {topk_variance} for
  all seeds, while KL raw runs from {topk_kl}.
- **Sometimes documents are the limit, not seeds.** In `tiny/digits` the codebook of 64
  entries beats that of 32 in {books_kept} pairs of trainings (KL raw), but the documents resolve
  it on {books_apart} boards.
- **A tie looks like a tie.** In `tiny/digits`, PCA with 8 directions ({pca}) and TopK with k = 4 ({topk}
  in the mean) are neighbours on {sides} boards of KL raw; PCA leads on {pca_first} of them. The documents
  tell the two apart on {sides_apart}.

## How to read a board
*Told apart* speaks of the weights that were handed in. To claim that a *method* is better, train it, and
what it is compared with, with several seeds, and show that the difference is larger than the spread. In the
two smallest tasks one training of a method had up to {factor_toys} times the KL raw of another one of the
same method, in `tiny/wiki` up to {factor_wiki} times: a smaller difference between two methods that were
trained once each is weak evidence about the methods.

## What it does not say
- Only the seed of training moved: not the data, the model, the hyperparameters, or the seed of the noise
  draws.
- `tiny/wiki` and `tiny/modular-addition` were trained for less long than their baselines, so their scores
  are not those of the board. In `tiny/wiki`, JumpReLU has not come down to 12 active latents ({l0}), and
  L1 has {l0_l1}: this is no comparison of the three kinds at equal L0.
- k-means takes the best of ten starts, which should make its floor lower than that of a single start.
- Methods were chosen to lie apart, and are few: two in `tiny/modular-addition`, whose scores differ by a
  factor of {factor}. A board with closer methods has more ties. A pooled spread is mostly that of the
  method with the largest.
- Boards share methods, and pairs share seeds, so the counts are not of independent cases; they have no
  intervals.

Everything is made by `python tasks/tiny/noise_floor.py`; all numbers, with their intervals, are in
`tasks/tiny/noise-floor.json` ({versions}).
"""


@dataclass(frozen=True)
class Method:
    """One interpretation, and how it is trained."""

    baseline: str
    """Folder below `baselines` whose `train.py` trains it; without a seed: that is scored as it is."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Of the training script, changed before it is called."""
    arguments: tuple[Any, ...] = ()
    """Of the script's `train`, after the folder; on the command line, if it has no such function."""
    folder: str = ""
    """Folder that the script writes to, below its constant BASELINES; empty: its HERE."""
    seeded: bool = True


@dataclass(frozen=True)
class Study:
    """The interpretations of one task that are compared."""

    tier: str
    shortened: str
    """How training differs from that of the baselines, as the page says it."""
    methods: Mapping[str, Method]


def _grokked(k: int) -> Method:
    return Method("modular-addition-topk-sae", {"K": k, "STEPS": 1200}, (256,))


def _wiki(kind: str) -> Method:
    # Only the script's command line takes the kind; see baselines/wiki-topk/train.py.
    arguments = ("--kind", kind, "--site", "wiki", "--steps", "1000")
    return Method("wiki-topk", arguments=arguments, folder=f"wiki-{kind}")


TASKS: Mapping[str, Study] = {
    "tiny/digits": Study(
        tier="standard",
        shortened="Training is that of the baselines, in full.",
        methods={
            "TopK, k = 4": Method("digits-topk-sae-8", {"K": 4}),
            "TopK, k = 8": Method("digits-topk-sae-8"),
            "codebook, 32 entries": Method("digits-codebook-32"),
            "codebook, 64 entries": Method("digits-codebook-64"),
            "PCA, 8 directions": Method("digits-pca-8", seeded=False),
            "PCA, 16 directions": Method("digits-pca-16", seeded=False),
        },
    ),
    "tiny/modular-addition": Study(
        tier="quick",
        shortened="1,200 steps of 512 activations; the baselines have 6,000.",
        methods={
            "TopK, 256 latents, k = 6": _grokked(6),
            "TopK, 256 latents, k = 12": _grokked(12),
        },
    ),
    "tiny/wiki": Study(
        tier="quick",
        shortened="1,000 steps of 1,024 tokens, 1.02 million in all; the baselines have 4,000.",
        methods={"TopK": _wiki("topk"), "JumpReLU": _wiki("jumprelu"), "L1": _wiki("l1")},
    ),
}  # fmt: skip


def retrain(method: Method, seed: int, folder: Path) -> dict[str, Any]:
    """Train `method` with `seed`, writing to `folder`; gives the summary that the script logs.

    Raises:
        AttributeError: the script has no constant of that name.
    """
    script = load_script(BASELINES / method.baseline / "train.py")
    place = {"BASELINES" if method.folder else "HERE": folder}
    for name, value in {**method.constants, **place, "SEED": seed}.items():
        getattr(script, name)
        setattr(script, name, value)
    home = folder / method.folder
    home.mkdir(exist_ok=True)
    if hasattr(script, "train"):
        script.train(home, *method.arguments)
    else:
        with _command_line(method.arguments):
            script.main()
    log = (home / "train.log").read_text(encoding="utf-8").splitlines()
    summary: dict[str, Any] = json.loads(log[-1])
    # How long it took is of the machine, not of the result.
    return {name: value for name, value in summary.items() if name != "seconds"}


def score(loaded: LoadedTask, name: str, method: Method, seed: int) -> tuple[Result, dict[str, Any]]:
    """Retrain with `seed` (or take a method without one) and evaluate; gives the summary of training too."""
    tier = TASKS[loaded.task.id].tier
    if not method.seeded:
        return evaluate(loaded, BASELINES / method.baseline, tier=tier), {}
    with tempfile.TemporaryDirectory() as temporary:
        summary = retrain(method, seed, Path(temporary))
        made = Path(temporary) / method.folder
        if (made / "codebook.safetensors").is_file():
            thing: Any = Codebook(**load_file(made / "codebook.safetensors"))
        else:
            thing = saelens.load_folder(made / "weights", loaded.task.site)
    label = "".join(letter for letter in name if letter not in ",=")
    return evaluate(loaded, thing, name=f"{label} seed {seed}", tier=tier), summary


def study(task: str) -> dict[str, Any]:
    """All steps for one task, as `noise-floor.json` keeps them."""
    start = time.process_time()
    plan, loaded = TASKS[task], open_task(task, device="cpu")
    records: dict[str, list[StoredRecord]] = {}
    methods: dict[str, Any] = {}
    for name, method in plan.methods.items():
        runs = []
        for seed in SEEDS if method.seeded else (None,):
            result, summary = score(loaded, name, method, seed or 0)
            records.setdefault(name, []).append(StoredRecord(result.record, result.values))
            runs.append({"seed": seed, **_numbers(result), "training": summary})
            print(f"{task}: {name}, seed {seed}: {runs[-1]['kl_raw']['value']:.4f}", file=sys.stderr)
        methods[name] = {
            "script": f"baselines/{method.baseline}/train.py" if method.seeded else None,
            "constants": dict(method.constants),
            "arguments": list(method.arguments),
            "runs": runs,
        }
    seeded = {name: each for name, each in records.items() if plan.methods[name].seeded}
    floors = {floor.score: floor._asdict() for floor in _STATISTICS.noise_floor(seeded)}
    record = next(iter(records.values()))[0].record
    return {
        "tier": plan.tier,
        "hash": record.task.hash,
        "documents": record.documents.documents,
        "tokens": record.documents.tokens,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "sae-lens", "scikit-learn")},
        },
        "cpu_seconds": round(time.process_time() - start),
        "methods": methods,
        "floors": floors,
        "boards": {key: [_board(records, key, place) for place in range(len(SEEDS))] for key in SCORES},
        "seeds": {key: _seeds(seeded, key) for key in SCORES},
    }


def order_kept(task: Mapping[str, Any], key: str) -> tuple[int, int]:
    """Step 6: how many pairs of trainings are in the order of the means, and how many there are."""
    values = {name: [run[key]["value"] for run in one["runs"]] for name, one in task["methods"].items()}
    ordered = sorted(values, key=lambda name: sum(values[name]) / len(values[name]))
    kept = [a < b for first, second in itertools.pairwise(ordered)
            for a, b in itertools.product(values[first], values[second])]  # fmt: skip
    return sum(kept), len(kept)


def _numbers(result: Result) -> dict[str, Any]:
    """The scores of one training with their intervals, and what else a reader asks for."""
    metrics = result.record.metrics
    found: dict[str, Any] = {
        key: metrics.rungs[rung].quenched.kl.model_dump() for key, rung in SCORES.items()
    }
    found["explained_variance"] = metrics.reconstruction.explained_variance.value
    found["l0"] = result.record.complexity.l0.value
    return found


def _board(records: Mapping[str, Sequence[StoredRecord]], key: str, place: int) -> list[dict[str, Any]]:
    """The neighbours on the board of the seed at `place`, best first."""
    board = {name: each[min(place, len(each) - 1)] for name, each in records.items()}

    def kl(name: str) -> float:
        value = board[name].record.metrics.rungs[SCORES[key]].quenched.kl.value
        assert value is not None
        return value

    return [
        {"better": a, "worse": b, **_difference(board[a], board[b], key)}
        for a, b in itertools.pairwise(sorted(board, key=kl))
    ]


def _seeds(records: Mapping[str, Sequence[StoredRecord]], key: str) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {"seeds": [SEEDS[a], SEEDS[b]], **_difference(each[a], each[b], key)}
            for a, b in itertools.combinations(range(len(each)), 2)
        ]
        for name, each in records.items()
    }


def _difference(a: StoredRecord, b: StoredRecord, key: str) -> dict[str, Any]:
    """B − A over the same documents, with its interval."""
    row = next(row for row in compare_records(a, b).differences if row.key == key)
    return {"difference": row.difference.model_dump(), "told_apart": bool(row.separable)}


@contextlib.contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["train.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def page(results: Mapping[str, Any]) -> str:
    """`docs/noise-floor.md`, every number of it from `results`."""
    tasks = results["tasks"]
    every = [(task, key) for task in tasks.values() for key in SCORES]
    ratios = [task["floors"][key]["ratio"] for task, key in every]
    shares = {
        (task, floor["score"], name): floor["deviations"][name] / mean
        for task, content in tasks.items()
        for floor in content["floors"].values()
        for name, mean in floor["means"].items()
    }
    text = [share for (task, *_), share in shares.items() if task == "tiny/wiki"]
    toys = [share for (task, *_), share in shares.items() if task != "tiny/wiki"]
    near, far, widest = tasks["tiny/digits"], tasks["tiny/modular-addition"], "TopK, 256 latents, k = 6"
    grokked = far["floors"]["kl_raw"]["means"].values()
    sides = [pair for board in near["boards"]["kl_raw"] for pair in board
             if {pair["better"], pair["worse"]} == {"PCA, 8 directions", "TopK, k = 4"}]  # fmt: skip
    wiki, books = tasks["tiny/wiki"], ("codebook, 64 entries", "codebook, 32 entries")
    better, worse = ([run["kl_raw"]["value"] for run in near["methods"][name]["runs"]] for name in books)
    ordered = [a < b for a, b in itertools.product(better, worse)]
    beaten = [pair for board in near["boards"]["kl_raw"] for pair in board
              if (pair["better"], pair["worse"]) == books]  # fmt: skip
    factors = {
        name: max(
            max(values) / min(values)
            for method in task["methods"].values()
            for values in ([run["kl_raw"]["value"] for run in method["runs"]],)
        )
        for name, task in tasks.items()
    }
    filled = _PAGE.format(
        seeds=len(results["seeds"]),
        seeded=sum(len(task["floors"]["kl_raw"]["means"]) for task in tasks.values()),
        tables="\n\n".join(_scores_table(name, task) for name, task in tasks.items()),
        floor=_floor_table(tasks),
        ratio_low=f"{min(ratios):.1f}",
        ratio_high=f"{max(ratios):.1f}",
        share_low=_percent(min(shares.values()), 1),
        share_high=_percent(max(shares.values()), 0),
        wiki_shares=f"{_percent(min(text), 1)} to {_percent(max(text), 1)}",
        other_shares=f"{_percent(min(toys), 0)} to {_percent(max(toys), 0)}",
        neighbours=_of(*_sum(told_apart(task["boards"][key]) for task, key in every)),
        kept=_of(*_sum(order_kept(task, key) for task, key in every)),
        same=_of(*_sum(told_apart(task["seeds"][key].values()) for task, key in every)),
        topk_kl=_span(near, "TopK, k = 4", "kl_raw", 3),
        topk_variance=_span(near, "TopK, k = 4", "explained_variance", 3),
        grokked_kl=_span(far, widest, "kl_raw", 2),
        grokked_same=_of(*told_apart([far["seeds"]["kl_raw"][widest]])),
        pca=f"{near['methods']['PCA, 8 directions']['runs'][0]['kl_raw']['value']:.3f}",
        topk=f"{near['floors']['kl_raw']['means']['TopK, k = 4']:.3f}",
        sides=len(sides),
        pca_first=sum(pair["better"].startswith("PCA") for pair in sides),
        sides_apart="{} of {}".format(*told_apart([sides])),
        factor=f"{max(grokked) / min(grokked):,.0f}",
        l0=_span(wiki, "JumpReLU", "l0", 0),
        l0_l1=_span(wiki, "L1", "l0", 1),
        tokens=f"{_trained(wiki, 'TopK')['unique_rows']:,}",
        images=f"{_trained(near, 'TopK, k = 4')['unique_images']:,}",
        sums=f"{_trained(far, widest)['unique_pairs']:,}",
        books_kept=_of(sum(ordered), len(ordered)),
        books_apart="{} of {}".format(*told_apart([beaten])),
        factor_toys=f"{max(factors['tiny/digits'], factors['tiny/modular-addition']):.1f}",
        factor_wiki=f"{factors['tiny/wiki']:.2f}",
        versions="; ".join(sorted({_versions(task["versions"]) for task in tasks.values()})),
    )
    return _wrapped(filled)


def told_apart(groups: Iterable[Sequence[Mapping[str, Any]]]) -> tuple[int, int]:
    """How many of the pairs in all groups the documents tell apart, and how many pairs there are."""
    verdicts = [pair["told_apart"] for group in groups for pair in group]
    return sum(verdicts), len(verdicts)


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*counts, strict=True)
    return sum(first), sum(second)


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({_percent(count / total, 0)})"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _span(task: Mapping[str, Any], name: str, key: str, digits: int) -> str:
    """Lowest to highest over the seeds."""
    found = [run[key] for run in task["methods"][name]["runs"]]
    values = [each["value"] if isinstance(each, dict) else each for each in found]
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _decimals(task: Mapping[str, Any], name: str, key: str) -> int:
    """As many as show the lowest score with two digits."""
    low = min(run[key]["value"] for run in task["methods"][name]["runs"])
    return max(3, 1 - math.floor(math.log10(low)))


def _trained(task: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the training script logged, of the first seed."""
    summary: Mapping[str, Any] = task["methods"][name]["runs"][0]["training"]
    return summary


def _wrapped(text: str) -> str:
    """Paragraphs and list items filled anew; headings and tables as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and lines[-1] and line and lines[-1][0] not in "#|" and line[0] not in "#|-":
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return "".join(
        (line if line.startswith("|") else textwrap.fill(
            line, 119, subsequent_indent="  " * line.startswith("- "), break_long_words=False,
            break_on_hyphens=False,
        )) + "\n"
        for line in lines
    )  # fmt: skip


def _scores_table(name: str, task: Mapping[str, Any]) -> str:
    lines = [
        f"**{name}**, {task['documents']} documents. {TASKS[name].shortened}",
        "",
        "| interpretation | KL raw | seeds | KL Gaussian | seeds | explained variance | L0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, method in task["methods"].items():
        cells = [label]
        for key in SCORES:
            values = [run[key]["value"] for run in method["runs"]]
            places = _decimals(task, label, key)
            mean = f"{sum(values) / len(values):.{places}f}"
            if len(values) == 1:
                cells += [mean, "–"]
            else:
                deviation = task["floors"][key]["deviations"][label]
                cells += [f"{mean} ± {deviation:.{places}f}", _span(task, label, key, places)]
        cells += [_span(task, label, "explained_variance", 3), _span(task, label, "l0", 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _floor_table(tasks: Mapping[str, Any]) -> str:
    lines = [
        "| task | score | between seeds | between methods | ratio | neighbours told apart | order kept "
        "| seeds told apart |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, task in tasks.items():
        for key, heading in (("kl_raw", "KL raw"), ("kl_gaussian", "KL Gaussian")):
            floor = task["floors"][key]
            cells = [
                name,
                heading,
                f"{floor['between_seeds']:.4f}",
                f"{floor['between_methods']:.4f}",
                f"{floor['ratio']:.1f}",
                _of(*told_apart(task["boards"][key])),
                _of(*order_kept(task, key)),
                _of(*told_apart(task["seeds"][key].values())),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="The noise floor of the tiny boards.")
    parser.add_argument("tasks", nargs="*", help="to retrain; default: all")
    parser.add_argument("--page", action="store_true", help="only write the page, from the stored results")
    options = parser.parse_args()
    if not PAGE.parent.is_dir():  # before hours of training
        parser.error(f"there is no folder {PAGE.parent}: run it from a checkout of the repository")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"tasks": {}}
    for task in () if options.page else options.tasks or TASKS:
        results["tasks"][task] = study(task)
        ordered = {name: results["tasks"][name] for name in TASKS if name in results["tasks"]}
        results = {"source": "tasks/tiny/noise_floor.py", "seeds": list(SEEDS), "tasks": ordered}
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    if missing := sorted(TASKS.keys() - results["tasks"].keys()):
        parser.exit(message=f"no page yet: there are no results of {', '.join(missing)}\n")
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
