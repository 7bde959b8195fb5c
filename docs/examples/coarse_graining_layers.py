"""Layers on docs/coarse-graining.md: a section for each chain of sites that is committed, and four answers.

What the picture says was written down before any language model's layers were measured. Of a chain it is
*for* the picture, *against* it, or *undecided*:

1. For: all five statements hold at the largest k. Against: one of them fails there.
2. For: one of the five fails with nothing kept. Against: all five hold there.
3. For: `corrected` holds wherever `kept` does. Against: it fails where `kept` holds.
4. For: `linear` holds wherever `additive` does. Against: it fails where `additive` holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.layers import STATEMENTS, Layers
from remainder.record.layers_file import LAYERS
from remainder.report.layers import COLUMNS, labels_of, layer_tables
from remainder.report.plot_layers import layers_figure
from remainder.report.text import Notes, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

TITLES = {
    "tiny/wiki-mlp": "A small language model: the residual stream, then the MLP that reads it",
    "smollm2-135m/resid-15": "SmolLM2-135M: a quarter of the way, then half-way through",
}
"""Headings of chains by the task of their highest site; others are headed by their tasks."""

Side = Literal["for", "against", "undecided"]


class Answer(NamedTuple):
    """On which side of the picture a chain is, and the verdicts that say so."""

    side: Side
    because: str


class _At(NamedTuple):
    """Verdicts at one k and site, by statement."""

    keep: int
    site: str
    words: dict[str, str]

    @property
    def called(self) -> str:
        return f"{self.keep:,} kept"


def read(folder: Path) -> dict[str, Layers]:
    """All layers below a folder by the file they lie in, their own hashes verified; known chains first.

    Raises:
        RecordError: one is damaged, or two are of the same sites.
    """
    found: dict[str, Layers] = {}
    for path in sorted(folder.rglob(f"*{LAYERS.ending}")):
        layers = LAYERS.read(path)
        name = _name(layers)
        if name in found:
            raise RecordError(f"{path}: there are other layers of {name}", fix="remove one of the two")
        found[name] = layers
    order = list(TITLES)
    return dict(sorted(found.items(), key=lambda item: (_rank(item[1], order), item[0])))


def _rank(layers: Layers, order: list[str]) -> int:
    task = layers.chain.sites[-1].task.id
    return order.index(task) if task in order else len(order)


def _name(layers: Layers) -> str:
    return ", then ".join(f"`{site.submission.name}` on {site.task.id}" for site in layers.chain.sites)


def figure_name(layers: Layers) -> str:
    """The file of a chain's figure."""
    parts = "-".join(f"{site.task.id}-{site.submission.name}" for site in layers.chain.sites)
    return "layers-" + re.sub(r"[^a-z0-9]+", "-", parts) + ".png"


def figures(chains: Mapping[str, Layers]) -> Iterator[tuple[str, Figure, str]]:
    """Of each chain the file of its figure, the figure, and the hash of what it was drawn from."""
    for layers in chains.values():
        yield figure_name(layers), layers_figure(layers), LAYERS.id(layers)


def blocks(chains: Mapping[str, Layers]) -> dict[str, str]:
    """The blocks of the page by their names."""
    if not chains:
        return {"layers": "No layers are committed.", "layers answers": "No layers are committed."}
    return {
        "layers": words.stacked(*(_section(name, layers) for name, layers in chains.items())),
        "layers answers": words.stacked(*_answers(chains)),
    }


def _section(name: str, layers: Layers) -> str:
    """A chain: what it is, its tables and its figure."""
    title = TITLES.get(layers.chain.sites[-1].task.id, name.replace("`", ""))
    tables = []
    for cells in layer_tables(layers):
        heading = cells.title.rpartition(". ")[2]
        table = words.table(cells.headings, [_escaped(row) for row in cells.rows], Notes())
        tables += [f"{heading}:", table]
    alt = f"{name.replace('`', '')}: costs alone and given those below, power, what arrives, and verdicts"
    return str(
        words.stacked(
            f"#### {title}", _said(name, layers), f"![{alt}](figures/{figure_name(layers)})", *tables
        )
    )


