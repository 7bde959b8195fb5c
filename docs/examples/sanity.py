"""Write docs/sanity.md and its figure from the rows in leaderboard/studies/sanity.

    python docs/examples/sanity.py

Blocks between `<!-- NAME -->` and `<!-- end -->` are made from rows; comparisons are those of ANALYSIS.md,
beside them. A study that lacks rows is shown as far as it goes, and says what it lacks.

1. An effect is f(means of documents' sums) with a studentised bootstrap over documents
   (`Bootstrap.of_function`): the mean of a score over the seeds of one kind less that of another, both
   oriented so that more is better. All rows are of the same documents, so it is paired.
2. Verdicts are joint by Holm (1979): effects are tried in the order of their size over their standard error,
   the i-th of m at the level 1 − 5 %/(m − i), until one does not hold.
3. The smallest effect that had a power of 80 % at the first of these levels is (z + 0.84) standard errors.
4. Rank correlations are Spearman's; resamples are of training runs, whose steps stay together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from remainder.record.intervals import Bootstrap
from remainder.report.text import Notes, format_value
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "leaderboard" / "studies" / "sanity"
PAGE = ROOT / "docs" / "sanity.md"
FIGURE = ROOT / "docs" / "figures" / "sanity-world.png"
PICTURE = "![Rank correlation of every score with MCC](figures/sanity-world.png)"
scores = load_script(ROWS / "scores.py")

Array = NDArray[np.float64]
Row = Mapping[str, Any]

TRAINED = "trained"
BASELINES = (
    *("frozen-decoder", "soft-frozen-decoder", "frozen-encoder"),
    *("untrained", "shuffled", "random-model"),
)
SEEDS = {TRAINED: 5, **dict.fromkeys(BASELINES, 3)}
THEIRS = ("explained_variance", "ce_recovered")
ASKED = ("gap_raw", "gap_annealed", "annealed_difference", "rho_even", "net_bits")
"""Scores that the issue asks of: do they separate where `THEIRS` do not?"""
EFFICIENCY = scores.Score("efficiency", "large", (), lambda c: c["efficiency"])
TITLES = {"gap_annealed": "Δ annealed, nats", "annealed_difference": "annealed − mean, nats"}
"""The words of all other pages, where the script that measured has its own."""
ALL = {
    **{key: one._replace(title=TITLES.get(key, one.title)) for key, one in scores.SCORES.items()},
    "efficiency": EFFICIENCY,
}
RESAMPLES, SEED, LEVEL, POWER = 20_000, 16, 0.95, 0.8
RUN_RESAMPLES = 4000
METHODS = ("topk", "jumprelu", "l1")
TRUTHS = {"mcc": "MCC", "f1": "F1"}
EARLIEST_TRAINED = 60
MONOTONE = 0.75


def rows_of(study: str) -> list[Row]:
    """The rows of a study, in the order in which they were measured; none if there is no file."""
    path = ROWS / f"{study}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of study 1 by their kind."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(row)
    return found


def oriented(key: str, value: Array) -> Array:
    """A score so that more is better."""
    found: Array = ALL[key].oriented(value)
    return found


def value_of(row: Row, key: str) -> float | None:
    found: float | None = row["scores"][key]
    return found


def values_of(rows: Sequence[Row], key: str) -> Array:
    """Oriented scores of rows that have one."""
    found = [value for row in rows if (value := value_of(row, key)) is not None]
    return oriented(key, np.array(found, dtype=np.float64))


class Effect(NamedTuple):
    """How much better the trained ones are than a baseline, on one score."""

    key: str
    kind: str
    value: float
    low: float
    high: float
    error: float
    joint: tuple[float, float]
    """The interval at the level at which Holm's rule tried it."""
    claimed: bool
    smallest: float
    """The smallest effect that had the power."""
    spread: float
    """In standard deviations between seeds (pooled); infinite where seeds do not differ."""
    apart: bool
    """Whether all seeds of one are beyond all seeds of the other."""

    @property
    def verdict(self) -> str:
        if self.claimed and self.joint[0] > 0 and self.apart:
            return "separates"
        if self.claimed and self.joint[1] < 0:
            return "inverts"
        return "null"


def _difference(key: str, first: Sequence[Row], second: Sequence[Row]) -> tuple[Array, Callable[..., Array]]:
    """Columns `[documents, m]`, and the effect as a function of their means."""
    score = scores.SCORES[key]
    used = score.columns
    columns = np.array([row["columns"][name] for row in (*first, *second) for name in used]).T

    def effect(means: Array) -> Array:
        each = [
            score.oriented(score.of({name: means[..., at * len(used) + i] for i, name in enumerate(used)}))
            for at in range(len(first) + len(second))
        ]
        found: Array = np.mean(each[: len(first)], axis=0) - np.mean(each[len(first) :], axis=0)
        return found

    return columns, effect


