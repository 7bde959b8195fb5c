"""Draw the README's picture of the idea: one activation, what stands in its place, and what that costs.

The losses are those of a record of the board. Run it from a checkout: python docs/examples/idea.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from remainder.record.find import fullest_record
from remainder.record.schema import Record
from remainder.record.store import read_summary

ROOT = Path(__file__).parents[2]
ROW = ROOT / "leaderboard" / "results" / "smollm2-135m" / "resid-15" / "2" / "topk-sae-32"
FIGURE = ROOT / "docs" / "figures" / "idea.png"

INK, BLUE, ORANGE, GREY = "#222222", "#0072b2", "#d55e00", "#8a8a8a"
LINES = (
    ("clean", "x", INK, "the model as it is"),
    ("raw", "x̂", BLUE, "the reconstruction alone:\nwhat is left out counts as zero"),
    ("full", "x̂ + ε", ORANGE, "and noise with the mean and\ncovariance of what is left out"),
)
"""Rung, what the next layer reads, colour, words."""


def losses(record: Record) -> dict[str, float]:
    """Nats a token, by rung."""
    found = {rung: record.metrics.rungs[rung].quenched.gap.value for rung in ("raw", "full")}
    clean = record.metrics.clean.loss.value
    assert clean is not None
    assert all(gap is not None for gap in found.values())
    return {"clean": clean} | {rung: clean + gap for rung, gap in found.items() if gap is not None}


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5) -> None:
    """A rounded box with a word in it."""
    style = "round,pad=0.02,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y - 0.27), width, 0.54, boxstyle=style, fc="white", ec=colour, lw=1.3))
    axes.text(x + width / 2, y, text, ha="center", va="center", color=colour, fontsize=10)


def picture(record: Record) -> Figure:
    """Three lines, one for each of the three losses."""
    figure, (axes, bars) = plt.subplots(
        1, 2, figsize=(9, 2.9), layout="constrained", width_ratios=[3.4, 1.0], sharey=True
    )
    found = losses(record)
    for place, (rung, read, colour, words) in enumerate(LINES):
        y = 2.0 - place
        axes.text(-3.0, y, words, ha="left", va="center", fontsize=9, color=colour)
        box(axes, 0.9, y, "layers", GREY)
        box(axes, 3.3, y, read, colour)
        box(axes, 5.7, y, "layers", GREY)
        for start in (2.45, 4.85, 7.25):
            axes.annotate(
                "", (start + 0.8, y), (start, y), arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.2}
            )
        bars.barh(y, found[rung], height=0.5, color=colour)
        more = "" if rung == "clean" else f"  (+{found[rung] - found['clean']:.2f})"
        bars.text(found[rung] + 0.06, y, f"{found[rung]:.2f}{more}", va="center", fontsize=9, color=colour)
    axes.set(xlim=(-3.05, 8.1), ylim=(-0.5, 2.75))
    axes.axis("off")
    for side in ("top", "right", "bottom", "left"):
        bars.spines[side].set_visible(False)
    bars.set(xlim=(0, 1.62 * max(found.values())), xticks=[], yticks=[])
    bars.set_title("loss, nats a token", fontsize=9, loc="left", color=INK)
    return figure


if __name__ == "__main__":
    picture(read_summary(fullest_record(ROW))).savefig(FIGURE, dpi=160)
    print(f"wrote {FIGURE.relative_to(ROOT)}")
