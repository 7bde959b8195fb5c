"""Records as tables for people: rich for a terminal of 80 columns, Markdown, LaTeX, CSV and JSON.

Rows are ordered by bits per token, fewest first: no score says anything without its complexity, and read
downward the table shows what each further bit buys. Records of different tasks, tiers or texts get tables of
their own.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from remainder.errors import RecordError
from remainder.record.naming import told_apart
from remainder.record.number import Number
from remainder.record.schema import CircuitSize, Record

__all__ = [
    "FORMATS",
    "MISSING",
    "WIDTH",
    "Notes",
    "draw",
    "format_interval",
    "format_value",
    "number_of",
    "render",
    "render_cells",
    "render_frame",
    "require_format",
    "rows",
    "troubles",
]

FORMATS = ("table", "markdown", "csv", "json", "latex")
WIDTH = 80
_NAME_WIDTH = 24
_DUST = 1e-9  # what is smaller is left by sums of numbers kept to nine digits
MISSING = "–"

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEGEND = (
    "Δ: loss with the interpretation in place minus clean loss, nats per token.",
    "Raw: what is left out is zero. Gaussian: it is noise of equal mean, covariance.",
    "ρ: KL of raw over KL of equally large, equally correlated noise; near 1: noise.",
    "L0: active codes per token. Bits: per token, to write the codes; fewest first.",
    "Brackets: 95 % intervals, bootstrap over documents.",
)


_CIRCUIT_LEGEND = (
    "Δ: loss of the circuit minus clean loss, nats per scored token.",
    "Raw: removed edges carry their mean at each position. Gaussian: noise of equal",
    "mean and covariance, shared by all edges of a writer.",
    "ρ: KL of raw over KL of such noise around the clean values; near 1: noise.",
    "Bits: log₂ of the number of circuits with as many edges; fewest first.",
    "f: share of the answer (log-odds) that is kept, counterfactual background.",
    "CPR: area under f over sizes (MIB); above 1, more than the model's own answer.",
    "CMD: area under |1 − f| over sizes (MIB); 0 is best.",
    "Brackets: 95 % intervals, bootstrap over prompts.",
)


@dataclass(frozen=True)
class _Quantity:
    """One number of a record: its key in data formats, its heading for people, and where it is."""

    key: str
    heading: str
    get: Callable[[Record], Number]


def _on_rung(rung: str, name: str) -> Callable[[Record], Number]:
    def get(record: Record) -> Number:
        metrics = record.metrics.rungs.get(rung)
        if metrics is None:
            return Number.null(f"rung {rung} was not measured")
        number: Number = getattr(metrics.quenched, name)
        return number

    return get


def _circuit(record: Record) -> CircuitSize | None:
    """Of the circuit that the headline numbers are of; None for other interpretations."""
    circuits = record.complexity.circuits
    return None if circuits is None else circuits.get("headline")


def _keeps_nodes(record: Record) -> bool:
    """Whether it is of circuits of features."""
    circuit = _circuit(record)
    return circuit is not None and circuit.edges is None


def _l0(record: Record) -> Number:
    circuit = _circuit(record)
    return (
        record.complexity.l0 if circuit is None else Number.bare(circuit.kept, "a count of edges, or nodes")
    )


def _bits(record: Record) -> Number:
    circuit = _circuit(record)
    if circuit is None:
        return record.complexity.bits_per_token
    return Number.bare(circuit.bits, "bits of a circuit, once")


_QUANTITIES = (
    _Quantity("l0", "L0", _l0),
    _Quantity("bits_per_token", "Bits", _bits),
    _Quantity(
        "explained_variance", "Expl. var.", lambda record: record.metrics.reconstruction.explained_variance
    ),
    _Quantity("gap_raw", "Δ raw", _on_rung("raw", "gap")),
    _Quantity("gap_gaussian", "Δ Gaussian", _on_rung("full", "gap")),
    _Quantity("kl_raw", "KL raw", _on_rung("raw", "kl")),
    _Quantity("kl_gaussian", "KL Gaussian", _on_rung("full", "kl")),
    _Quantity("gaussian_ratio", "ρ", lambda record: record.metrics.gaussian_ratio.fitted),
)
_BY_KEY = {quantity.key: quantity for quantity in _QUANTITIES}
_OF_CIRCUITS = {"l0": "Edges"}
"""Headings that are others in a table of circuits."""
_KEPT = "Kept"
"""In place of `Edges`, where there are circuits of features, which keep nodes."""
_FEATURE_LEGEND = (
    "Kept: edges; or nodes, latents and errors of SAEs at each position, which carry",
    "the same backgrounds where they are removed. Bits: of as many edges, or nodes.",
    "errors-…: the mean, but all errors are kept, or carry a mean or a Gaussian.",
)
_NO_F = "background counterfactual was not measured"
_COSTS = ("l0", "bits_per_token")
_AT_A_GLANCE = ("gap_raw", "gap_gaussian", "gaussian_ratio")


def number_of(record: Record, key: str) -> Number:
    """The number that `rows` has in column `key`, with its interval and reason."""
    return _BY_KEY[key].get(record)


def rows(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record, by task and then by bits per token; every number with `_low` and `_high` columns.

    Losses, gaps and KL are nats per scored token, bits are per token. Missing numbers are NaN in the frame.
    """
    table = []
    for record in sorted(records, key=lambda record: (_group_key(record), _order(record))):
        row: dict[str, str | float] = {
            "task": record.task.id,
            "version": record.task.version,
            "tier": record.tier,
            "submission": record.submission.name,
            "kind": record.submission.kind,
            "reference": "" if record.reference is None else record.reference.name,
            "features": math.nan if record.complexity.features is None else record.complexity.features,
        }
        for quantity in _QUANTITIES:
            number = quantity.get(record)
            for suffix, part in (("", number.value), ("_low", number.low), ("_high", number.high)):
                row[quantity.key + suffix] = math.nan if part is None else part
        row["failed_checks"] = " ".join(_failed(record))
        row["record_id"] = record.record_id
        table.append(row)
    frame: pd.DataFrame = pd.DataFrame(table)
    return frame