def _pooled_spread(first: Array, second: Array) -> float:
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in (first, second))
    return float(np.sqrt(squares / (len(first) + len(second) - 2)))


@cache
def effects() -> tuple[Effect, ...]:
    """All effects of study 1, the largest over its standard error first."""
    kinds = by_kind(rows_of("wiki"))
    trained = kinds.get(TRAINED, [])
    first: list[tuple[float, Effect, Callable[[float], Any]]] = []
    for kind in BASELINES:
        for key in scores.SCORES:
            if len(kinds.get(kind, [])) < 2 or len(trained) < 2 or refused(kinds[kind], key):
                continue
            columns, effect = _difference(key, trained, kinds[kind])
            bootstrap = Bootstrap(len(columns), seed=SEED, resamples=RESAMPLES)

            def at(
                level: float, columns: Array = columns, effect: Any = effect, bootstrap: Any = bootstrap
            ) -> Any:
                return bootstrap.at_level(level).of_function(columns, effect)

            found = at(LEVEL)
            if found.low is None or found.high is None or found.value is None:
                continue
            error = (found.high - found.low) / (2 * float(student.ppf(0.975, len(columns) - 1)))
            ours, theirs = values_of(trained, key), values_of(kinds[kind], key)
            spread = _pooled_spread(ours, theirs)
            difference = float(ours.mean() - theirs.mean())
            made = Effect(
                key,
                kind,
                found.value,
                found.low,
                found.high,
                error,
                (found.low, found.high),
                False,
                0.0,
                difference / spread if spread else float(np.copysign(np.inf, difference)),
                bool(ours.min() > theirs.max() or ours.max() < theirs.min()),
            )
            first.append((abs(found.value) / max(error, 1e-300), made, at))
    first.sort(key=lambda entry: -entry[0])
    out, going = [], True
    for place, (_, made, at) in enumerate(first):
        level = 1 - (1 - LEVEL) / (len(first) - place)
        found = at(level)
        holds = going and found.low is not None and (found.low > 0 or found.high < 0)
        going = holds
        bound = norm.ppf(1 - (1 - LEVEL) / (2 * len(first))) + norm.ppf(POWER)
        joint = (-np.inf, np.inf) if found.low is None else (found.low, found.high)
        out.append(made._replace(joint=joint, claimed=holds, smallest=float(bound * made.error)))
    return tuple(out)


def refused(rows: Sequence[Row], key: str) -> bool:
    """Whether CE recovered is undefined: zeros cost nothing that could be told from 0."""
    if key != "ce_recovered":
        return False
    columns = rows[0]["columns"]
    cost = np.array(columns["zero"]) - np.array(columns["clean"])
    spread = cost.std(ddof=1) / np.sqrt(len(cost))
    return bool(abs(cost.mean()) < 1.96 * spread)


def lacking(study: str) -> list[str]:
    """What ANALYSIS.md plans and no row has."""
    if study == "wiki":
        kinds = by_kind(rows_of("wiki"))
        return [
            f"{SEEDS[kind] - len(kinds.get(kind, []))} of {SEEDS[kind]} seeds of {kind}"
            for kind in SEEDS
            if len(kinds.get(kind, [])) < SEEDS[kind]
        ]
    planned = 90 if study == "synthetic" else 21
    there = len(rows_of(study))
    return [f"{planned - there} of {planned} rows"] if there < planned else []


def mean_cell(rows: Sequence[Row], key: str) -> str:
    """Mean and standard deviation over seeds, not oriented."""
    found = np.array([value for row in rows if (value := value_of(row, key)) is not None])
    if not len(found):
        return "–"
    spread = float(found.std(ddof=1)) if len(found) > 1 else None
    text = format_value(float(found.mean()), spread)
    return text if spread is None else f"{text} ± {spread:.1g}"


def note_of_lacking(study: str) -> str:
    lack = lacking(study)
    return words.bullets([f"Planned and not measured: {'; '.join(lack)}."]) if lack else ""


