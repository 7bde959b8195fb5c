"""The noise-floor study of the tiny tasks: its page, its numbers, and one of its trainings made again."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from remainder.api import Result
from remainder.base.paths import project_root
from remainder.loading.open import open_task
from remainder.task.script import load_script

ROOT = project_root()
KEYS = {"KL raw": "kl_raw", "KL Gaussian": "kl_gaussian"}


@cache
def _script() -> Any:
    return load_script(ROOT / "tasks" / "tiny" / "noise_floor.py")


@cache
def _found() -> Any:
    return json.loads((ROOT / "tasks" / "tiny" / "noise-floor.json").read_text(encoding="utf-8"))


@cache
def _page() -> str:
    return (ROOT / "docs" / "noise-floor.md").read_text(encoding="utf-8")


@cache
def _again(seed: int) -> Result:
    """The codebook of 32 entries, fitted anew from `seed`."""
    name, script = "codebook, 32 entries", _script()
    loaded = open_task("tiny/digits", device="cpu")
    result, _ = script.score(loaded, name, script.TASKS["tiny/digits"].methods[name], seed)
    assert isinstance(result, Result)
    return result


def _values(task: str, key: str) -> dict[str, list[float]]:
    methods = _found()["tasks"][task]["methods"]
    return {name: [run[key]["value"] for run in method["runs"]] for name, method in methods.items()}


def _seeded(task: str, key: str) -> dict[str, list[float]]:
    return {name: values for name, values in _values(task, key).items() if len(values) > 1}


def _table(first: str) -> list[list[str]]:
    """Rows of the page's tables whose first cell is `first`."""
    rows = [line.strip("|").split("|") for line in _page().splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in row] for row in rows]


def _resolved(pair: Any) -> bool:
    return bool(pair["difference"]["low"] > 0 or pair["difference"]["high"] < 0)


def _count(pairs: Any) -> str:
    resolved = [_resolved(pair) for pair in pairs]
    return f"{sum(resolved)} of {len(resolved)}"


CASES = [(task, heading) for task in _found()["tasks"] for heading in KEYS]


def test_the_page_is_made_from_the_results() -> None:
    assert _page() == _script().page(_found())


def test_every_planned_training_is_there() -> None:
    assert set(_found()["tasks"]) == set(_script().TASKS) == {task for task, _ in CASES}
    for task, plan in _script().TASKS.items():
        methods = _found()["tasks"][task]["methods"]
        assert set(methods) == set(plan.methods)
        for name, method in plan.methods.items():
            seeds = [run["seed"] for run in methods[name]["runs"]]
            assert seeds == ([0, 1, 2, 3, 4] if method.seeded else [None])
            trained = [run["training"].get("seed") for run in methods[name]["runs"]]
            assert trained == seeds


@pytest.mark.parametrize(("task", "heading"), CASES)
def test_spreads_on_the_page_are_those_of_an_analysis_of_variance(task: str, heading: str) -> None:
    groups = list(_seeded(task, KEYS[heading]).values())
    within = float(np.mean([np.var(group, ddof=1) for group in groups]))
    # F = 5 var(means) / within, so that the variance between methods is within (F − 1)/5.
    between = within * (stats.f_oneway(*groups).statistic - 1) / 5
    (row,) = (row for row in _table(task) if row[1] == heading)
    assert row[2] == f"{np.sqrt(within):.4f}"
    assert row[3] == f"{np.sqrt(between):.4f}"
    assert row[4] == f"{np.sqrt(between / within):.1f}"


