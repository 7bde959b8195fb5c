"""The tables and the figure of docs/findings-1.md, from the archived records of protocol 1.

They are written by `findings.py`. Those records change no more, and neither does what the page says of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from remainder.record.find import fullest_record
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import read_summary

# Of the checkout that this script lies in, whichever one the package is installed from.
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "archive" / "1" / "results" / "smollm2-135m"
SPARSE, PROJECTIONS = ("topk", "batch", "matry", "jump", "l1", "gated", "trans", "skip"), ("pca", "random")


@functools.cache
def every(task: str) -> list[Record]:
    """The fullest record of every folder of a task's results, cheapest first."""
    folders = sorted((RESULTS / task / "1").iterdir())
    fullest = [read_summary(fullest_record(folder)) for folder in folders]
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
    """Every table of the page, by the name of its block."""
    resid = records("resid-15")
    content = {"resid-15": scores(resid)}
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


def frontier() -> Figure:
    """KL against bits: sparse autoencoders beside projections."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", dpi=150)
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