def sanity_block() -> str:
    """Table of means, table of effects, sentences."""
    kinds = by_kind(rows_of("wiki"))
    if len(kinds.get(TRAINED, [])) < 2:
        return note_of_lacking("wiki")
    shown = [kind for kind in (TRAINED, *BASELINES) if len(kinds.get(kind, [])) > 1]
    means = words.table(
        ("score", *(f"{kind} ({len(kinds[kind])})" for kind in shown)),
        [[ALL[key].title, *(mean_cell(kinds[kind], key) for kind in shown)] for key in ALL],
        Notes(),
    )
    found = {(effect.key, effect.kind): effect for effect in effects()}
    marks = {"separates": "", "inverts": " (worse)", "null": " (null)"}

    def cell(key: str, kind: str) -> str:
        effect = found.get((key, kind))
        if effect is None:
            return "–"
        size = "∞" if np.isinf(effect.spread) else f"{effect.spread:.1f}"
        interval = f"[{format_value(effect.low)}, {format_value(effect.high)}]"
        return f"{format_value(effect.value)} {interval}; {size}σ{marks[effect.verdict]}"

    table = words.table(
        ("score", *shown[1:]),
        [[ALL[key].title, *(cell(key, kind) for kind in shown[1:])] for key in scores.SCORES],
        Notes(),
    )
    return words.stacked(note_of_lacking("wiki"), means, table, words.bullets(sanity_sentences()))


def sanity_sentences() -> list[str]:
    """What is separated, inverted, not told, and at which power."""
    found, said = effects(), []
    for kind in BASELINES:
        of = {effect.key: effect for effect in found if effect.kind == kind}
        if not of:
            continue
        parts = []
        for verdict, text in (("separates", "told apart by"), ("inverts", "scored as better by")):
            names = [ALL[key].title for key, effect in of.items() if effect.verdict == verdict]
            parts.append(f"{text} {', '.join(sorted(names)) if names else 'none'}")
        nulls = [
            f"{ALL[key].title} (an effect of {format_value(effect.smallest)} had a power of 80 %)"
            for key, effect in of.items()
            if effect.verdict == "null"
        ]
        said.append(f"{kind}: {'; '.join(parts)}; null: {', '.join(nulls) if nulls else 'none'}.")
    missed = {
        kind: [
            key
            for key in THEIRS
            if any(e.kind == kind and e.key == key and e.verdict != "separates" for e in found)
        ]
        for kind in BASELINES
    }
    answers = [
        f"{ALL[key].title} separates {kind}, and {ALL[other].title} does not"
        for kind, others in missed.items()
        for other in others
        for key in ASKED
        if any(e.kind == kind and e.key == key and e.verdict == "separates" for e in found)
    ]
    said.append(
        "Raw, annealed, ρ even or net bits against explained variance and CE recovered: "
        + (
            f"{'; '.join(answers)}."
            if answers
            else "there is no baseline that one of them separates and one of these two does not."
        )
    )
    return said


class Correlation(NamedTuple):
    """The rank correlation of a score with the truth."""

    key: str
    value: float
    low: float
    high: float
    above: tuple[float, float]
    """Of (it − the larger one of explained variance and CE recovered), at Holm's level."""
    is_above: bool
    rows: int


def _spearman(first: Array, second: Array, chosen: NDArray[np.intp]) -> Array:
    """Spearman's correlation in each resample; `chosen` is `[resamples, rows]`."""
    a, b = (rankdata(values[chosen], axis=1) for values in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    found: Array = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return found


@cache
def correlations(truth: str, earliest: int = 0) -> tuple[Correlation, ...]:
    """Of every score with a truth, over the rows that have seen `earliest` steps or more."""
    rows = [row for row in rows_of("synthetic") if row["steps"] >= earliest]
    runs = sorted({row["run"] for row in rows})
    blocks = np.array([[place for place, row in enumerate(rows) if row["run"] == run] for run in runs])
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(blocks), size=(RUN_RESAMPLES, len(blocks)))
    chosen = blocks[drawn].reshape(RUN_RESAMPLES, -1)
    known = np.array([row["truth"][truth] for row in rows])
    value, again = {}, {}
    for key in ALL:
        # A row without the score is left out of that score's ranks alone.
        having = np.array([value_of(row, key) is not None for row in rows])
        score = np.full(len(rows), np.nan)
        score[having] = values_of(rows, key)
        value[key] = float(_spearman(score, known, np.flatnonzero(having)[None])[0])
        again[key] = (
            _spearman(score, known, chosen)
            if having.all()
            else np.array([_spearman(score, known, one[having[one]][None])[0] for one in chosen])
        )
    best = np.maximum(*(again[key] for key in THEIRS))
    ours = [key for key in ALL if key not in THEIRS]
    shares = {key: float((again[key] - best <= 0).mean()) for key in ours}
    order, going, above = sorted(ours, key=lambda key: shares[key]), True, {}
    for place, key in enumerate(order):
        tail = (1 - LEVEL) / (len(order) - place) / 2
        low, high = np.quantile(again[key] - best, [tail, 1 - tail])
        going = going and bool(low > 0)
        above[key] = ((float(low), float(high)), going)
    nothing = ((float("nan"), float("nan")), False)
    return tuple(
        Correlation(
            key,
            value[key],
            *(float(end) for end in np.quantile(again[key], [0.025, 0.975])),
            *above.get(key, nothing),
            sum(value_of(row, key) is not None for row in rows),
        )
        for key in ALL
    )