def render(
    records: Iterable[Record],
    format: str = "table",
    *,
    width: int = WIDTH,
    color: bool = False,
    told: set[str] | None = None,
) -> str:
    """The records as text.

    Args:
        format: one of `FORMATS`.
        width: columns of the terminal; `table` only.
        color: whether to style for a terminal; `table` only.
        told: what has been said under tables above this one. Legends, and notes on reference rows or on every
            row, are left out if they are among it, and are added to it; `table` only.

    Raises:
        RecordError: there is no record, or no such format.
    """
    require_format(format)
    records = list(records)
    if not records:
        raise RecordError(
            "there is no record to show", fix="run a task first, or name the records' .json files"
        )
    if format in ("csv", "json"):
        return render_frame(rows(records), format)
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in sorted(records, key=lambda record: (_group_key(record), _order(record))):
        groups.setdefault(_group_key(record), []).append(record)
    groups = {key: told_apart(group) for key, group in groups.items()}
    if format == "table":
        said = set() if told is None else told
        return draw([_glance(group, said) for group in groups.values()], width=width, color=color)
    return "\n".join(_written(group, format) for group in groups.values())


@dataclass
class Notes:
    """Footnotes of a table: each reason once, with the mark that points to it."""

    reasons: list[str] = field(default_factory=list)

    def mark(self, reason: str | None) -> str:
        """Superscript that points to `reason`; empty without one."""
        if reason is None:
            return ""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return str(self.reasons.index(reason) + 1).translate(_SUPERSCRIPTS)

    def lines(self) -> list[str]:
        """One line per footnote."""
        return [f"{self.mark(reason)} {reason}" for reason in self.reasons]

    def cell(self, number: Number) -> str:
        """`value [low, high]`; what is missing is a dash with its footnote."""
        if number.value is None:
            return MISSING + self.mark(number.reason)
        interval = format_interval(number)
        shown = format_value(number.value, _spread(number))
        return shown + self.mark(number.reason) if interval is None else f"{shown} {interval}"

    def stacked(self, number: Number) -> Text:
        """The value, and its interval dimmed below it."""
        if number.value is None:
            return Text(MISSING + self.mark(number.reason))
        interval = format_interval(number, short=True)
        below = MISSING + self.mark(number.reason) if interval is None else interval
        return Text.assemble((format_value(number.value, _spread(number)), "bold"), "\n", (below, "dim"))


