"""Write docs/coarse-graining.md and its figures from the flows, levels and modes that are committed.

    python docs/examples/coarse_graining.py [--flows DIR] [--figures DIR]

Every flow below the folder has a place on the page, by its task: another one is put there by copying it, with
the records of its shells, and running this. So have files of layers. Tables and sentences that state a number
are made here and stand between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.flow import SCALES, Flow, MeasuredFlow
from remainder.record.flow_file import FLOW, flow_alone
from remainder.record.json import write_atomically
from remainder.record.layers import Layers
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import read_summary
from remainder.record.tissues import Summaries
from remainder.report.flow import COLUMNS
from remainder.report.flow_panels import kept_what
from remainder.report.plot_flow import flow_figure
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import coarse_graining_answers as answers
    import coarse_graining_layers as across
    import coarse_graining_levels as levels
    import coarse_graining_tissues as near
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))
    answers = load_script(Path(__file__).with_name("coarse_graining_answers.py"))
    across = load_script(Path(__file__).with_name("coarse_graining_layers.py"))
    levels = load_script(Path(__file__).with_name("coarse_graining_levels.py"))
    near = load_script(Path(__file__).with_name("coarse_graining_tissues.py"))

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ROOT / "leaderboard" / "flows"
PAGE = ROOT / "docs" / "coarse-graining.md"
FIGURES = ROOT / "docs" / "figures"
EXAMPLES = {
    (
        "tiny/wiki",
        "wiki-topk",
        "dynamic",
    ): "The residual stream of a small language model of this project, and a "
    "sparse autoencoder that was trained on it.",
    (
        "tiny/digits",
        "digits-topk-sae-8",
        "dynamic",
    ): "The hidden units of a small network that reads digits, and "
    "a sparse autoencoder that was trained on them.",
}
"""Flows that are read step by step, and what they are of: the first that is there."""

TITLES = {
    "tiny/wiki": "A small language model",
    "tiny/modular-addition": "Addition modulo 113",
    "tiny/digits": "Digits",
    "tiny/induction-circuit": "A circuit of edges",
    "smollm2-135m/resid-15": "SmolLM2-135M, half-way through",
    "smollm2-135m/ioi": "SmolLM2-135M: indirect objects",
}
"""Headings of tasks; others are headed by their ids."""

_SHOWN = (
    "fvu",
    "gap_raw",
    "gap_renormalised_mean",
    "zero",
    "one",
    "sampled",
    "gap_full",
    "gap_permuted",
    "rho_even",
    "rho_odd",
    "perturbativity",
    "kurtosis",
    "alpha",
    "beta",
    "worth",
)
"""Columns of the tables, where some shell has a number; `gap_full` only where there are no orders."""


class Place(NamedTuple):
    """What a flow is of: task, submission, and the order in which sources are kept."""

    task: str
    submission: str
    order: str


def read(folder: Path) -> dict[Place, MeasuredFlow]:
    """All flows below a folder, their shells' hashes verified; by task, `dynamic` and `edges` first.

    `remainder verify` computes the scales again, which this does not.

    Raises:
        RecordError: there is none, one is damaged, a shell is missing, or two are of the same thing.
    """
    found: dict[Place, MeasuredFlow] = {}
    for path in sorted(folder.rglob(f"*{FLOW}")):
        flow = flow_alone(path)
        records = tuple(_shell(path, shell.record) for shell in flow.shells)
        place = Place(flow.task.id, flow.submission.name, flow.order.partition(" ")[0])
        if place in found:
            raise RecordError(f"{path}: there is another flow of {' · '.join(place)}", fix="remove one")
        found[place] = MeasuredFlow(flow, records)
    if not found:
        raise RecordError(f"{folder}: holds no flow", fix="give a folder of results with flows")
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _shell(path: Path, record: str) -> Record:
    found = sorted(path.parent.glob(f"*/{record}.json"))
    if not found:
        raise RecordError(f"{path}: shell {record[:12]}… is missing", fix="copy the folders of its shells")
    return read_summary(found[0])


def _rank(place: Place) -> tuple[int, str, bool, str, str]:
    """Tasks as they are headed, then by name; the order of contributions before all others."""
    headed = list(TITLES)
    at = headed.index(place.task) if place.task in headed else len(headed)
    first = place.order in ("dynamic", "edges", "nodes")
    return at, place.task, not first, place.submission, place.order


# -------------------------------------------------------------------------------------------------- tables


def overview(flows: dict[Place, MeasuredFlow]) -> str:
    """One line a flow: what is kept of what, and the four scales."""
    notes = Notes()
    headings = ("task", "submission", "order", "sources", "shells", *(f"`k_{name}`" for name in SCALES))
    cells = []
    for place, (flow, records) in flows.items():
        documents = records[0].documents.documents
        cells.append(
            [
                place.task,
                f"`{place.submission}`",
                place.order,
                f"{flow.sources:,}",
                f"{len(flow.shells)} of {documents:,} documents",
                *(_verdict(flow, name, notes) for name in SCALES),
            ]
        )
    return str(words.table(headings, cells, notes))


def _verdict(flow: Flow, name: str, notes: Notes) -> str:
    bracket = flow.scales[name]
    return bracket.verdict if bracket.reason is None else "–" + notes.mark(bracket.reason)


def shells(place: Place, measured: MeasuredFlow) -> str:
    """The shells of a flow as a table, a line above it."""
    flow, records = measured
    keys = [key for key in _SHOWN if any(_number(key, record).value is not None for record in records)]
    if "sampled" in keys:
        keys.remove("gap_full")
    notes = Notes()
    cells = [
        [f"{shell.keep:,}", *(_cell(notes, _number(key, record)) for key in keys)]
        for shell, record in zip(flow.shells, records, strict=True)
    ]
    table = words.table(["kept", *(COLUMNS[key].heading for key in keys)], cells, notes)
    first = records[0].documents
    said = (
        f"`{place.submission}`, {kept_what(flow)}, of {flow.sources:,}; {first.tokens:,} scored tokens of "
        f"{first.documents:,} documents:"
    )
    return f"{said}\n\n{table}"


def _number(key: str, record: Record) -> Number:
    return COLUMNS[key].of(record)


def _cell(notes: Notes, number: Number) -> str:
    return str(notes.value(number))


def by_task(flows: dict[Place, MeasuredFlow]) -> str:
    """A section for each task: its figure, and the tables and scales of its flows."""
    parts = []
    for task in dict.fromkeys(place.task for place in flows):
        own = {place: measured for place, measured in flows.items() if place.task == task}
        lead = next(iter(own))
        parts.append(f"### {TITLES[task]} ({task})" if task in TITLES else f"### {task}")
        parts.append(answers.bullets(_said(place, measured) for place, measured in own.items()))
        if lead != example_of(flows):  # that one stands above
            parts.append(_image(lead))
        parts += [shells(place, measured) for place, measured in own.items()]
    return str(words.stacked(*parts))


def _said(place: Place, measured: MeasuredFlow) -> str:
    """The scales of a flow in a sentence, and how far the loss falls."""
    flow, records = measured
    first, last = records[0], records[-1]
    gaps = [format_value(record.metrics.rungs["raw"].quenched.gap.value or 0.0) for record in (first, last)]
    scales = "; ".join(f"`k_{name}` {_in_words(flow, name)}" for name in SCALES)
    return (
        f"`{place.submission}`, {place.order}: left out, the bath costs {gaps[0]} nats a token with "
        f"{flow.shells[0].keep} kept and {gaps[1]} with {flow.shells[-1].keep:,}. {scales}."
    )


def _in_words(flow: Flow, name: str) -> str:
    bracket = flow.scales[name]
    if bracket.reason is not None:
        return f"was not looked for ({bracket.reason})"
    if bracket.high is None:
        return "is not reached" if bracket.low is None else f"is undecided, and {bracket.low:,} at least"
    return f"is {bracket.verdict}"


# ------------------------------------------------------------------------------------------- one flow, read


def example_of(flows: Mapping[Place, MeasuredFlow]) -> Place:
    """The flow that is read step by step.

    Raises:
        RecordError: none of them is there.
    """
    for example in EXAMPLES:
        if example in flows:
            return Place(*example)
    raise RecordError("there is no flow to read step by step", fix="measure one of EXAMPLES")


def example(flows: dict[Place, MeasuredFlow]) -> str:
    """The example step by step, every number from its records.

    Raises:
        RecordError: it is not there.
    """
    place = example_of(flows)
    flow, records = flows[place]
    none, some, whole = records[0], records[len(records) // 2], records[-1]
    kept = flow.shells[len(records) // 2].keep
    raw = [in_words(_number("gap_raw", record)) for record in (none, some, whole)]
    told = in_words(_number("gap_renormalised_mean", some))
    zero, one, sampled = (in_words(_number(key, some)) for key in ("zero", "one", "sampled"))
    left = [f"{100 * (_number('fvu', record).value or 0.0):.0f} %" for record in (some, whole)]
    permuted, gaussian = (in_words(_number(key, some)) for key in ("gap_permuted", "gap_full"))
    steps = str(
        words.bullets(
            [
                f"**What is kept.** At each token `{place.submission}` has up to {flow.sources} latents. "
                f"With all of them {left[1]} of the activation's variance is left over, and leaving that out "
                f"costs {raw[2]} nats a token; with none of them, where the mean activation stands for all, "
                f"{raw[0]}.",
                f"**What the bath costs.** With the {kept} largest contributions kept, the bath holds "
                f"{left[0]} of the variance. Left out it costs {raw[1]}; with what the kept codes tell "
                f"linearly of it put in its place, {told}.",
                f"**As noise.** With the bath's mean in its place the loss is {zero} above the clean one. A "
                f"Gaussian of its covariance beside that makes it {sampled}; the first order in the noise, "
                f"half the curvature of the loss times the covariance, says {one}.",
                f"**As real rows.** The bath of some other token costs {permuted}, a Gaussian of equal "
                f"covariance {gaussian}. Where the two agree, the network minds the bath's size, and not "
                "its shape.",
                _own_place(flow, records),
            ]
        )
    )
    intro = f"{EXAMPLES[tuple(place)]} At every token the latents with the largest contributions are kept."
    return str(words.stacked(intro, steps, _image(place)))


def _image(place: Place) -> str:
    return (
        f"![The flow of {place.submission} on {place.task}: cost of the bath, parts of the gap, ratios and "
        f"orders, shell by shell](figures/{figure_name(place)})"
    )


def _own_place(flow: Flow, records: Sequence[Record]) -> str:
    """The sentence on ρ even: its ends, on which side of 1 they lie, and whether it falls."""
    near, far = (_number("rho_even", record) for record in (records[-1], records[1]))
    said = (
        f"**In its own place.** The bath as it is does {in_words(far)} times the harm of such noise with "
        f"{flow.shells[1].keep} kept, and {in_words(near)} times with {flow.shells[-1].keep} (ρ even)"
    )
    sides = {words.side(number, 1, 1) for number in (near, far)}
    if sides == {"above"}:
        said += ": it lies in directions that the network reads"
        if near.high is not None and far.low is not None and near.high < far.low:
            said += ", more so the less is kept"
    return f"{said}."


def figure_name(place: Place) -> str:
    """The file of a flow's figure."""
    return "flow-" + re.sub(r"[^a-z0-9]+", "-", f"{place.task}-{place.submission}") + ".png"


