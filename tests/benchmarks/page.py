"""Write docs/performance.md from what `make bench` measured.

    python tests/benchmarks/page.py BENCHMARKS.json docs/performance.md

The JSON is pytest-benchmark's. Each benchmark leaves its figures in `extra_info`, and a table here is made of
those of one group; a group without a benchmark that ran has no table.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("remainder", "torch", "transformer-lens", "sae-lens", "transformers", "numpy")
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast a pass is."""

HEAD = """\
# Performance

<!-- Written by `make bench` (tests/benchmarks/page.py); do not edit. -->

`make bench` measures all of this and writes the page. Where two things are compared they run in turn in one
process, with one thread, and what counts is CPU time; a ratio is the median of the ratios within a round. So
the figures say how two programs compare, and hardly depend on what else the machine does; seconds are of this
machine.

Nothing here was measured on a GPU: no figures are given for one.
"""


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown, numbers on the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    marks = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(headings), marks, *cells]) + "\n"


def machine(content: dict[str, Any]) -> str:
    """Cores, instruction sets, load and versions."""
    found = content["machine_info"]
    flags = found.get("cpu", {}).get("flags", [])
    units = ", ".join(unit for unit in UNITS if unit in flags) or "none that matter are told"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    load = found.get("load", "not noted")
    return (
        f"Measured on {content['datetime'][:10]}: {found['system']} {found['machine']}, "
        f"{found['cpu'].get('count', '?')} cores ({units}); load average at the start {load}; "
        f"Python {platform.python_version()}, {versions}.\n"
    )


def peers(rows: list[dict[str, Any]]) -> str:
    """The public call against the two peers."""
    numbers = [int(key.split()[1]) for key in rows[0] if key.startswith("ratio ") and key[6:].isdigit()]
    headings = ["Call", "against", *(f"{n} SAE{'s' * (n > 1)}" for n in numbers), "each further"]
    body = [
        [
            f"`{row['call']}`",
            f"`{row['peer']}`" if "_" in row["peer"] else row["peer"],
            *(f"{row[f'ratio {n}']:.2f}×" for n in numbers),
            f"{row['ratio further']:.2f}×",
        ]
        for row in rows
    ]
    speeds = table(
        ["Call", "tokens/s", "against, tokens/s", "apart by at most, nats"],
        [
            [
                f"`{row['call']}`",
                f"{row['tokens/s']:.0f}",
                f"{row['tokens/s peer']:.0f}",
                f"{row['apart']:.1e}",
            ]
            for row in rows
        ],
    )
    one = rows[0]
    return (
        "## Against SAELens' evaluator and a plain loop\n\n"
        "The time of the peer over ours; above 1 ours is faster. SmolLM2-135M after block 14, float32, one "
        f"thread, {one['windows']} windows of 128 tokens and 16 for calibration, {one['rounds']} round(s); "
        "TopK SAEs of 2,304 latents. The activations of these windows lie in the cache. Peers are run anew "
        "for every SAE: `sae_lens.evals.run_evals` with reconstruction, sparsity and variance metrics (three "
        "full passes and half of one), and a loop by hand over the model of transformers (a clean pass and "
        "one with a hook, losses and KL).\n\n" + table(headings, body) + "\n" + speeds
    )


def passes(rows: list[dict[str, Any]]) -> str:
    """Counted passes a window."""
    body = [[row["call"], f"{row['first']:.1f}", f"{row['further']:.1f}"] for row in rows]
    return (
        "## Passes a window\n\nHow often a window goes through the model after the site, counted in the "
        "runner; checks on one batch among them.\n\n" + table(["Call", "first SAE", "each further"], body)
    )


def rates(rows: list[dict[str, Any]]) -> str:
    """Achieved FLOP/s of the suffix over the machine's."""
    body = [[row["what"], f"{row['GFLOP/s']:.0f}", f"{row['of the machine']:.0%}"] for row in rows]
    return (
        "## Arithmetic\n\nFLOP/s of the pass after the site, its matrix products over its time, against a "
        "product of two float32 matrices of 2,048 × 2,048 in the same rounds; one thread.\n\n"
        + table(["Pass", "GFLOP/s", "of the machine's rate"], body)
    )


def startup(rows: list[dict[str, Any]]) -> str:
    """CPU seconds of commands that measure nothing."""
    body = [[f"`remainder {row['command']}`", f"{row['seconds']:.2f}"] for row in rows]
    return "## Start-up\n\nCPU seconds, median of five.\n\n" + table(["Command", "seconds"], body)


SECTIONS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "peers": peers,
    "passes": passes,
    "rates": rates,
    "start-up": startup,
}


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    found: dict[str, list[dict[str, Any]]] = {}
    for benchmark in content["benchmarks"]:
        found.setdefault(str(benchmark["group"]), []).append(benchmark["extra_info"])
    parts = [make(found[group]) for group, make in SECTIONS.items() if group in found]
    return "\n".join([HEAD, machine(content), *parts])


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
