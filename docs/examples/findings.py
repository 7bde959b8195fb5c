"""Fill the tables of docs/findings.md from the archived records of protocol 1, and draw its figures.

    python docs/examples/findings.py

A table stands between `<!-- NAME -->` and `<!-- end -->`; everything else on the page is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.find import fullest_record
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import read_record

# Of the checkout that this script lies in, whichever one the package is installed from.
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "archive" / "1" / "results" / "smollm2-135m"
PAGE = ROOT / "docs" / "findings.md"
FIGURES = ROOT / "docs" / "figures"
SPARSE, PROJECTIONS = ("topk", "batch", "matry", "jump", "l1", "gated", "trans", "skip"), ("pca", "random")


def every(task: str) -> list[Record]:
    """The fullest record of every folder of a task's results, cheapest first."""
    folders = sorted((RESULTS / task / "1").iterdir())
    fullest = [read_record(fullest_record(folder)).record for folder in folders]
    return sorted(
        fullest, key=lambda record: (record.complexity.bits_per_token.value or 0, record.submission.name)
    )


def records(task: str) -> list[Record]:
    """Those of single interpretations, each method once."""
    single = (record for record in every(task) if record.reference is None)
    return [record for record in single if "-seed-" not in record.submission.name]


def nested(task: str) -> list[Record]:
    """Those in which a finer interpretation stands in for the model."""
    return [record for record in every(task) if record.reference is not None]


def show(number: Number | None, digits: int = 3) -> str:
    """A number with its interval."""
    if number is None or number.value is None:
        return "–"
    if number.low is None or number.high is None:
        return f"{number.value:.{digits}f}"
    return f"{number.value:.{digits}f} [{number.low:.{digits}f}, {number.high:.{digits}f}]"


def scores(chosen: Iterable[Record]) -> pd.DataFrame:
    """What each costs, and what it loses."""
    return pd.DataFrame(
        {
            "submission": record.submission.name,
            "L0": show(record.complexity.l0.model_copy(update={"low": None}), 1),
            "bits": show(record.complexity.bits_per_token, 0),
            "explained variance": show(record.metrics.reconstruction.explained_variance),
            "Δ raw": show(record.metrics.rungs["raw"].quenched.gap),
            "Δ Gaussian": show(record.metrics.rungs["full"].quenched.gap),
            "KL raw": show(record.metrics.rungs["raw"].quenched.kl),
        }
        for record in chosen
    )


def ratios(chosen: Iterable[Record]) -> pd.DataFrame:
    """KL of the residual over that of three Gaussians of equal size."""
    return pd.DataFrame(
        {
            "submission": record.submission.name,
            "fitted covariance": show(record.metrics.gaussian_ratio.fitted, 2),
            "the same, length per token": show(record.metrics.gaussian_ratio.directional, 2),
            "isotropic, length per token": show(record.metrics.gaussian_ratio.isotropic, 2),
        }
        for record in chosen
    )


def telescopes(chosen: Iterable[Record]) -> pd.DataFrame:
    """Where the Gaussian gap comes from."""
    return pd.DataFrame(
        {
            "submission": record.submission.name,
            "Gaussian gap": show(telescope.total),
            "shape": show(telescope.shape),
            "dependence on x̂": show(telescope.dependence),
            "rest": show(telescope.rest),
        }
        for record in chosen
        if (telescope := record.metrics.telescope) is not None
    )


def ladders(chosen: Iterable[Record]) -> pd.DataFrame:
    """The gap on every rung."""
    rungs = ("raw", "mean", "linear-mean", "isotropic", "full", "linear", "radial", "permuted", "matched")
    return pd.DataFrame(
        {
            "submission": record.submission.name,
            **{
                rung: show(record.metrics.rungs[rung].quenched.gap.model_copy(update={"low": None}))
                for rung in rungs
                if rung in record.metrics.rungs
            },
        }
        for record in chosen
    ).dropna(axis=1)


def differences() -> pd.DataFrame:
    """What a finer level adds to a coarser one, as the residual of the coarser."""
    return pd.DataFrame(
        {
            "coarser": record.submission.name,
            "finer": "" if record.reference is None else record.reference.name,
            "Δ raw": show(record.metrics.rungs["raw"].quenched.gap),
            "Δ Gaussian": show(record.metrics.rungs["full"].quenched.gap),
            "shape": show(record.metrics.telescope.shape if record.metrics.telescope else None),
            "dependence on x̂": show(
                record.metrics.telescope.dependence if record.metrics.telescope else None
            ),
            "ρ": show(record.metrics.gaussian_ratio.fitted, 2),
        }
        for record in nested("resid-15")
    )


def trainings() -> pd.DataFrame:
    """How the baselines of SmolLM2 were trained, from their logs."""
    rows = []
    for path in sorted((ROOT / "baselines").glob("*/train*.log")):
        last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        if str(last.get("task", "")).startswith("smollm2-135m/"):
            fit, held_out = last["fit"], last["evaluation"]
            rows.append(
                {
                    "baseline": last["baseline"],
                    "tokens seen": f"{last['tokens_seen']:,}",
                    "of them different": f"{last['unique_tokens']:,}",
                    "L0, fit": fit["l0"],
                    "L0, evaluation": held_out["l0"],
                    "FVU, fit": fit["fvu"],
                    "FVU, evaluation": held_out["fvu"],
                    "dead on fit": f"{100 * fit['dead_share']:.1f} %",
                }
            )
    return pd.DataFrame(rows)


