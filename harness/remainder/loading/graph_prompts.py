"""A task made of attribution graphs: their own prompts, and how well the model is predicted on these.

1. A graph is of one prompt, its token ids those of its token nodes; where some of these are missing, those
   that the tokenizer gives for its text. Either way each is compared with the graph's own words for it.
2. Each graph is a template with one evaluation prompt. What counts is the position of its logits; the right
   token is its likeliest logit (where none has a probability, all of them), the wrong ones are all others.
3. What removed nodes carry needs other prompts of the same length. Given none, they are up to 32 other orders
   of the prompt's own words: its first token, and special ones, stay where they are. Given some, those with
   as many tokens are taken, behind the same first token; the others are counted in the task's description.
4. At the first token nothing is removed: a graph has no nodes there.
5. `fit` has the graphs' own prompts, which they were made on. There are no counterfactuals.

Source of the first token and of the words: https://github.com/decoderesearch/circuit-tracer,
`utils/tokenization.py`, `utils/create_graph_files.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from remainder.base.files import brief
from remainder.circuit.feature_graph import FeatureGraph
from remainder.errors import InterpretationError, TaskError
from remainder.loading.adapt import GivenModel
from remainder.loading.behaviour import Groups, prompts_hash
from remainder.task.adhoc import named
from remainder.task.prompts import Prompts
from remainder.task.spec import ADHOC, CircuitSpec, Site, Task, Tier
from remainder.task.stored_prompts import StoredPrompts

__all__ = ["ORDERS", "GraphTask", "depth_of", "graph_task", "token_ids"]

ORDERS = 32
"""Most orders of a prompt's words; all latents of all blocks are kept of each while one is scored."""
_TRIES = 20  # draws for each of them
_LEAST = 2  # prompts of which a covariance is taken
_PAIRS = 4  # a pass is of one prompt, and costs little
_RUNGS = ("raw", "zero", "full", "permuted")
_SPARED = 1  # circuit-tracer gives the first token neither features nor errors
_SIGNS = str.maketrans({"⏎": "\n", "→": "\t", "↵": "\r", "▁": " ", "Ġ": " ", "Ċ": "\n"})


class GraphTask(NamedTuple):
    """A task of graphs, and its prompts."""

    task: Task
    prompts: StoredPrompts


class _Own(NamedTuple):
    """The prompt of a graph."""

    graph: FeatureGraph
    ids: tuple[int, ...]
    target: tuple[int, ...]
    """Ids of the right tokens."""
    scored: int
    """The position of the logits."""


def graph_task(
    graphs: Mapping[str, FeatureGraph],
    given: GivenModel,
    *,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
) -> GraphTask:
    """The task of some graphs of one model.

    Args:
        graphs: by the names of templates.
        given: the model that they are of.
        prompts: texts of other prompts; default: other orders of each graph's own words.
        seed: of these orders, and of the noise.

    Raises:
        InterpretationError: a graph is of another model, by its tokens.
        TaskError: there are too few other prompts of a graph's length, or one is the graph's own.
    """
    tokenizer = given.tokenizer
    own = {name: _own(name, graph, given) for name, graph in graphs.items()}
    words = []
    calibration: list[Prompts] = []
    for name, one in own.items():
        if prompts is None:
            others = _orders(name, one, _special(tokenizer), seed)
            documents = [f"{name} order {number}" for number in range(len(others))]
            words.append(f"{len(others)} other orders of the words of {name}")
        else:
            found = _of_length(name, one, prompts, tokenizer)
            documents, others = [f"{name} prompt {number}" for number in found], list(found.values())
            words.append(f"{len(others)} of {len(prompts)} given prompts, as long as that of {name}")
        calibration.append(_group(name, one, others, documents))
    evaluation = tuple(_group(name, one, [one.ids], [name]) for name, one in own.items())
    groups: Groups = {"evaluation": evaluation, "calibration": tuple(calibration), "fit": evaluation}
    backgrounds = f"What removed nodes carry is of {'; '.join(words)}."
    task = _task(given, groups, f"{_described(own, tokenizer)} {backgrounds}", seed)
    return GraphTask(named(task), StoredPrompts(groups))