def world_block() -> str:
    """Rank correlations with both truths, of all dictionaries and of trained ones."""
    if len(rows_of("synthetic")) < 60:
        return note_of_lacking("synthetic")
    views = [(truth, earliest) for earliest in (0, EARLIEST_TRAINED) for truth in TRUTHS]
    found = {view: {one.key: one for one in correlations(*view)} for view in views}
    number = {view: max(one.rows for one in of.values()) for view, of in found.items()}
    headings = [
        f"{TRUTHS[truth]}, {'all' if not earliest else 'trained'} ({number[truth, earliest]})"
        for truth, earliest in views
    ]

    def cell(one: Correlation) -> str:
        return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]{' ↑' if one.is_above else ''}"

    order = sorted(ALL, key=lambda key: -found[views[0]][key].value)
    table = words.table(
        ("score", *headings),
        [[ALL[key].title, *(cell(found[view][key]) for view in views)] for key in order],
        Notes(),
    )
    said = []
    for view, heading in zip(views, headings, strict=True):
        above = [ALL[key].title for key in order if found[view][key].is_above]
        theirs = " and ".join(f"{ALL[key].title} {found[view][key].value:.2f}" for key in THEIRS)
        best = max((key for key in ALL if key not in THEIRS), key=lambda key: found[view][key].value)
        said.append(
            f"{heading}: "
            + (
                f"{', '.join(above)} lie above both of theirs outside the joint interval"
                if above
                else "none of our scores lies above both of theirs outside the joint interval"
            )
            + f" (theirs: {theirs}; the largest of ours: {ALL[best].title} {found[view][best].value:.2f}, "
            f"its difference from the larger of theirs "
            f"[{found[view][best].above[0]:.2f}, {found[view][best].above[1]:.2f}])."
        )
    said += [
        f"{ALL[one.key].title} has no value in {number[views[0]] - one.rows} of these dictionaries, "
        "which its ranks leave out."
        for one in found[views[0]].values()
        if one.rows < number[views[0]]
    ]
    truths = np.array([[row["truth"][truth] for truth in TRUTHS] for row in rows_of("synthetic")])
    said.append(
        f"MCC of the dictionaries is {truths[:, 0].min():.2f} to {truths[:, 0].max():.2f}, F1 "
        f"{truths[:, 1].min():.2f} to {truths[:, 1].max():.2f}."
    )
    return words.stacked(note_of_lacking("synthetic"), table, PICTURE, words.bullets(said))


def training_block() -> str:
    """Rank correlation of each score with steps, and whether methods differ by more than seeds."""
    rows = rows_of("steps")
    runs = {kind: [row for row in rows if row["kind"] == kind] for kind in METHODS}
    trained = by_kind(rows_of("wiki")).get(TRAINED, [])
    whole = [kind for kind in METHODS if len(runs[kind]) == 7]
    if not whole or len(trained) < 3:
        return note_of_lacking("steps") or note_of_lacking("wiki")
    by_steps, cells, beyond_all, monotone = {}, [], {}, []
    for key in ALL:
        for kind in whole:
            having = [row for row in runs[kind] if value_of(row, key) is not None]
            steps = np.array([row["steps"] for row in having], dtype=np.float64)
            score = oriented(key, np.array([value_of(row, key) for row in having], dtype=np.float64))
            by_steps[key, kind] = float(_spearman(score, steps, np.arange(len(having))[None])[0])
        if all(by_steps[key, kind] > MONOTONE for kind in whole):
            monotone.append(ALL[key].title)
    others = [kind for kind in whole if kind != "topk"]
    level = 1 - (1 - LEVEL) / (2 * max(len(ALL) * len(others), 1))
    for key in ALL:
        seeds = values_of(trained, key)
        room = float(student.ppf(level, len(seeds) - 1) * seeds.std(ddof=1) * np.sqrt(1 + 1 / len(seeds)))
        for kind in others:
            last = value_of(runs[kind][-1], key)
            if last is None:
                continue
            beyond = float(oriented(key, np.array([last]))[0] - seeds.mean())
            beyond_all[key, kind] = "better" if beyond > room else "worse" if beyond < -room else "within"
        cells.append(
            [
                ALL[key].title,
                *(f"{by_steps[key, kind]:.2f}" for kind in whole),
                *(beyond_all.get((key, kind), "–") for kind in others),
            ]
        )
    table = words.table(
        (
            "score",
            *(f"{kind}: correlation with steps" for kind in whole),
            *(f"{kind} against five seeds of topk" for kind in others),
        ),
        cells,
        Notes(),
    )
    said = [
        f"Better with steps in every run (rank correlation above {MONOTONE:g}): "
        f"{', '.join(monotone) if monotone else 'none'}."
    ]
    for kind in others:
        last = runs[kind][-1]["scores"]["l0"]
        outside = [ALL[key].title for key in ALL if beyond_all.get((key, kind)) in ("better", "worse")]
        said.append(
            f"{kind} (L0 {format_value(last)} after its last step) is told from seeds of topk by "
            f"{', '.join(outside) if outside else 'none'}, jointly."
        )
    return words.stacked(note_of_lacking("steps"), table, words.bullets(said))


