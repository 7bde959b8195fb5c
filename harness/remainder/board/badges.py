"""Badges: the score of a row for the README of whoever made it, as SVG and for shields.io.

`badges/TASK.SUBMISSION.svg` is drawn here; the file `.json` beside it is what shields.io calls an endpoint
(https://shields.io/badges/endpoint-badge). Both follow the current row, and have its efficiency and its best
place. Names that no submission could have get none.
"""

from __future__ import annotations

import json
from pathlib import Path

from markupsafe import Markup

from remainder.board.text import oddities, visible
from remainder.board.view import Board, TableRow

__all__ = ["badge_name", "write_badges"]

_LETTER, _ROOM = 6.3, 12.0  # pixels of a letter of 11 pixels, about, and beside a text
_BLUE = "0072b2"


def badge_name(row: TableRow) -> str:
    """The path of a row's badge below the site, without its ending; empty if it has none."""
    record = row.entry.record
    names = record.task.id, record.submission.name
    if row.entry.is_reference or row.entry.failed or any(map(oddities, names)) or not _message(row):
        return ""
    return f"badges/{names[0].replace('/', '.')}.{names[1].replace('/', '.')}"


def write_badges(board: Board, site: Path) -> None:
    """Write the badges of a table's rows into the site."""
    for row in board.rows:
        if name := badge_name(row):
            label, message = f"remainder {row.entry.record.task.id}", _message(row)
            endpoint = {"schemaVersion": 1, "label": label, "message": message, "color": _BLUE}
            target = site / name
            target.parent.mkdir(exist_ok=True)
            target.with_name(f"{target.name}.svg").write_text(_svg(label, message), encoding="utf-8")
            text = json.dumps(endpoint, ensure_ascii=False) + "\n"
            target.with_name(f"{target.name}.json").write_text(text, encoding="utf-8")


def _message(row: TableRow) -> str:
    """Efficiency and best place; empty without either."""
    efficiency = row.cells["efficiency"]
    parts = [f"efficiency {efficiency.value}"] if efficiency.order else []
    if best := row.best:
        parts.append(f"place {best.place.text} of {best.place.of} at R₀/{best.budget.partition('/')[2]}")
    return ", ".join(parts)


_SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{says}">
<title>{says}</title>
<rect width="{total}" height="20" rx="3" fill="#3d444d"/>
<rect x="{left}" width="{right}" height="20" rx="3" fill="#{blue}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{texts}</g>
</svg>
"""


def _svg(label: str, message: str) -> str:
    left, right = (_LETTER * len(text) + _ROOM for text in (label, message))
    texts = Markup("").join(
        Markup('<text x="{}" y="14" textLength="{}">{}</text>').format(
            f"{start + width / 2:.1f}", f"{width - _ROOM:.1f}", visible(text)
        )
        for start, width, text in ((0.0, left, label), (left, right, message))
    )
    return Markup(_SVG).format(
        total=f"{left + right:.1f}",
        left=f"{left:.1f}",
        right=f"{right:.1f}",
        says=f"{visible(label)}: {visible(message)}",
        blue=_BLUE,
        texts=texts,
    )