def draw(flows: dict[Place, MeasuredFlow], chains: Mapping[str, Layers], folder: Path) -> list[Path]:
    """The figure of the first flow of each task, and of each chain of layers."""
    leads: dict[str, Place] = {}
    for place in flows:
        leads.setdefault(place.task, place)
    paths = []
    for place in leads.values():
        paths.append(folder / figure_name(place))
        flow, records = flows[place]
        write_atomically(paths[-1], _png(flow_figure(flow, records), drawn_of(flow)))
    for name, figure, drawn in across.figures(chains):
        paths.append(folder / name)
        write_atomically(paths[-1], _png(figure, drawn))
    return paths


def drawn_of(flow: Flow) -> str:
    """What a figure says of itself in its metadata: the records that it was drawn from."""
    return " ".join(shell.record for shell in flow.shells)


def _png(figure: Figure, comment: str) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Comment": comment})
    return data.getvalue()


def blocks(
    flows: dict[Place, MeasuredFlow],
    chains: Mapping[str, Layers],
    over: levels.Committed,
    tissues: Mapping[str, Summaries],
) -> dict[str, str]:
    """Every block of the page by its name.

    Args:
        over: levels over each other, and modes.
    """
    return {
        "example": example(flows),
        "overview": overview(flows),
        "flows": by_task(flows),
        **answers.blocks(flows),
        **across.blocks(chains),
        **levels.blocks(over),
        **near.blocks(tissues),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the page on flows from those that are committed.")
    parser.add_argument("--flows", type=Path, default=FLOWS, help="folder of results with flows")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the figures")
    given = parser.parse_args(arguments)
    flows, chains = read(given.flows), across.read(given.flows)
    over, tissues = levels.read(given.flows, list(TITLES)), near.read(given.flows)
    page = words.filled(PAGE.read_text(encoding="utf-8"), blocks(flows, chains, over, tissues))
    drawn = draw(flows, chains, given.figures)
    for name, (figure, drawn_from) in levels.figures(over).items():
        drawn.append(given.figures / name)
        write_atomically(drawn[-1], _png(figure, drawn_from))
    for name, figure, drawn_from in near.figures(tissues):
        drawn.append(given.figures / name)
        write_atomically(drawn[-1], _png(figure, drawn_from))
    PAGE.write_text(page, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {len(drawn)} figure(s)")


if __name__ == "__main__":
    try:
        main()
    except RecordError as problem:
        raise SystemExit(f"coarse graining: {problem}") from None
