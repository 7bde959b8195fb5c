"""Write the findings: docs/findings.md, its tables, docs/findings-1.md, figures, parts of README and tour.

    python docs/examples/findings.py

A block stands between `<!-- NAME -->` and `<!-- end -->`, and is written from records: tables, and all
sentences that state a number, a sign or an order. What stands between the blocks explains and is written by
hand. Where a row of a task is missing nothing is written, and the message says which.

    python docs/examples/findings.py --results DIR TASK ...

writes the tables from records in another folder, with the sections of these tasks alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.rungs import BOARD_RUNGS, CODED
from remainder.record.schema import Record
from remainder.report.order_sections import INTERACTING
from remainder.report.tables import render
from remainder.report.text import Notes
from remainder.submission.description import baselines
from remainder.task.script import load_script
from remainder.task.spec import Task, load_task

if TYPE_CHECKING:
    import coarse_graining as flows
    import findings_board as board
    import findings_circuits as circuits
    import findings_codes as codes
    import findings_columns as columns
    import findings_noise as noise
    import findings_pairs as pairs
    import findings_plots as plots
    import findings_protocol_1 as protocol_1
    import findings_report as report
    import findings_residual as residual
    import findings_words as words
    from findings_words import Rows, Side
else:
    board, circuits, codes, columns, noise, pairs, plots, protocol_1, report, residual, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py"))
        for name in (
            *("board", "circuits", "codes", "columns", "noise", "pairs"),
            *("plots", "protocol_1", "report", "residual", "words"),
        )
    )
    flows = load_script(Path(__file__).with_name("coarse_graining.py"))

# Of the checkout that this script lies in, whichever one the package is installed from.
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "results"
REPORT, PAGE = ROOT / "docs" / "findings.md", ROOT / "docs" / "findings-tables.md"
FIRST_PAGE = ROOT / "docs" / "findings-1.md"
README, TOUR = ROOT / "README.md", ROOT / "docs" / "tour.md"
FIGURES = ROOT / "docs" / "figures"

DETAILED: tuple[str, ...] = ("smollm2-135m/resid-15", "tiny/wiki")
"""Tasks whose rows the page shows one by one."""

COUNTED: tuple[str, ...] = (
    *(
        "tiny/digits",
        "tiny/induction",
        "tiny/induction-heads",
        "tiny/modular-addition",
        "tiny/rule-and-noise",
    ),
    *(f"smollm2-135m/{site}" for site in ("resid-8", "resid-22", "mlp-15", "attn-15")),
    *("tiny/wiki-mlp", "tracr/frac-prevs", "tracr/histogram", "tracr/reverse"),
)
"""Further tasks, whose rows are counted in the overview."""

PICTURES = {
    "default columns": "![KL against bits: the curve of each interpretation, beside transform coding]"
    "(figures/findings-curves.png)",
    "conditional": "![R² of the residual of the nearest neighbour, by calibration rows]"
    "(figures/findings-neighbour.png)",
}
"""Figures below sections."""

NO_TASK = "*No task of this page has all of its rows yet.*"

TOUR_TASKS = ("smollm2-135m/resid-15", "smollm2-135m/ioi")
"""Tasks whose tables, as `show` prints them, stand in the tour."""

PAIRED = "smollm2-135m/resid-15"
"""The task whose dictionaries are compared in pairs."""

SECTIONS = {
    "default columns": codes.default_columns,
    "interaction": noise.interaction,
    "orders": noise.orders,
    "shape": noise.shape,
    "bath": noise.bath,
    "ratio": noise.ratio,
    "conditional": codes.conditional,
    "net bits": codes.description,
}
"""Sections of a task by the name of their block."""


def read_rows(results: Path, name: str) -> Rows | str:
    """The rows of a task, cheapest first; in words, what is missing of them."""
    task = load_task(name)
    folder = results / name / str(task.major)
    wanted = {submission.name for submission, _ in baselines(task)}
    found = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    if absent := sorted(wanted - set(found)):
        return f"{name} has no row of {', '.join(absent)}"
    records = [words.summary(path) for path in found.values()]
    for record in records:
        if lacking := lacking_rungs(task, record):
            return f"{name}, {record.submission.name} was not measured on {', '.join(lacking)}"
    tiers = sorted({f"{record.task.version}, {record.tier}" for record in records})
    if len(tiers) > 1:
        return f"{name} has rows of {' and of '.join(tiers)}"
    order = sorted(records, key=lambda r: (r.complexity.bits_per_token.value or 0, r.submission.name))
    rows: Rows = words.Rows(name, order)
    return rows


def lacking_rungs(task: Task, record: Record) -> list[str]:
    """Rungs of the board's plan, or of the task's own, that the record neither has nor gives a reason for."""
    rungs = BOARD_RUNGS if task.kind.has_residual else task.rungs
    wanted = [rung for rung in rungs if rung != CODED or task.ladder == "coded"]
    having = {*record.metrics.rungs, *record.measurement.unmeasured}
    return [rung for rung in wanted if rung not in having]


def read_tasks(results: Path, names: Sequence[str]) -> list[Rows]:
    """The rows of all these tasks.

    Raises:
        RecordError: a row is missing, or lacks a rung of the board's plan.
    """
    read = [read_rows(results, name) for name in names]
    if missing := [rows for rows in read if isinstance(rows, str)]:
        raise RecordError(
            f"{results}: {'; '.join(missing)}",
            fix="measure these rows first (remainder run TASK); the page shows all rows of a task or none",
        )
    return [rows for rows in read if not isinstance(rows, str)]


def overview(tasks: list[Rows]) -> str:
    """Counts of each task, one line each, and of all of them together."""
    if not tasks:
        return NO_TASK
    merged = words.Rows("all tasks", [record for rows in tasks for record in rows.records])
    placed = words.by_side(merged, words.quantity("interaction"), -INTERACTING, INTERACTING)
    sizes = {place: len(names) for place, names in placed.items()}
    within, unresolved = sizes.get("within", 0), sizes.get("open", 0)
    beyond = sizes.get("above", 0) + sizes.get("below", 0)
    headings = (
        *("task", "rows", f"interaction within ±{INTERACTING:g}", "beyond", "not resolved"),
        *("two terms enough", "bath pays", "ρ odd > 0", "ρ odd < 0", "better than transform coding"),
    )
    sentence = (
        f"Of {within + beyond + unresolved} rows that have an interaction with an interval, it lies within "
        f"±{INTERACTING:g} in {within}, where the Gaussian column is arithmetic of two others, and beyond in "
        f"{beyond}, where it tells something of its own; in {unresolved} this is not resolved."
    )
    cells = [[rows.task, str(len(rows.records)), *counts(rows)] for rows in tasks]
    return str(words.stacked(words.table(headings, cells, Notes()), words.bullets([sentence])))


def counts(rows: Rows) -> list[str]:
    """The cells of a task in the overview: how many rows, of those that have the number."""

    def of_known(key: str, place: Side) -> str:
        placed = words.by_side(rows, words.quantity(key))
        known = sum(len(names) for where, names in placed.items() if where != "missing")
        return f"{len(placed.get(place, []))} of {known}" if known else "none has it"

    by = words.by_side(rows, words.quantity("interaction"), -INTERACTING, INTERACTING)
    verdicts = [
        verdict for record in rows.records if (verdict := noise.enough(noise.loss_terms(record))) != "–"
    ]
    verdicts_of_bath = [[point.pays for point in record.metrics.bath or ()] for record in rows.records]
    baths = [pays for pays in verdicts_of_bath if any(verdict is not None for verdict in pays)]
    return [
        str(len(by.get("within", []))),
        str(len(by.get("above", [])) + len(by.get("below", []))),
        str(len(by.get("open", []))),
        f"{verdicts.count('yes')} of {len(verdicts)}",
        f"{sum(map(any, baths))} of {len(baths)}",
        of_known("rho_odd", "above"),
        of_known("rho_odd", "below"),
        of_known("efficiency", "above"),
    ]


def training() -> str:
    """How the baselines of SmolLM2-135M were trained, from their logs."""
    cells, worse = [], []
    for path in sorted((ROOT / "baselines").glob("*/train*.log")):
        last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        if not str(last.get("task", "")).startswith("smollm2-135m/"):
            continue
        fit, held_out = last["fit"], last["evaluation"]
        worse.append(held_out["fvu"] / fit["fvu"])
        cells.append(
            [
                f"`{last['baseline']}`",
                *(f"{last[key]:,}" for key in ("tokens_seen", "unique_tokens")),
                *(f"{split[key]:.4g}" for key in ("l0", "fvu") for split in (fit, held_out)),
                f"{100 * fit['dead_share']:.1f} %",
            ]
        )
    headings = (
        *("baseline", "tokens seen", "of them different", "L0, fit", "L0, evaluation"),
        *("FVU, fit", "FVU, evaluation", "dead on fit"),
    )
    sentence = (
        "The fraction of variance unexplained on evaluation documents, which were not trained on, is "
        f"{min(worse):.2f} to {max(worse):.2f} times that on `fit`."
    )
    return str(words.stacked(words.table(headings, cells, Notes()), words.bullets([sentence])))


def blocks(detailed: list[Rows], counted: list[Rows]) -> dict[str, str]:
    """Every block of the page of tables by its name, but for the list of records."""
    content = dict.fromkeys(SECTIONS, NO_TASK)
    if detailed:
        for name, section in SECTIONS.items():
            content[name] = words.stacked(*(section(rows) for rows in detailed), PICTURES.get(name, ""))
    return content | {"overview": overview([*detailed, *counted]), "training": training()}


def report_blocks(results: Path, decisions: str) -> dict[str, str]:
    """Every block of the report by its name, but for that on circuits, which needs values of records.

    Args:
        decisions: the paragraph on pairs of dictionaries.
    """
    records = words.every(results)
    rows = board.board(records)
    found = columns.all_correlations(records)
    first = [
        record
        for record in protocol_1.with_gap(protocol_1.records("resid-15"))
        if protocol_1.is_sparse(record)
    ]
    return {
        "abstract": report.abstract(rows, circuits.ranges(rows.circuits), *columns.largest(found[0])),
        "measured": report.measured(rows),
        "price": report.price(rows, decisions),
        "orders": residual.orders(rows),
        "shape": residual.shape(rows),
        "ratio": residual.ratio(rows, first),
        "bath": residual.bath(rows),
        "lexical": report.lexical(rows),
        "net bits": report.net_bits(rows),
        "flow": flows.overview(flows.read(flows.FLOWS)),
        "columns": columns.said(found),
    }


def circuit_block(results: Path) -> dict[str, str]:
    """The block on circuits."""
    rows = board.board(words.every(results))
    return {"circuits": circuits.said(circuits.spreads(results, rows.circuits))}


def listed(results: Path) -> str:
    """A line for each row that the report is about: what it is of, and the record."""
    rows = board.board(words.every(results))
    cells = [
        [
            *(record.task.id, words.name_of(record)),
            "circuit" if record.is_of_circuits else plots.kind(record)[0],
            f"`{record.record_id[:12]}`",
        ]
        for record in (*rows.sites, *rows.circuits)
    ]
    return str(words.table(("task", "submission", "kind of row", "record"), cells, Notes()))


def first_blocks() -> dict[str, str]:
    """Every block of the page on protocol 1."""
    return {
        name: table.to_markdown(index=False, disable_numparse=True)
        for name, table in protocol_1.tables().items()
    }


def filled_tour(text: str, shown: Sequence[Rows]) -> str:
    """The tour with its tables of default columns as they are now.

    Raises:
        KeyError: it lacks one of them.
    """
    for rows in shown:
        found = re.compile(rf"^{rows.task}, version .*?(?=\n```$)", re.MULTILINE | re.DOTALL)
        if len(found.findall(text)) != 1:
            raise KeyError(f"the tour has no table of {rows.task}")
        table = render(rows.records).strip()
        text = found.sub(lambda _, table=table: table, text)  # type: ignore[misc]
    return text


def give_colours(axes: Axes, rows: Rows) -> None:
    """Another colour for each row: those that come by themselves begin again after ten."""
    axes.set_prop_cycle(color=plt.get_cmap("tab10" if len(rows.records) <= 10 else "tab20").colors)  # type: ignore[attr-defined]


def curves(detailed: Sequence[Rows]) -> Figure:
    """KL against bits: the curve of each interpretation beside transform coding."""
    figure, panels = plt.subplots(
        1, len(detailed), figsize=(5.2 * len(detailed), 4), layout="constrained", squeeze=False, dpi=150
    )
    for axes, rows in zip(panels[0], detailed, strict=True):
        give_colours(axes, rows)
        codings = [(r.submission.name, r.metrics.coding) for r in rows.records if r.metrics.coding]
        reference = codings[0][1].reference
        axes.plot(
            [point.bits.value for point in reference],
            [point.kl.value for point in reference],
            color="#222222",
            ls="--",
            lw=1.2,
            label="transform coding",
        )
        for name, coding in codings:
            points = sorted(coding.points.values(), key=lambda point: point.bits.value or 0)
            at = [point.bits.value for point in points]
            line = axes.plot(at, [point.kl.value for point in points], marker="o", ms=3.5, lw=1, label=name)
            for bits, point in zip(at, points, strict=True):
                axes.plot([bits, bits], [point.kl.low, point.kl.high], color=line[0].get_color(), lw=1)
        axes.set(xscale="symlog", yscale="log", xlabel="bits per token", ylabel="KL (nats per token)")
        axes.set_title(rows.task, fontsize=9, loc="left")
        axes.legend(fontsize=6.5, frameon=False)
    return figure


def explained(detailed: Sequence[Rows]) -> Figure:
    """R² of the nearest neighbour's residual against the number of rows that it is sought among."""
    figure, panels = plt.subplots(
        1, len(detailed), figsize=(6.2 * len(detailed), 3.4), layout="constrained", squeeze=False, dpi=150
    )
    for axes, rows in zip(panels[0], detailed, strict=True):
        give_colours(axes, rows)
        numbers: set[int] = set()
        for record in rows.records:
            fit = (record.calibration.conditional or {}).get("neighbour")
            if fit is None or len(fit.curve) < 2:
                continue
            points = sorted((int(number), share) for number, share in fit.curve.items())
            numbers |= {number for number, _ in points}
            axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1, label=record.submission.name)
        axes.set(xscale="log", xlabel="calibration rows", ylabel="R² of the residual, held out")
        axes.set_xticks(sorted(numbers), [f"{number:,}" for number in sorted(numbers)], fontsize=8)
        axes.minorticks_off()
        axes.set_title(rows.task, fontsize=9, loc="left")
        axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def require_checkout() -> None:
    """Raise RecordError if this script was copied out of the repository, whose pages it writes."""
    for path in (RESULTS, REPORT, PAGE, FIRST_PAGE, README, TOUR, FIGURES):
        if not path.exists():
            raise RecordError(
                f"{path} does not exist; this script writes into the checkout that it lies in",
                fix="run it from a checkout of the repository: python docs/examples/findings.py",
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the findings from the records.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of records")
    parser.add_argument("tasks", nargs="*", help="tasks whose sections are written; none: those of the page")
    given = parser.parse_args(arguments)
    require_checkout()
    detailed = read_tasks(given.results, given.tasks or DETAILED)
    counted = read_tasks(given.results, () if given.tasks else COUNTED)
    tables = blocks(detailed, counted) | {"records": listed(given.results)}
    pages = {
        PAGE: words.filled(PAGE.read_text(encoding="utf-8"), tables),
        FIRST_PAGE: words.filled(FIRST_PAGE.read_text(encoding="utf-8"), first_blocks()),
    }
    if not given.tasks:
        decided = pairs.decisions(given.results, PAIRED)
        pages[README] = words.filled(README.read_text(encoding="utf-8"), {"decisions": decided})
        said = report_blocks(given.results, decided) | circuit_block(given.results)
        pages[REPORT] = words.filled(REPORT.read_text(encoding="utf-8"), said)
        shown = read_tasks(given.results, TOUR_TASKS)
        pages[TOUR] = filled_tour(TOUR.read_text(encoding="utf-8"), shown)
    figures = {"findings-frontier": protocol_1.frontier()}
    if detailed:
        figures |= {"findings-curves": curves(detailed), "findings-neighbour": explained(detailed)}
    if not given.tasks:
        figures |= drawn(given.results)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    for name, figure in figures.items():
        figure.savefig(FIGURES / f"{name}.png")


def drawn(results: Path) -> dict[str, Figure]:
    """The figures of the report by their names."""
    records = words.every(results)
    rows = board.board(records)
    return {
        "findings-perturbativity": plots.perturbativity(rows),
        "findings-ratio": plots.ratio(rows.text),
        "findings-bath": plots.bath(rows.text),
        "findings-lexical": plots.lexical(rows.text),
        "findings-net-bits": plots.net_bits(rows.text),
        "findings-circuits": circuits.figure(circuits.spreads(results, rows.circuits)),
        "findings-columns": columns.figure(columns.all_correlations(records)),
    }


if __name__ == "__main__":
    try:
        main()
    except RecordError as problem:
        raise SystemExit(f"findings: {problem}") from None
