"""Write docs/performance.md from what `make bench` measured.

    python tests/benchmarks/page.py BENCHMARKS.json... docs/performance.md

The JSON is pytest-benchmark's, of one run or several. Each benchmark leaves its figures in `extra_info`, and
those of one group make a table; a group without a benchmark that ran has none.
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
GPU = Path(__file__).with_name("gpu.json")
"""Figures of a GPU, by gpu_figures.py; `make bench` does not measure them."""
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast a pass is."""

HEAD = """\
# Performance

<!-- Written by `make bench` (tests/benchmarks/page.py); do not edit. -->

`make bench` measures all of this and writes the page. Where two things are compared they run in turn in one
process, with one thread, and what counts is CPU time; a ratio is the median of the ratios within a round. So
the figures say how two programs compare, and hardly depend on what else the machine does; seconds are of this
machine.

Figures of a GPU stand at the end; `make bench` needs none and does not measure them.
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
    found = {key for row in rows for key in row if key.startswith("ratio ")}
    numbers = sorted(int(key[6:]) for key in found if key[6:].isdigit())
    headings = ["Call", "against", *(f"{n} SAE{'s' * (n > 1)}" for n in numbers), "each further", "windows"]
    body = [
        [
            f"`{row['call']}`",
            f"`{row['peer']}`" if "_" in row["peer"] else row["peer"],
            *(f"{row[f'ratio {n}']:.2f}×" if f"ratio {n}" in row else "–" for n in numbers),
            f"{row['ratio further']:.2f}×",
            f"{row['windows']}",
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
    return (
        "## Against SAELens' evaluator and a plain loop\n\n"
        "The time of the peer over ours; above 1 ours is faster. SmolLM2-135M after block 14, float32, one "
        f"thread, windows of 128 tokens, 16 more for calibration, {rows[0]['rounds']} rounds (4 and 16 SAEs "
        "in one of them); TopK SAEs of 2,304 latents. The activations of these windows lie in the cache. "
        "Peers are run anew "
        "for every SAE: `sae_lens.evals.run_evals` with reconstruction, sparsity and variance metrics (three "
        "full passes and half of one), and a loop by hand over the model of transformers (a clean pass and "
        "one with a hook, losses and KL).\n\n" + table(headings, body) + "\n" + speeds
    )


def passes(rows: list[dict[str, Any]]) -> str:
    """Counted passes a window."""
    body = [[row["call"], f"{row['first']:.1f}", f"{row['further']:.1f}"] for row in rows]
    return (
        "## Passes a window\n\nHow often a window goes through the model after the site, counted in the "
        "runner, for few windows: checks on the first two or three windows are among them, and weigh less in "
        "larger tiers.\n\n" + table(["Call", "first SAE", "each further"], body)
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


def memory(rows: list[dict[str, Any]]) -> str:
    """Peak memory of processes above that of the model."""
    body = [[row["case"], f"{row['model'] / 1e9:.2f}", f"{row['more'] / 1e9:.2f}"] for row in rows]
    return (
        "## Memory\n\nThe most that a process held, above what it held with the model loaded; a random Llama "
        'of four layers and width 256, windows of 128 tokens, `rungs=("raw",)` but for the last. Each case '
        "changes one thing of the first.\n\n"
        + table(["Case", "libraries and model, GB", "more while measuring, GB"], body)
    )


def circuits(rows: list[dict[str, Any]]) -> str:
    """Passes of circuits over plain ones, and what a row takes by them."""
    edges, latents = (next(row for row in rows if row["kind"] == kind) for kind in ("edges", "latents"))
    units, others = edges["units"], latents["units"]
    sizes = [name for name in units if f"random {name}" in units]
    body = [[f"{float(size):.1%}", f"{units[size]:.2f}", f"{units[f'random {size}']:.2f}"] for size in sizes]
    step = units["one step of edge attribution"]
    single = "; ".join(f"{name}: {value:.2f}" for name, value in others.items())
    return (
        "## Circuits\n\nA pass in which only a circuit is left, over a plain pass of the "
        f"{edges['prompts']} prompts of a template of `smollm2-135m/ioi`, which takes "
        f"{edges['seconds']:.2f} s: one thread, median of three rounds, removed edges at their mean. A pass "
        "leaves heads and MLPs out that change no prediction, so small circuits take less than the model; "
        "every other one sums kept edges for each reader besides.\n\n"
        + table(["Edges kept", "best by attribution", "random"], body)
        + f"\nThe empty circuit takes {units['0']:.2f}; one step of edge attribution, with the passes that "
        f"record both prompts, {step:.2f}. Circuits of latents start at the block of the first autoencoder "
        f"({single}).\n\nA quick row of a ranking asks for {edges['passes']} passes of each template, ten "
        f"sizes and all rungs: by these figures {edges['row'] / 60:.1f} minutes of one core, its scores "
        "given. Random circuits, 20 of each size, are run once a task: "
        f"{edges['chance'] / 60:.1f} minutes.\n"
    )


def paired(rows: list[dict[str, Any]]) -> str:
    """What pairing wins."""
    names = ("least", "quarter", "median", "three quarters", "most")
    body = [
        [
            f"`{row['rung']}`",
            *(f"{row[name]:.1f}" for name in names),
            f"{row['correlation']:.2f}",
            f"{row['drawn']:.0%}",
            f"{row['documents']:,.0f}",
        ]
        for row in rows
    ]
    raw = next(row for row in rows if row["rung"] == "raw")
    return (
        "## The difference of two SAEs\n\nTime to a given interval goes with the variance of a document's "
        "difference. Below is the variance without pairing (other documents for the other SAE) over that on "
        f"the same documents with the same noise, of all {rows[0]['pairs']} pairs of SAEs among the archived "
        "records of `smollm2-135m/resid-15`. Measured together, two SAEs share the clean pass besides: `raw` "
        "takes 3 passes a window in place of 4, which multiplies the ratio of times by 1.33: "
        f"{raw['median'] * 4 / 3:.1f} for the median pair.\n\n"
        "Two things limit the ratio, and both are properties of the SAEs. Documents on which one fails are "
        "not quite those on which the other does: at a correlation r of documents and equal spreads the "
        "ratio is 1/(1 − r). And spreads differ, for the worse SAE has the larger one. So it is high for "
        "seeds of one SAE, and low for SAEs of 16 latents a token beside others. Noise matters little: the "
        "last but one column has the part of the difference's variance that comes from the draws, which more "
        "of them would lower.\n\nThe last column has the documents of one window of 128 tokens that ± .005 "
        "nats (95 %) take for the median pair: more than the 44 of this text's evaluation split, where "
        "`--until-ci .005` ends with what is known by then.\n\n"
        + table(["Rung", *names, "median r", "from draws", "documents for ± .005"], body)
    )


def engines(rows: list[dict[str, Any]]) -> str:
    """Two workers against one."""
    body = [[row["engine"], f"{row['clock']:.2f}", f"{row['cpu']:.2f}"] for row in rows]
    return (
        f"## Two workers\n\nThe time that one worker takes for {rows[0]['rows']} rows over that of two, with "
        "one thread each and the task loaded: by the clock, which needs two quiet cores, and `make bench` "
        "leaves it one; and in CPU seconds, those of the one over those of the busier of the two. "
        "docs/scale.md has more.\n\n" + table(["Engine", "by the clock", "in CPU seconds"], body)
    )


def gpu(content: dict[str, Any]) -> str:
    """Figures of a GPU, and how far its numbers are from those of the CPU."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    models = ", ".join(
        f"{each['model']} ({each['GB']:.1f} GB; an SAE {each['SAE GB'] * 1000:.0f} MB; first call "
        f"{first['seconds']:.0f} s)"
        for each, first in zip(content["models"], content["first"], strict=True)
    )
    calls = [
        [
            each["model"],
            f"`{'`, `'.join(each['rungs'])}`",
            each["SAEs"],
            each["windows in a pass"],
            f"{each['seconds a row']:.2f}" if "seconds a row" in each else "–",
            f"{each['busy']:.0%}" if "busy" in each else "–",
            f"{each['peak GB']:.1f} ({each['SAEs in memory']})" if "peak GB" in each else "–",
        ]
        for each in content["calls"]
    ]
    headings = [
        "Shape",
        "rungs",
        "SAEs",
        "windows a pass",
        "seconds a row",
        "GPU busy",
        "memory, GB (SAEs held)",
    ]
    apart = [
        [each["model"], f"{each['rows']:,}", f"{each['largest']:.1e}", f"{each['mean']:.1e}"]
        for each in content["apart"]
    ]
    return (
        f"## On a GPU\n\nMeasured on one {content['device']} on {content['date']}: Python "
        f"{content['python']}, {versions}; float32 without TF32. Models of these shapes have random weights, "
        "and SAEs 16,384 random latents of which 32 are active, their decoder shared with the encoder: "
        f"{models}. SmolLM2 has 32 evaluation and 64 calibration windows of 128 tokens, Gemma 8 and 8 of "
        f"1,024. `REMAINDER_GROUP_GB={content['room']:.0f}`. Each call comes after a first one of three "
        "rungs, which makes activations and the rows of transform coding. Busy is the mean of what the "
        "driver "
        "reports every 50 ms. A dash: not measured with the GPU to itself.\n\n"
        + table(headings, calls)
        + "\nWith 8 windows a pass SmolLM2 keeps the GPU busy for a quarter of the time: small passes "
        "wait for "
        "Python. So on a GPU a pass takes up to 32 windows of a text, as many as a quarter of its free "
        "memory holds. "
        "Even then SmolLM2 leaves the GPU idle for more than half of the time; Gemma does not.\n\n"
        "The same measurement on the CPU and the GPU, loss and KL in nats a scored token; records are "
        "published ones of the CPU:\n\n"
        + table(["Measurement", "rows", "largest difference", "mean difference"], apart)
        + "\nOf a random model of four layers with exact codes no row is more than "
        f"{content['random model']['exact']:.1e} apart. A quantised code that lies between two steps may go "
        "to the other one, and its token moves with it: that happened in one row of that model's transform "
        f"coding, which moved by {content['random model']['flipped']:.1e}; all others are within "
        f"{content['random model']['coded']:.1e} (tests/measure/test_cuda.py). The largest difference of the "
        "table is the same for all three records, and so of a row that does not depend on the SAE.\n\n"
        "`PYTHONPATH=harness:tests/helpers python tests/benchmarks/gpu_figures.py OUT.json` measures the "
        "calls, on another device perhaps for other numbers of windows; OUT.json, with what was compared "
        "beside it, is tests/benchmarks/gpu.json.\n"
    )


SECTIONS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "peers": peers,
    "passes": passes,
    "rates": rates,
    "memory": memory,
    "circuits": circuits,
    "paired": paired,
    "engines": engines,
    "start-up": startup,
}


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    found: dict[str, list[dict[str, Any]]] = {}
    for benchmark in content["benchmarks"]:
        found.setdefault(str(benchmark["group"]), []).append(benchmark["extra_info"])
    parts = [make(found[group]) for group, make in SECTIONS.items() if group in found]
    parts += [gpu(json.loads(GPU.read_text(encoding="utf-8")))] if GPU.is_file() else []
    return "\n".join([HEAD, machine(content), *parts])


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    runs = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
    whole = {**runs[0], "benchmarks": [one for run in runs for one in run["benchmarks"]]}
    target.write_text(page(whole), encoding="utf-8")
