"""Figures of docs/findings.md, in the colours of all figures. Intervals are 95 % for each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.marks import PLAINLY, plain
from remainder.report.palette import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_board as board
    import findings_noise as noise
    import findings_residual as residual
    import findings_words as words
    from findings_words import Of
else:
    board, noise, residual, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py"))
        for name in ("board", "noise", "residual", "words")
    )

KINDS: tuple[tuple[str, Callable[[Record], bool], str, str], ...] = (
    ("trained dictionary", lambda record: words.is_dictionary(record), BLUE, "o"),
    ("PCA", lambda record: words.format_of(record) == "pca", ORANGE, "s"),
    ("random directions", lambda record: words.format_of(record) == "random-projection", VERMILION, "D"),
    ("exact copy", lambda record: words.format_of(record) == "identity", GREEN, "^"),
    ("mean alone", lambda record: words.format_of(record) == "mean", BLACK, "x"),
    ("other", lambda _: True, GREY, "v"),
)
"""Name of a kind of row, which rows are of it, its colour and its marker; the first that fits."""


def kind(record: Record) -> tuple[str, str, str]:
    """Name, colour and marker of the kind of a row."""
    return next((name, colour, marker) for name, fits, colour, marker in KINDS if fits(record))


def strips(axes: Axes, records: Sequence[Record], of: Of, label: str) -> None:
    """A number of every row with its interval, rows of one task beside each other on a strip."""
    tasks = words.tasks_of(records)
    told: set[str] = set()
    for place, task in enumerate(tasks):
        found = [(record, number) for record in records if record.task.id == task if (number := of(record))]
        own = sorted(
            ((r, n) for r, n in found if n.value is not None),
            key=lambda item: (kind(item[0])[0], item[1].value),
        )
        for i, (record, number) in enumerate(own):
            name, colour, marker = kind(record)
            at = place + 0.36 * (2 * (i + 0.5) / len(own) - 1)
            axes.plot(
                number.value,
                at,
                marker,
                **{"color": colour, "ms": 4, "label": "_" if name in told else name, "zorder": 3},
            )
            told.add(name)
            if number.low is not None and number.high is not None:
                axes.plot([number.low, number.high], [at, at], color=colour, lw=1, zorder=2)
        if place:
            axes.axhline(place - 0.5, color="#eeeeee", lw=0.8, zorder=0)
    plain(axes, "", grid="x")
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label, fontsize=8)


def _panels(count: int, tasks: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.7 * count + 0.6, 0.95 + 0.52 * tasks), layout="constrained", dpi=110)
    axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    return figure, list(axes)


def _tasks(records: Sequence[Record]) -> int:
    return len({record.task.id for record in records})


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize=7.5, frameon=False
    )


def ratio(records: Sequence[Record]) -> Figure:
    """ρ even and ρ odd of every row."""
    figure, (even, odd) = _panels(2, _tasks(records))
    strips(even, records, words.quantity("rho_even"), "ρ even: 1 is noise of the same covariance")
    even.axvline(1, color=GREY, lw=1, zorder=1)
    strips(odd, records, words.quantity("rho_odd"), "ρ odd: 0 does not mind the sign")
    odd.axvline(0, color=GREY, lw=1, zorder=1)
    _legend(figure, even)
    return figure


def bath(records: Sequence[Record]) -> Figure:
    """What integrating the noise out changes, at both amplitudes."""
    figure, panels = _panels(2, _tasks(records))
    for axes, key, times in zip(panels, noise.DIFFERENCES, ("0.6", "1"), strict=True):
        strips(axes, records, words.quantity(key), f"annealed − mean, noise × {times} (nats a token)")
    for axes in panels:
        axes.axvline(0, color=GREY, lw=1, zorder=1)
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_xticks([-3, -0.1, -0.01, 0, 0.01, 0.1])
        axes.xaxis.set_major_formatter(PLAINLY)
    _legend(figure, panels[0])
    return figure


def net_bits(records: Sequence[Record]) -> Figure:
    """Net bits of every row."""
    figure, (axes,) = _panels(1, _tasks(records))
    figure.set_figwidth(6.4)
    strips(
        axes, records, words.quantity("net_bits"), "net bits a token: above 0 the codes are worth their bits"
    )
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks([-10, -1, 0, 1, 10, 100])
    axes.xaxis.set_major_formatter(PLAINLY)
    _legend(figure, axes)
    return figure


def lexical(records: Sequence[Record]) -> Figure:
    """R² of the nearest residual over calibration rows, and how often the nearest has the same token."""
    near = [r for r in records if not words.is_bound(r) and "neighbour" in (r.calibration.conditional or {})]
    tasks = words.tasks_of(near)
    figure = Figure(figsize=(9.4, 3.2), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    colours = (BLUE, VERMILION, GREEN, ORANGE, SKY, BLACK, GREY)
    for task, colour in zip(tasks, colours * (1 + len(tasks) // len(colours)), strict=False):
        told = False
        for record in (r for r in near if r.task.id == task):
            fit = (record.calibration.conditional or {})["neighbour"]
            points = sorted((int(rows), share) for rows, share in fit.curve.items())
            style = "-" if words.is_dictionary(record) else ":"
            left.plot(*zip(*points, strict=True), style, color=colour, lw=1, marker="o", ms=2.5)
            if fit.same_token is None or fit.explained is None:
                continue
            face = colour if words.is_dictionary(record) else "white"
            right.plot(
                100 * fit.same_token,
                fit.explained,
                "o",
                **{"color": colour, "markerfacecolor": face, "ms": 5, "label": "_" if told else task},
            )
            told = True
    left.set_xscale("log")
    left.set_xlabel("calibration rows that the nearest is sought among", fontsize=8)
    plain(left, "R² of the nearest row's residual, held out", grid="y")
    right.set_xlabel("nearest row has the same input token, %", fontsize=8)
    plain(right, "", grid="y")
    left.set_title("solid: trained dictionaries; dotted: projections", fontsize=8, loc="left")
    right.set_title("filled: trained dictionaries", fontsize=8, loc="left")
    right.legend(fontsize=7, frameon=False, loc="upper left")
    return figure


LARGEST = 1.2
"""Sizes of π beyond this lie on the edge of the map."""


def perturbativity(rows: board.Board) -> Figure:
    """π over the quadratic order of every row of the board."""
    figure = Figure(figsize=(7.2, 3.7), layout="constrained", dpi=110)
    axes = figure.subplots()
    groups = (
        ("controls", rows.controls, "#bbbbbb", "."),
        ("other networks", rows.other, ORANGE, "s"),
        ("language models, other rows", [r for r in rows.text if not words.is_dictionary(r)], SKY, "D"),
        ("language models, trained dictionaries", rows.dictionaries, BLUE, "o"),
    )
    for label, records, colour, marker in groups:
        for record in records:
            at, number = residual.quadratic(record), words.quantity("perturbativity")(record)
            if at is None or at <= 0 or number is None or number.value is None:
                continue
            low, value, high = (
                max(-LARGEST, min(LARGEST, end))
                for end in (_end(number, "low"), number.value, _end(number, "high"))
            )
            axes.plot(at, value, marker, color=colour, ms=4, label=label, zorder=3)
            axes.plot([at, at], [low, high], color=colour, lw=0.9, zorder=2)
            label = "_"
    for bound in (-residual.WEAK, residual.WEAK):
        axes.axhline(bound, color=GREY, lw=0.7, ls=":")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axvline(residual.STRONG, color=GREY, lw=0.7, ls=":")
    axes.set_xscale("log")
    axes.set_xlim(1e-5, None)
    axes.set_xlabel("quadratic order of the Gaussian residual's cost, nats a token", fontsize=8)
    plain(axes, "π: what that order misses, over it", grid="y")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=7.5, frameon=False
    )
    return figure


def _end(number: Number, name: str) -> float:
    end, value = getattr(number, name), number.value
    assert value is not None
    return float(value if end is None else end)