def _escaped(row: list[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]


def _said(name: str, layers: Layers) -> str:
    """What is seen with the most sources kept, in sentences."""
    shell, first, labels = layers.shells[-1], layers.shells[0], labels_of(layers)
    last = len(labels) - 1

    def number(key: str, of: int = -1) -> str:
        return in_words(COLUMNS[key].of(layers.shells[of], last))

    below, upper = labels[last - 1], labels[last]
    windows, tokens = layers.chain.calibration_windows, sum(layers.tokens)
    sentences = [
        f"{name}: {tokens:,} scored tokens of {len(layers.documents):,} documents, statistics of {windows:,} "
        "calibration windows. Intervals in this list are of each number alone.",
        f"With {shell.keep:,} kept, all sites at once cost {number('raw')} nats a token left out, and alone "
        f"they add up to {number('raw_sum')}; the model that is left finds the likeliest class of the "
        f"untouched one at {number('top1_raw')} of the tokens. With {first.keep:,} kept they cost "
        f"{number('raw', 0)}, and add up to {number('raw_sum', 0)}.",
        f"As Gaussians they cost {number('sequential')} at once, with statistics given below, and "
        f"{number('full')} with single-shot ones; alone they add up to {number('gaussian_sum')}.",
        f"With noise below, the remainder of {upper} has {number('power_gaussian')} of the power that it has "
        f"alone, and {number('power_raw')} with the remainder below left out.",
        f"Of the remainder of {below} there arrives at {upper}, by the derivative of the map between them, "
        f"{number('arrives')} of the power of the remainder there. The noise itself arrives with "
        f"{number('gaussian_to_linear')} times that, the remainder with {number('real_to_linear')} times; "
        f"with {first.keep:,} kept these are {number('gaussian_to_linear', 0)} and "
        f"{number('real_to_linear', 0)}.",
    ]
    return str(words.bullets(sentences))


# -------------------------------------------------------------------------------------------------- answers


def _answers(chains: Mapping[str, Layers]) -> Iterator[str]:
    """A paragraph for each thing that the picture says."""
    for number, (heading, of) in enumerate(_PICTURE.items(), 1):
        given = {name: of(layers) for name, layers in chains.items()}
        sides = [answer.side for answer in given.values()]
        counted = ", ".join(
            f"{side} {sides.count(side)}" for side in ("for", "against", "undecided") if side in sides
        )
        many = "1 chain" if len(given) == 1 else f"{len(given)} chains"
        yield f"**{number}. {heading}** Of {many}: {counted}."
        yield words.bullets(
            f"{name}: **{_bold(answer.side)}**. {answer.because}." for name, answer in given.items()
        )


def _bold(side: Side) -> str:
    return side if side == "undecided" else f"{side} the picture"


def _places(layers: Layers) -> list[_At]:
    labels = labels_of(layers)
    verdicts = iter(zip(*(layers.statements[name] for name in STATEMENTS), strict=True))
    return [
        _At(shell.keep, label, {name: one.word for name, one in zip(STATEMENTS, next(verdicts), strict=True)})
        for shell in layers.shells
        for label in labels[1:]
    ]


_VERBS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "open": ("is open", "are open"),
    "–": ("was not measured", "were not measured"),
}


def _listed(at: list[_At]) -> str:
    """Verdicts at some places, as a list of statements."""
    found = []
    for word, verbs in _VERBS.items():
        names = [f"`{name}`" for name in STATEMENTS if any(one.words[name] == word for one in at)]
        if names:
            found.append(f"{_joined(names)} {verbs[len(names) > 1]}")
    return "; ".join(found)


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def next_to_the_model(layers: Layers) -> Answer:
    """Statement 1: at the largest k all five hold."""
    at = [one for one in _places(layers) if one.keep == layers.shells[-1].keep]
    said = {word for one in at for word in one.words.values()}
    side: Side = "against" if "fails" in said else "for" if said == {"holds"} else "undecided"
    return Answer(side, f"With {at[0].called} {_listed(at)}")


def near_sources(layers: Layers) -> Answer:
    """Statement 2: with nothing kept one of the five fails."""
    at = [one for one in _places(layers) if one.keep == 0]
    if not at:
        return Answer("undecided", "It was not measured with nothing kept")
    said = {word for one in at for word in one.words.values()}
    side: Side = "for" if "fails" in said else "against" if said == {"holds"} else "undecided"
    return Answer(side, f"With nothing kept {_listed(at)}")


def _follows(layers: Layers, given: str, wanted: str) -> Answer:
    """Whether one statement holds wherever another does."""
    at = [one for one in _places(layers) if one.words[given] == "holds"]
    if not at:
        return Answer("undecided", f"`{given}` holds nowhere")
    said = [one.words[wanted] for one in at]
    side: Side = "against" if "fails" in said else "for" if set(said) == {"holds"} else "undecided"
    pairs = [f"{_VERBS[word][0]} with {one.keep:,} kept" for one, word in zip(at, said, strict=True)]
    return Answer(side, f"Where `{given}` holds, `{wanted}` {_joined(pairs)}")


_PICTURE = {
    "From some k on, next to the model, all five hold.": next_to_the_model,
    "With nothing kept one of the five fails.": near_sources,
    "Where `kept` holds, so does `corrected`.": lambda layers: _follows(layers, "kept", "corrected"),
    "`additive` holds only where `linear` does.": lambda layers: _follows(layers, "additive", "linear"),
}
"""What the picture says, and how it is judged."""
