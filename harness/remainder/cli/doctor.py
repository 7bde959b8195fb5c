"""The command `remainder doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from remainder.base.wrapping import fill
from remainder.report.layout import WIDTH, require_format

__all__ = ["doctor"]


def doctor(
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Say what is installed and what is missing, for a report of a fault. Fails if something is."""
    from remainder.publish.doctor import examine, render

    require_format(format, ("table", "json"))
    sections = []
    for section in examine():
        sections.append(section)
        if format == "table":
            lines = render(section).splitlines()
            print("\n".join(fill(line, WIDTH, hanging="    ") for line in lines), end="\n\n", flush=True)
    faults = [fault for section in sections for fault in section.faults]
    if format == "json":
        content = {
            **{section.title: section.facts for section in sections},
            "faults": [{"what": what, "fix": fix} for what, fix in faults],
        }
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        print(f"{len(faults)} fault(s)" if faults else "nothing is missing")
    raise typer.Exit(1 if faults else 0)