def _task(given: GivenModel, groups: Groups, description: str, seed: int) -> Task:
    layers, width = depth_of(given)
    hook = f"blocks.{layers - 1}.hook_out"
    count = len(groups["evaluation"])
    tier = Tier(
        evaluation_windows=max(count, 2),
        calibration_windows=sum(len(group) for group in groups["calibration"]),
        fit_windows=max(count, 2),
        pairs=_PAIRS,
        dtype="float32",
    )
    return Task(
        id=ADHOC,
        version="1-A",
        title=f"{'Prompt' if count == 1 else 'Prompts'} of attribution graphs of {given.spec.name}",
        description=f"Ad hoc, a task of whoever measured. {description}",
        model=given.spec,
        circuit=CircuitSpec(reader="tokens", prompts_sha256=prompts_hash(groups), spared=_SPARED),
        site=Site(hook_in=hook, hook_out=hook, width=width),
        seed=seed,
        rungs=_RUNGS,
        tiers={"quick": tier},
    )


def depth_of(given: GivenModel) -> tuple[int, int]:
    """Number of blocks of a model, and the width of its residual stream, by its config.

    Raises:
        TaskError: the config does not tell.
    """
    found = tuple(getattr(given.config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    layers, width = found
    if not isinstance(layers, int) or not isinstance(width, int):
        raise TaskError(
            f"the config of {given.spec.name} states num_hidden_layers {found[0]} and hidden_size {found[1]}",
            fix="give a model of transformers with blocks of one width",
        )
    return layers, width


def _own(name: str, graph: FeatureGraph, given: GivenModel) -> _Own:
    """The prompt of a graph, its tokens compared with those of the model."""
    ids = token_ids(name, graph, given)
    if given.context is not None and len(ids) > given.context:
        raise InterpretationError(
            f"graph {name} is of a prompt of {len(ids)} tokens; {given.spec.name} takes {given.context}",
            fix="give the model that the graph was made of (`model`, --model)",
        )
    logits = [node for node in graph.nodes if node.kind == "logit"]
    for node in logits:
        if not 0 <= node.number < _vocabulary(given):
            raise InterpretationError(
                f"graph {name}: its logit {node.id} is no token of {given.spec.name}",
                fix="make the graph of this model, and of tokens: logits of a custom target are no "
                "prediction that could be kept",
            )
    most = max(node.probability for node in logits)
    right = [node for node in logits if node.probability == most]
    right = right[:1] if most > 0 else right
    places = {node.position for node in right}
    if len(places) > 1:
        raise InterpretationError(
            f"graph {name}: its logits are at positions {sorted(places)}",
            fix="export it again with circuit-tracer, whose logits are at the last position",
        )
    return _Own(graph, ids, tuple(dict.fromkeys(node.number for node in right)), places.pop())


def token_ids(name: str, graph: FeatureGraph, given: GivenModel) -> tuple[int, ...]:
    """Token ids of a graph's prompt, one a position.

    Raises:
        InterpretationError: the model's tokenizer has other words for them, or they are not known.
    """
    stated = {node.position: node.number for node in graph.nodes if node.kind == "token"}
    positions, tokenizer = range(len(graph.tokens)), given.tokenizer
    if all(position in stated for position in positions):
        ids = tuple(stated[position] for position in positions)
    else:
        ids = _tokenised(name, graph, tokenizer)
    for position, (number, token) in enumerate(zip(ids, graph.tokens, strict=True)):
        told = tokenizer.decode([number]) if 0 <= number < _vocabulary(given) else None
        if told is None or _plain(told) != _plain(token):
            raise InterpretationError(
                f"graph {name} is of another model than {given.spec.name}: token {position} of its prompt is "
                f"{brief(token)}, with the id {number}, "
                + ("which is none here" if told is None else f"which is {brief(told)} here"),
                fix="give the model that the graph was made of (`model`, --model)",
            )
    return ids


def _tokenised(name: str, graph: FeatureGraph, tokenizer: Any) -> tuple[int, ...]:
    """Token ids by the tokenizer, behind the special token that circuit-tracer puts before a prompt."""
    ids: list[int] = tokenizer(graph.prompt, add_special_tokens=False)["input_ids"]
    if len(ids) == len(graph.tokens) - 1:
        first = _plain(graph.tokens[0])
        ids = [
            *[one for one in sorted(_special(tokenizer)) if _plain(tokenizer.decode([one])) == first][:1],
            *ids,
        ]
    if len(ids) != len(graph.tokens):
        raise InterpretationError(
            f"graph {name} lacks nodes of some tokens, and its prompt {brief(graph.prompt)} has {len(ids)} "
            f"tokens here; metadata.prompt_tokens has {len(graph.tokens)}",
            fix="export it again with circuit-tracer, which keeps all nodes of tokens, or give the model "
            "that it was made of (`model`, --model)",
        )
    return tuple(ids)


def _plain(token: str) -> str:
    """A token as letters alone: exports differ in spaces, and in signs for ends of lines."""
    return token.translate(_SIGNS).strip(" ")


def _special(tokenizer: Any) -> frozenset[int]:
    return frozenset(tokenizer.all_special_ids)


def _vocabulary(given: GivenModel) -> int:
    return given.vocabulary if given.vocabulary is not None else len(given.tokenizer)


def _orders(name: str, own: _Own, special: frozenset[int], seed: int) -> list[tuple[int, ...]]:
    """Other orders of a prompt's words, none twice, by a seeded draw."""
    ids = np.array(own.ids)
    free = np.array([place for place, one in enumerate(own.ids) if place and one not in special], dtype=int)
    # Not by the graph's name, which changes nothing of what is measured.
    digest = hashlib.sha256(f"{seed}|{own.ids}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_TRIES * ORDERS):
        other = ids.copy()
        other[free] = generator.permutation(ids[free])
        if (order := tuple(other.tolist())) != own.ids:
            found[order] = None
        if len(found) == ORDERS:
            break
    if len(found) < _LEAST:
        raise TaskError(
            f"the words of graph {name} have {len(found)} other orders, and what removed nodes carry needs "
            f"{_LEAST} other prompts",
            fix="give other prompts of as many tokens: `prompts` (--prompts FILE, one a line)",
        )
    return list(found)


def _of_length(name: str, own: _Own, prompts: Sequence[str], tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """Token ids of the prompts that are as long as a graph's, by their number, from 1."""
    found: dict[int, tuple[int, ...]] = {}
    lengths = set()
    for number, text in enumerate(prompts, 1):
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids[:1] != [own.ids[0]]:
            ids = [own.ids[0], *ids]
        if tuple(ids) == own.ids:
            raise TaskError(
                f"prompt {number} of those given is that of graph {name} itself, and removed nodes would "
                "carry what it tells",
                fix="leave it out",
            )
        lengths.add(len(ids))
        if len(ids) == len(own.ids) and tuple(ids) not in found.values():
            found[number] = tuple(ids)
    if len(found) < _LEAST:
        raise TaskError(
            f"graph {name} is of a prompt of {len(own.ids)} tokens, and {len(found)} of the given prompts "
            f"have as many (they have {', '.join(map(str, sorted(lengths))) or 'none'})",
            fix=f"give at least {_LEAST}, with the same number of tokens",
        )
    return found


def _group(name: str, own: _Own, rows: Sequence[tuple[int, ...]], documents: Sequence[str]) -> Prompts:
    tokens = np.array(rows, dtype=np.int64)
    scored = np.zeros(tokens.shape, dtype=np.bool_)
    scored[:, own.scored] = True
    return Prompts(
        template=name,
        tokens=tokens,
        counterfactual=tokens,
        documents=tuple(documents),
        scored=scored,
        correct=np.tile(np.array(own.target, dtype=np.int64), (len(tokens), 1, 1)),
        wrong=np.empty((len(tokens), 1, 0), dtype=np.int64),
    )


def _described(own: Mapping[str, _Own], tokenizer: Any) -> str:
    """The prompts in words."""
    parts = []
    for name, one in own.items():
        right = " or ".join(brief(tokenizer.decode([number])) for number in one.target)
        parts.append(f"{name} ({len(one.ids)} tokens): {right} after {brief(tokenizer.decode(one.ids))}")
    graphs = "one attribution graph" if len(own) == 1 else f"{len(own)} attribution graphs"
    return f"The prompts of {graphs}, against all other tokens: {'; '.join(parts)}."