def variation_block() -> str:
    """Coefficients of variation over seeds: ours beside SAEBench's core numbers."""
    trained = by_kind(rows_of("wiki")).get(TRAINED, [])
    peers = [row["saebench"] for row in trained if "saebench" in row]
    if len(peers) < 3:
        return note_of_lacking("wiki")

    def line(whose: str, title: str, found: Sequence[float | None]) -> list[str]:
        having = np.array([value for value in found if value is not None])
        if len(having) < len(found) or not len(having):
            return [title, whose, "–", "–", "–"]
        mean, spread = float(having.mean()), float(having.std(ddof=1))
        if spread < 1e-12 * abs(mean):  # rounding
            spread = 0.0
        crosses = having.min() < 0 < having.max() or mean == 0
        share = "–" if crosses else f"{100 * spread / abs(mean):.2g} %"
        return [title, whose, format_value(mean, spread or None), f"{spread:.2g}", share]

    cells = [
        line("ours", ALL[key].title, [value_of(row, key) for row in trained])
        for key in ALL
        if key not in THEIRS
    ]
    cells += [line("shared", ALL[key].title, [value_of(row, key) for row in trained]) for key in THEIRS]
    cells += [
        line("SAEBench", f"`{name}`", [peer[name] for peer in peers])
        for name in peers[0]
        if any(peer[name] is not None for peer in peers)
    ]
    table = words.table(
        (
            "number",
            "whose",
            f"mean of {len(trained)} seeds",
            "standard deviation",
            "coefficient of variation",
        ),
        cells,
        Notes(),
    )
    return table


def blocks() -> dict[str, str]:
    """Every block of the page by its name."""
    return {
        "sanity": sanity_block(),
        "world": world_block(),
        "training": training_block(),
        "variation": variation_block(),
    }


def figure() -> Figure | None:
    """Rank correlations with the truth, and the two scores at both ends against it."""
    if len(rows_of("synthetic")) < 60:
        return None
    found = {
        earliest: {one.key: one for one in correlations("mcc", earliest)}
        for earliest in (0, EARLIEST_TRAINED)
    }
    order = sorted(ALL, key=lambda key: found[0][key].value)
    drawn = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = drawn.subplots()
    for shift, (earliest, label, colour, marker) in enumerate(
        ((0, "all dictionaries", "#0072B2", "o"), (EARLIEST_TRAINED, "trained ones", "#D55E00", "D"))
    ):
        for place, key in enumerate(order):
            one, at = found[earliest][key], place + 0.18 * (1 - 2 * shift)
            axes.plot([one.low, one.high], [at, at], color=colour, lw=1.2)
            axes.plot(one.value, at, marker, color=colour, ms=5, label=label if place == 0 else None)
    axes.axvline(0, color="#999999", lw=0.8)
    axes.set_yticks(range(len(order)), [f"{ALL[key].title}{' *' if key in THEIRS else ''}" for key in order])
    axes.set_xlabel(
        "rank correlation with MCC (better score, more features found); 95 % over runs", fontsize=9
    )
    axes.set_xlim(-1, 1)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    PAGE.write_text(words.filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
    if (drawn := figure()) is not None:
        drawn.savefig(FIGURE, metadata={"Software": None})


if __name__ == "__main__":
    main()