def seeds() -> pd.DataFrame:
    """One method, trained five times."""
    single = (record for record in every("resid-15") if record.reference is None)
    return scores(record for record in single if record.submission.name.startswith("topk-sae-32"))


def is_sparse(record: Record) -> bool:
    return record.submission.name.startswith(SPARSE)


def with_gap(chosen: Iterable[Record]) -> list[Record]:
    """Those that leave something out, and keep something."""
    return [record for record in chosen if record.submission.name not in ("identity", "mean-only")]


def tables() -> dict[str, pd.DataFrame]:
    """Every table of the page, by the name that stands in it."""
    content = {"training": trainings()}
    resid = records("resid-15")
    content["resid-15"] = scores(resid)
    content["ratios"] = ratios(with_gap(resid))
    content["telescope"] = telescopes(with_gap(resid))
    content["ladder"] = ladders(with_gap(resid))
    content["nested"] = differences()
    content["seeds"] = seeds()
    content["mlp-15"] = scores(records("mlp-15"))
    content["mlp-15 ratios"] = ratios(with_gap(records("mlp-15")))
    for task in ("resid-8", "resid-22", "attn-15"):
        if (RESULTS / task).is_dir():
            content[task] = scores(records(task))
    return content


def filled(page: str, content: dict[str, pd.DataFrame]) -> str:
    """The page with its tables as they are now.

    Raises:
        KeyError: if the page asks for a table that there is not.
    """

    def block(match: re.Match[str]) -> str:
        table = content[match[1]].to_markdown(index=False, disable_numparse=True)
        return f"<!-- {match[1]} -->\n\n{table}\n\n<!-- end -->"

    return re.sub(r"<!-- (?!end)([\w -]+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)


def frontier() -> Figure:
    """KL against bits: sparse autoencoders beside projections."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axes, task in zip(panels, ("resid-15", "mlp-15"), strict=True):
        chosen = with_gap(records(task))
        styles = {"pca": ("o", "#0072B2"), "random": ("x", "#666666"), "sparse": ("D", "#D55E00")}
        for kind, (marker, colour) in styles.items():
            points = [
                (record.complexity.bits_per_token.value, record.metrics.rungs["raw"].quenched.kl, record)
                for record in chosen
                if (is_sparse(record) if kind == "sparse" else record.submission.name.startswith(kind))
            ]
            for bits, kl, record in points:
                axes.plot([bits, bits], [kl.low, kl.high], color=colour, lw=1)
                if kind == "sparse":
                    axes.annotate(
                        record.submission.name.replace("-sae", ""),
                        (bits, kl.value),
                        fontsize=6,
                        xytext=(4, 2),
                        textcoords="offset points",
                    )
            axes.plot(
                [bits for bits, *_ in points],
                [kl.value for _, kl, _ in points],
                marker=marker,
                color=colour,
                ls="--" if kind == "pca" else "",
                lw=1,
                ms=5,
                label={"pca": "PCA", "random": "random projection", "sparse": "trained, sparse"}[kind],
            )
        axes.set(xscale="log", yscale="log", xlabel="bits per token", ylabel="KL raw (nats per token)")
        axes.set_title(f"smollm2-135m/{task}", fontsize=9, loc="left")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def levels() -> Figure:
    """Gaps and ratio of TopK autoencoders by the number of active latents."""
    by_name = {record.submission.name: record for record in records("resid-15")}
    chosen = [(k, by_name[f"topk-sae-{k}"]) for k in (16, 32, 64)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")

    def curve(axes: plt.Axes, read: Callable[[Record], Number], marker: str, colour: str, label: str) -> None:
        numbers = [read(record) for _, record in chosen]
        ks = [k for k, _ in chosen]
        axes.plot(ks, [number.value for number in numbers], marker=marker, color=colour, lw=1, label=label)
        for k, number in zip(ks, numbers, strict=True):
            axes.plot([k, k], [number.low, number.high], color=colour, lw=1)

    curve(left, lambda r: r.metrics.rungs["raw"].quenched.gap, "o", "#0072B2", "raw")
    curve(left, lambda r: r.metrics.rungs["full"].quenched.gap, "D", "#D55E00", "Gaussian")
    left.set(ylabel="Δ (nats per token)")
    curve(right, lambda r: r.metrics.gaussian_ratio.fitted, "o", "#0072B2", "fitted covariance")
    curve(right, lambda r: r.metrics.gaussian_ratio.directional, "D", "#D55E00", "length per token")
    curve(right, lambda r: r.metrics.gaussian_ratio.isotropic, "s", "#009E73", "isotropic, length per token")
    right.axhline(1, color="#666666", lw=1, ls=":")
    right.set(ylabel="ρ: harm over that of noise")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([16, 32, 64], ["16", "32", "64"], minor=False)
        axes.minorticks_off()
        axes.set(xlabel="active latents", ylim=(0, None))
        axes.legend(fontsize=8, frameon=False)
    return figure


def require_checkout() -> None:
    """Raise RecordError if this script was copied out of the repository, whose page and figures it writes."""
    lacking = [path for path in (RESULTS, PAGE, FIGURES) if not path.exists()]
    if lacking:
        raise RecordError(
            f"{lacking[0]} does not exist; this script writes into the checkout that it lies in",
            fix="run it from a checkout of the repository: python docs/examples/findings.py",
        )


def main() -> None:
    require_checkout()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    frontier().savefig(FIGURES / "findings-frontier.png", dpi=150)
    levels().savefig(FIGURES / "findings-levels.png", dpi=150)
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")


if __name__ == "__main__":
    try:
        main()
    except RecordError as problem:
        raise SystemExit(f"findings: {problem}") from None
