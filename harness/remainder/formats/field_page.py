"""The part of docs/score-your-sae.md that lists fields, written from the readers' own tables.

    python -m remainder.formats.field_page

writes it anew, between two marks in the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from remainder.base.files import read_text
from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.formats import (
    attribution_graph,
    circuit_tracer,
    dictionary_learning,
    eap_ig_fields,
    gemma_scope,
    saelens_fields,
    sparsify,
)
from remainder.formats.known import Table

__all__ = ["BEGIN", "END", "PAGE", "SECTIONS", "FieldSection", "main", "page_with", "render"]

BEGIN = "<!-- fields: written by `python -m remainder.formats.field_page`; do not edit -->"
END = "<!-- end of fields -->"
PAGE = "docs/score-your-sae.md"


class FieldSection(NamedTuple):
    """A file, or part of one, and what is known of it."""

    title: str
    table: Table


def _architectures() -> Iterator[FieldSection]:
    """One section for all architectures that have the same fields of their own."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, lines in saelens_fields.ARCHITECTURES.items():
        if lines:
            groups.setdefault(tuple(lines), []).append(name)
    for names in groups.values():
        lines = saelens_fields.ARCHITECTURES[names[0]]
        yield FieldSection(f"SAELens `cfg.json`, only of the architecture {' or '.join(names)}", Table(lines))


SECTIONS: tuple[FieldSection, ...] = (
    FieldSection(
        "SAELens `cfg.json`, and configs of sae-lens's list of releases", Table(saelens_fields.COMMON)
    ),
    FieldSection("a release of sae-lens's list, beside these", Table(saelens_fields.RELEASE)),
    *_architectures(),
    FieldSection("`cfg` of an object, such as a custom SAE of SAEBench", saelens_fields.OBJECT),
    FieldSection("dictionary_learning `config.json`", dictionary_learning.FIELDS),
    FieldSection("sparsify `cfg.json`", sparsify.FIELDS),
    FieldSection("sparsify `config.json` of the run, one folder up", sparsify.RUN_FIELDS),
    FieldSection("circuit-tracer `config.yaml`", circuit_tracer.FIELDS),
    FieldSection("circuit-tracer, an entry of `transcoders`", circuit_tracer.ENTRY),
    FieldSection("Gemma Scope, arrays of `params.npz`", gemma_scope.FIELDS),
    FieldSection("EAP-IG and MIB, `.json`", eap_ig_fields.JSON),
    FieldSection("EAP-IG and MIB, `.pt`", eap_ig_fields.PT),
    FieldSection("circuit-tracer and Neuronpedia, a graph", attribution_graph.FIELDS),
)  # fmt: skip
"""Sections in the order of the page."""


def render() -> str:
    """The part of the page, with its two marks."""
    parts, shown = [BEGIN, ""], dict[int, str]()
    for section in SECTIONS:
        parts += [f"**{section.title}**", "", *_table(section.table, "", shown), ""]
    return "\n".join([*parts, END])


def _table(table: Table, within: str, shown: dict[int, str]) -> Iterator[str]:
    """Heeded fields one a row, harmless ones by reason, and what becomes of all others; then of blocks.

    Args:
        table: of the file or block.
        within: the block.
        shown: names of the blocks whose tables stand in the page already.
    """
    if within:
        yield f"Fields of `{within}`:"
        yield ""
    heeded = {name: line for name, line in table.lines.items() if line.how == "heeded"}
    if heeded:
        yield "| heeded | |"
        yield "|---|---|"
        for name, line in heeded.items():
            yield f"| `{name}` | {line.what}{'; can be ignored' if line.ignorable else ''} |"
        yield ""
    reasons: dict[str, list[str]] = {}
    for name, line in table.lines.items():
        if line.how == "harmless":
            reasons.setdefault(line.what, []).append(f"`{name}`")
    for why, names in reasons.items():
        yield f"- harmless ({why}): {', '.join(names)}"
    rest = "refused by name"
    if table.rest is not None:
        rest = ("harmless" if table.rest.how == "harmless" else "named in a warning") + f" ({table.rest.why})"
    yield f"- every other field: {rest}"
    for name, line in heeded.items():
        if line.within is None:
            continue
        full = f"{within}.{name}" if within else name
        yield ""
        if id(line.within) in shown:
            yield f"Fields of `{full}`: those that are listed above for `{shown[id(line.within)]}`."
        else:
            shown[id(line.within)] = full
            yield from _table(line.within, full, shown)


def page_with(text: str, part: str) -> str:
    """The page with this part in place of the one between the marks.

    Raises:
        RecordError: the page has not both marks.
    """
    before, begin, after = text.partition(BEGIN)
    _, end, behind = after.partition(END)
    if not begin or not end:
        raise RecordError(f"{PAGE} has not both marks of the list of fields", fix=f"write {BEGIN} and {END}")
    return before + part + behind


def main() -> int:
    """Write the page."""
    path = Path(project_root()) / PAGE
    path.write_text(page_with(read_text(path, "Markdown"), render()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
