"""Records as HTML for the output of a notebook's cell.

Everything is escaped by the templates (autoescape is on). No colours are set: text and lines take those of
the notebook, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from remainder.record.flow import Flow
from remainder.record.schema import Record
from remainder.report.explain import explained
from remainder.report.flow import title_of
from remainder.report.flow_tables import scale_lines, tables_of_flow
from remainder.report.tables import glances
from remainder.report.text import Cells, in_words

__all__ = ["cells_html", "explanation_html", "flow_html", "tables_html"]

_TABLE = """
{%- macro table(cells, words) -%}
<p><b>{{ cells.title }}</b></p>
<table><thead><tr>
{%- for heading in cells.headings %}<th style="{{ side(loop.index0 >= words) }}">{{ heading }}</th>
{%- endfor %}</tr></thead><tbody>
{%- for row in cells.rows %}<tr>
{%- for cell in row %}<td style="{{ side(loop.index0 >= words) }}">{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}</tbody></table>
{{ lines(cells.notes) }}
{%- endmacro -%}
{%- macro side(right) -%}padding:2px .6em;text-align:{{ "right" if right else "left" }}{%- endmacro -%}
{%- macro lines(texts) -%}
{%- if texts %}<div style="font-size:85%;opacity:.8;max-width:60em">
{%- for text in texts %}<div>{{ text }}</div>{% endfor %}</div>{% endif %}
{%- endmacro -%}
"""
_TEMPLATES = {
    "tables": _TABLE + "{% for cells in tables %}{{ table(cells, 1) }}{% endfor %}",
    "flow": _TABLE
    + """<p><b>{{ title }}</b></p>
{%- for one in tables %}{{ table(one, 0) }}{% endfor %}
<table><tbody>
{%- for line in scales %}<tr>
{%- for cell in line %}<td style="{{ side(false) }}">{{ cell }}</td>{% endfor %}</tr>{% endfor -%}
</tbody></table>""",
    "explanation": _TABLE
    + """{{ table(explained.table, 2) }}
{%- for section in explained.sections %}
<p><b>{{ section.heading }}</b></p>
{%- for line in section.body %}
{%- if line is string %}<div style="max-width:60em">{{ line }}</div>
{%- else %}
{%- if loop.first or section.body[loop.index0 - 1] is string %}<table><tbody>{% endif %}<tr>
{%- for cell in line %}<td style="{{ side(loop.index0 == 1) }}">{{ cell }}</td>
{%- endfor %}</tr>
{%- if loop.last or section.body[loop.index0 + 1] is string %}</tbody></table>{% endif %}
{%- endif %}
{%- endfor %}
{%- endfor %}
{{ lines(explained.below) }}""",
}


@cache
def _template(name: str) -> Template:
    environment = Environment(loader=DictLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name)


def tables_html(records: Iterable[Record]) -> str:
    """The tables of records with the columns that a terminal shows, their footnotes below."""
    return _template("tables").render(tables=glances(records))


def cells_html(tables: Sequence[Cells]) -> str:
    """Tables of ready cells, their notes below."""
    return _template("tables").render(tables=tables)


def explanation_html(record: Record) -> str:
    """The ladder of a record, its sections and footnotes: what `remainder explain` prints."""
    return _template("explanation").render(explained=explained(record))


def flow_html(flow: Flow, records: Sequence[Record]) -> str:
    """The tables of a flow and its scales.

    Args:
        records: of its shells, in their order.
    """
    tables = [
        {
            "title": one.title,
            "headings": ["kept", *one.headings],
            "rows": [[f"{keep:,}", *map(in_words, numbers)] for keep, numbers in one.rows],
            "notes": [one.says],
        }
        for one in tables_of_flow(flow, records)
    ]
    return _template("flow").render(title=title_of(flow), tables=tables, scales=scale_lines(flow))