@pytest.mark.parametrize(("task", "heading"), CASES)
def test_counts_on_the_page_are_those_of_the_intervals(task: str, heading: str) -> None:
    content, values = _found()["tasks"][task], _values(task, KEYS[heading])
    boards, pairs = content["boards"][KEYS[heading]], content["seeds"][KEYS[heading]]
    (row,) = (row for row in _table(task) if row[1] == heading)
    assert row[5].startswith(_count([pair for board in boards for pair in board]) + " (")
    assert row[7].startswith(_count([pair for each in pairs.values() for pair in each]) + " (")
    means = pd.Series({name: float(np.mean(each)) for name, each in values.items()}).sort_values()
    kept = total = 0
    for better, worse in zip(means.index[:-1], means.index[1:], strict=True):
        signs = np.subtract.outer(values[worse], values[better]) > 0
        kept, total = kept + int(signs.sum()), total + signs.size
    assert row[6].startswith(f"{kept} of {total} (")


@pytest.mark.parametrize(("task", "heading"), CASES)
def test_boards_and_pairs_of_seeds_agree_with_the_scores(task: str, heading: str) -> None:
    key = KEYS[heading]
    content, values = _found()["tasks"][task], _values(task, key)
    for place, board in enumerate(content["boards"][key]):
        now = {name: each[place if len(each) > 1 else 0] for name, each in values.items()}
        assert [board[0]["better"], *(pair["worse"] for pair in board)] == sorted(now, key=now.__getitem__)
        for pair in board:
            expected = now[pair["worse"]] - now[pair["better"]]
            assert pair["difference"]["value"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert pair["told_apart"] is _resolved(pair)
    for name, pairs in content["seeds"][key].items():
        assert [pair["seeds"] for pair in pairs] == [list(two) for two in itertools.combinations(range(5), 2)]
        for pair in pairs:
            a, b = (values[name][seed] for seed in pair["seeds"])
            assert pair["difference"]["value"] == pytest.approx(b - a, rel=1e-4, abs=1e-5)
            assert pair["told_apart"] is _resolved(pair)
    if len(_seeded(task, key)) == len(values):
        verdicts = [_resolved(pair) for board in content["boards"][key] for pair in board]
        assert content["floors"][key]["separable"] == pytest.approx(np.mean(verdicts))
    same = [_resolved(pair) for pairs in content["seeds"][key].values() for pair in pairs]
    assert content["floors"][key]["separable_seeds"] == pytest.approx(np.mean(same))


@pytest.mark.parametrize("task", list(_found()["tasks"]))
def test_scores_on_the_page_are_those_of_the_results(task: str) -> None:
    section = _page().split(f"**{task}**")[1].split("\n\n")[1]
    rows = {cells[1].strip(): cells[2:] for cells in (line.split("|") for line in section.splitlines())}
    for place, key in ((0, "kl_raw"), (2, "kl_gaussian")):
        for name, values in _values(task, key).items():
            stated = [float(number) for number in re.findall(r"\d+\.\d+", rows[name][place])]
            expected = [np.mean(values), *([np.std(values, ddof=1)] if len(values) > 1 else [])]
            # As many decimals as the cell shows.
            half = 0.51 * 10.0 ** -len(re.findall(r"\.(\d+)", rows[name][place])[0])
            np.testing.assert_allclose(stated, expected, rtol=0, atol=half)
            ends = [float(number) for number in re.findall(r"\d+\.\d+", rows[name][place + 1])]
            if len(values) > 1:
                np.testing.assert_allclose(ends, [min(values), max(values)], rtol=0, atol=half)


def test_sentences_of_the_page_hold() -> None:
    text = " ".join(_page().split())
    tasks = _found()["tasks"]
    cases = [(task, key) for task in tasks for key in KEYS.values()]
    same = [pair for task, key in cases for pairs in tasks[task]["seeds"][key].values() for pair in pairs]
    near = [pair for task, key in cases for board in tasks[task]["boards"][key] for pair in board]
    assert f"Of pairs of trainings of the same method, {_count(same)} (" in text
    assert f"The documents tell {_count(near)} (" in text
    spread = {
        task: [np.std(v, ddof=1) / np.mean(v) for key in KEYS.values() for v in _seeded(task, key).values()]
        for task in tasks
    }
    toys = [*spread["tiny/digits"], *spread["tiny/modular-addition"]]
    wiki = spread["tiny/wiki"]
    assert f"{100 * min(wiki):.1f} % to {100 * max(wiki):.1f} % in `tiny/wiki`" in text
    assert f"{100 * min(toys):.0f} % to {100 * max(toys):.0f} % in the other two" in text
    assert max(wiki) < min(toys)
    # "Most ranks stand", and chance alone would resolve 5 %.
    assert min(tasks[task]["floors"][key]["ratio"] for task, key in cases) > 2
    assert np.mean([_resolved(pair) for pair in near]) > 0.5
    assert np.mean([_resolved(pair) for pair in same]) > 0.1
    # "Explained variance does not show it."
    runs = tasks["tiny/digits"]["methods"]["TopK, k = 4"]["runs"]
    variances, kls = [run["explained_variance"] for run in runs], [run["kl_raw"]["value"] for run in runs]
    assert max(variances) - min(variances) < 0.005
    assert max(kls) > 2 * min(kls)
    # "Sometimes documents are the limit, not seeds."
    books = [pair for board in tasks["tiny/digits"]["boards"]["kl_raw"] for pair in board
             if pair["better"] == "codebook, 64 entries"]  # fmt: skip
    assert {pair["worse"] for pair in books} == {"codebook, 32 entries"}
    assert f"the documents resolve it on {_count(books)} boards" in text
    assert 2 * sum(_resolved(pair) for pair in books) < len(books)


def test_training_is_as_short_as_the_page_says() -> None:
    logs = {
        folder: json.loads((ROOT / "baselines" / folder / "train.log").read_text("utf-8").splitlines()[-1])
        for folder in (
            "digits-topk-sae-8",
            "modular-addition-topk-sae",
            "wiki-topk",
            "wiki-jumprelu",
            "wiki-l1",
        )
    }
    assert "the baselines have 6,000" in _page()
    assert logs["modular-addition-topk-sae"]["steps"] == 6000
    assert "the baselines have 4,000" in _page()
    assert {logs[f"wiki-{kind}"]["steps"] for kind in ("topk", "jumprelu", "l1")} == {4000}
    steps = {
        name: {run["training"].get("steps") for run in method["runs"]}
        for task in _found()["tasks"].values()
        for name, method in task["methods"].items()
    }
    assert steps["TopK, k = 8"] == {logs["digits-topk-sae-8"]["steps"]}
    assert steps["TopK, 256 latents, k = 6"] == steps["TopK, 256 latents, k = 12"] == {1200}
    assert steps["TopK"] == steps["JumpReLU"] == steps["L1"] == {1000}


@pytest.mark.parametrize("seed", [0, 3])
def test_a_codebook_trained_again_has_the_score_that_is_stored(seed: int) -> None:
    metrics = _again(seed).record.metrics.rungs
    stored = _found()["tasks"]["tiny/digits"]["methods"]["codebook, 32 entries"]["runs"][seed]
    assert stored["seed"] == seed
    # Stored by protocol 1: since then the ladder stands on quantised codes, and intervals have another scale.
    assert metrics["raw"].quenched.kl.value == pytest.approx(stored["kl_raw"]["value"], rel=1e-3)


def test_a_difference_of_seeds_is_that_of_their_documents() -> None:
    tables = [_again(seed).values for seed in (0, 3)]
    raw = [table[(table["rung"] == "raw") & (table["split"] == "evaluation")] for table in tables]
    a, b = (float(table["kl"].sum() / table["tokens"].sum()) for table in raw)
    pairs = _found()["tasks"]["tiny/digits"]["seeds"]["kl_raw"]["codebook, 32 entries"]
    (stored,) = (pair for pair in pairs if pair["seeds"] == [0, 3])
    assert stored["difference"]["value"] == pytest.approx(b - a, rel=1e-3)


def test_a_constant_that_a_script_lacks_is_refused(tmp_path: Path) -> None:
    script = _script()
    with pytest.raises(AttributeError, match="STEP"):
        script.retrain(script.Method("digits-codebook-32", {"STEP": 1}), 0, tmp_path)