def format_value(value: float, spread: float = 0.0) -> str:
    """Three decimals, fewer for large numbers, more if the half-width `spread` of its interval asks for them.

    What would look like zero and is not is written as a power of ten.
    """
    return _with_decimals(value, _decimals(value, spread))


def format_interval(number: Number, *, short: bool = False) -> str | None:
    """`[low, high]` with the decimals of the value, `short` without leading zeros; None if there is none."""
    if number.value is None or number.low is None or number.high is None:
        return None
    decimals = _decimals(number.value, _spread(number))
    low, high = (_with_decimals(bound, decimals) for bound in (number.low, number.high))
    if short:
        return f"[{_no_zero(low)},{_no_zero(high)}]"
    return f"[{low}, {high}]"


def require_format(format: str) -> None:
    """Raise RecordError unless `format` is one of `FORMATS`."""
    if format not in FORMATS:
        raise RecordError(f"there is no format {format!r}", fix=f"use one of {', '.join(FORMATS)}")


def render_frame(frame: pd.DataFrame, format: str) -> str:
    """A frame as `csv`, or as `json` (a list of rows; NaN is null)."""
    if format == "csv":
        text: str = frame.to_csv(index=False, lineterminator="\n")
        return text
    content = [
        {
            str(name): None if isinstance(cell, float) and math.isnan(cell) else cell
            for name, cell in row.items()
        }
        for row in frame.astype(object).to_dict("records")
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def render_cells(
    headings: Sequence[str], cells: Sequence[Sequence[str]], format: str, *, title: str, notes: Sequence[str]
) -> str:
    """Ready cells as `markdown` or `latex`, the title above and the notes below."""
    align = ["left", *["right"] * (len(headings) - 1)]
    if format == "markdown":
        table = tabulate(
            [[cell.replace("|", "\\|") for cell in row] for row in cells],
            headers=headings,
            tablefmt="github",
            disable_numparse=True,
            colalign=align,
        )
        return f"**{title}**\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    table = tabulate(
        cells, headers=headings, tablefmt="latex_booktabs", disable_numparse=True, colalign=align
    )
    commented = "\n".join(f"% {line}" for line in [title, *notes])
    return f"{commented}\n{_to_latex(table)}\n"


def draw(renderables: Sequence[RenderableType], *, width: int = WIDTH, color: bool = False) -> str:
    """Rich renderables as text of `width` columns."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(Group(*renderables))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _glance(records: Sequence[Record], told: set[str]) -> RenderableType:
    """The table for a terminal: one record in two lines, intervals below the values."""
    notes = Notes()
    circuits = records[0].metrics.circuit is not None
    features = any(_keeps_nodes(record) for record in records)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0))
    table.add_column("Submission", overflow="fold", max_width=_NAME_WIDTH)
    shown = _short_names(records)
    for key in (*_COSTS, *_AT_A_GLANCE):
        heading = _BY_KEY[key].heading
        if circuits:
            heading = _KEPT if features and key == "l0" else _OF_CIRCUITS.get(key, heading)
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            Text(shown[record.submission.name]),
            *(_plain(number_of(record, key), notes, count=circuits and key == "l0") for key in _COSTS),
            *(notes.stacked(number_of(record, key)) for key in _AT_A_GLANCE),
        )
    warned = [Text(line, style="red") for line in troubles(records, told)]
    over_sizes: list[RenderableType] = [faithfulness_table(records, notes), ""] if circuits else []
    if any(_other_backgrounds(record) for record in records):
        over_sizes += [backgrounds_table(records, notes), ""]
    known = (*_CIRCUIT_LEGEND, *(_FEATURE_LEGEND if features else ())) if circuits else _LEGEND
    below = [*notes.lines(), *_once("\n".join(known), told).splitlines()]
    footer = [Text(line, style="dim") for line in below]
    return Group(Text(_title(records), style="bold"), "", table, "", *over_sizes, *warned, *footer)


def _short_names(records: Sequence[Record]) -> dict[str, str]:
    """Names as a column has room for them: of a long one both ends, unless two would look the same."""
    room = _NAME_WIDTH - 1
    names = {record.submission.name for record in records}
    cut = {
        name: f"{name[: -(-room // 2)]}…{name[-(room // 2) :]}" if len(name) > _NAME_WIDTH else name
        for name in names
    }
    alike = Counter(cut.values())
    return {name: short if alike[short] == 1 else name for name, short in cut.items()}


def faithfulness_table(records: Sequence[Record], notes: Notes) -> Table:
    """What MIB reports of circuits: areas over all sizes, and f of the circuit in the table above."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0))
    table.add_column("Submission", overflow="fold", max_width=_NAME_WIDTH)
    shown = _short_names(records)
    for heading in ("f", "CPR", "CMD", "CMD Gaussian"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        circuit = record.metrics.circuit
        assert circuit is not None
        headline = circuit.points["headline"].rungs
        single = len(circuit.points) < _SEVERAL
        missing = "a single circuit has no area over sizes" if single else "not measured at all sizes"
        if _keeps_nodes(record):
            missing = "thresholds are no shares of a graph: there is no area"
        measured = headline.get("counterfactual")
        f = Number.null(_NO_F) if measured is None else measured.faithfulness
        areas = [
            of.get(name, Number.null(missing))
            for of, name in (
                (circuit.cpr, "counterfactual"),
                (circuit.cmd, "counterfactual"),
                (circuit.cmd, "full"),
            )
        ]
        cells = [notes.stacked(number) for number in (f, *areas)]
        table.add_row(Text(shown[record.submission.name]), *cells)
    return table


_SEVERAL = 3  # points: the empty circuit, the headline, and others


def _other_backgrounds(record: Record) -> list[str]:
    """Of circuits, backgrounds that no column of the tables has."""
    if record.metrics.circuit is None:
        return []
    shown = ("raw", "full", "permuted", "counterfactual", "noise-fitted")
    return [name for name in record.metrics.circuit.points["headline"].rungs if name not in shown]


def backgrounds_table(records: Sequence[Record], notes: Notes) -> Table:
    """Circuits with backgrounds that were asked for, a line each."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Submission", overflow="fold", max_width=_NAME_WIDTH)
    shown = _short_names(records)
    table.add_column("Background", overflow="fold", max_width=28)
    for heading in ("Δ", "f"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        assert record.metrics.circuit is not None
        rungs = record.metrics.circuit.points["headline"].rungs
        for name in _other_backgrounds(record):
            numbers = [notes.stacked(number) for number in (rungs[name].gap, rungs[name].faithfulness)]
            table.add_row(Text(shown[record.submission.name]), Text(name), *numbers)
    return table


def _plain(number: Number, notes: Notes, *, count: bool = False) -> Text:
    """A value alone; a footnote only where it is missing."""
    if count and number.value is not None:
        return Text(f"{number.value:,.0f}")
    return Text(MISSING + notes.mark(number.reason) if number.value is None else format_value(number.value))


def _written(records: Sequence[Record], format: str) -> str:
    """The table for a document: every quantity, interval beside the value."""
    notes = Notes()
    headings = ["Submission", *(quantity.heading for quantity in _QUANTITIES)]
    cells = [
        [record.submission.name, *(notes.cell(quantity.get(record)) for quantity in _QUANTITIES)]
        for record in records
    ]
    below = [*notes.lines(), *troubles(records), *_LEGEND]
    return render_cells(headings, cells, format, title=_title(records), notes=below)


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    losses = [record.metrics.clean.loss.value for record in records]
    shown = sorted({format_value(loss) for loss in losses if loss is not None})
    clean = " to ".join([shown[0], shown[-1]] if len(shown) > 1 else shown)
    standing = "" if first.reference is None else f" (of {first.reference.name}, which stands for the model)"
    return (
        f"{first.task.id}, version {first.task.version}, tier {first.tier}: "
        f"{first.documents.tokens:,} scored tokens of {first.documents.documents:,} documents, "
        f"clean loss {clean} nats" + standing
    )


def _once(text: str, told: set[str]) -> str:
    """The text, or nothing if it was told before."""
    if text in told:
        return ""
    told.add(text)
    return text


def troubles(records: Iterable[Record], told: set[str] | None = None) -> list[str]:
    """Failed checks and warnings, one line each; what is said of several records is said once.

    Args:
        told: warnings of reference rows, or of every row, that were given above; more are added.
    """
    records, told = list(records), set() if told is None else told
    lines: list[str] = []
    said: dict[str, list[Record]] = {}
    for record in records:
        name = record.submission.name
        for check in _failed(record):
            found = record.checks[check]
            numbers = [
                f"{label} {number:.3g}"
                for label, number in (("value", found.value), ("limit", found.limit))
                if number is not None
            ]
            detail = ", ".join([*numbers, *([found.note] if found.note else [])])
            lines.append(f"✗ {name}: check {check} failed" + (f" ({detail})" if detail else ""))
        for warning in record.warnings:
            said.setdefault(warning, []).append(record)
    for warning, those in said.items():
        everywhere = 1 < len(records) == len(those)
        known = warning in told
        shown = [one for one in those if not (known and (everywhere or _is_reference(one)))]
        if everywhere or any(map(_is_reference, those)):
            told.add(warning)
        if shown:
            names = "" if everywhere else ", ".join(one.submission.name for one in shown) + ": "
            lines.append(f"! {names}{warning}")
    return lines


def _is_reference(record: Record) -> bool:
    """Whether it is of an interpretation that every task carries: one that consists of no files."""
    return record.submission.kind == "reconstruction" and not record.submission.files


def _failed(record: Record) -> list[str]:
    return [name for name, check in record.checks.items() if not check.passed]


def _group_key(record: Record) -> tuple[str, ...]:
    """What must be equal for two records to stand in one table."""
    return (
        record.task.id,
        record.task.version,
        record.tier,
        record.task.hash,
        str(record.documents.tokens),
        "" if record.reference is None else record.reference.hash,
    )


def _order(record: Record) -> tuple[float, float, str, str]:
    """By bits, then L0 where bits are missing or equal, then name."""
    bits, l0 = number_of(record, "bits_per_token").value, number_of(record, "l0").value
    return (
        math.inf if bits is None else bits,
        math.inf if l0 is None else l0,
        record.submission.name,
        record.record_id,
    )


def _decimals(value: float, spread: float) -> int | None:
    """Decimals for `value` with an interval of half-width `spread`; None stands for scientific notation."""
    size = max(abs(value), spread)
    if size < _DUST:
        return 3
    if 0 < size < 0.0005:
        return None
    decimals = 3 - sum(size >= limit for limit in (1, 10, 1000))
    while 0 < spread * 10**decimals < 2 and decimals < 4:
        decimals += 1
    return decimals


def _spread(number: Number) -> float:
    """Half the width of the interval; 0 without one."""
    return 0.0 if number.low is None or number.high is None else (number.high - number.low) / 2


def _with_decimals(value: float, decimals: int | None) -> str:
    if decimals is None:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}" if value else "0"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _no_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _to_latex(table: str) -> str:
    for sign, command in (("Δ", r"$\Delta$"), ("ρ", r"$\rho$"), (MISSING, "--")):
        table = table.replace(sign, command)
    for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹"):
        table = table.replace(sign, rf"\textsuperscript{{{digit}}}")
    return table
