"""The graph of a transformer: its writers to the residual stream, and its readers from it.

Every head, every MLP and the embedding *write* to the residual stream; every head's query, key and value,
every MLP and the logits *read* from it. There is an edge from each writer to each reader that comes after it.
Names are those of EAP-IG: `input`, `a3.h0`, `m3`, `logits`; an edge into a head names the
input too, `m2->a3.h0<q>`. With grouped queries a key and a value belong to a group of heads, and are named by
its number.

Stages are the layers' parts in the order of computation: `input`, `a0`, `m0`, `a1`, …, `logits`. A stage
reads all at once, then writes all at once. With parallel blocks (NeoX) both parts of a layer read the stream
that the layer before left.

Source: Hanna et al., "Have Faith in Faithfulness", 2024; protocol 1, sections 8 and 9.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.errors import InterpretationError

__all__ = ["INPUTS", "Architecture", "Graph", "Stage"]

INPUTS = ("q", "k", "v")
"""The inputs of a head."""


@dataclass(frozen=True)
class Architecture:
    """The parameters that determine the graph of a transformer.

    Args:
        layers, heads: number of layers, and of heads in each.
        groups: key-value heads in a layer; equal to `heads` without grouped queries.
        width: width of the residual stream.
        mlps: whether layers have an MLP.
        parallel: whether the MLP of a layer reads the same stream as its heads.
    """

    layers: int
    heads: int
    groups: int
    width: int
    mlps: bool = True
    parallel: bool = False

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.groups, self.width) < 1 or self.heads % self.groups:
            raise InterpretationError(
                f"a transformer of {self.layers} layers, {self.heads} heads in {self.groups} groups, width "
                f"{self.width}",
                fix="counts are at least 1, and groups are of equally many heads",
            )


class Stage(NamedTuple):
    """A part of a layer, with its readers and writers in the graph."""

    name: str
    readers: slice
    writers: slice
    sees: int
    """The number of writers that it can read: the first ones."""


@dataclass(frozen=True)
class Graph:
    """Writers, readers and edges of an architecture.

    Edges are boolean or float arrays [writers, readers]; `exists` says which entries are edges.
    """

    architecture: Architecture
    writers: tuple[str, ...] = field(init=False)
    readers: tuple[str, ...] = field(init=False)
    """The name of a head's input, such as `a3.h0<q>`."""
    stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self) -> None:
        shape = self.architecture
        writers: list[str] = ["input"]
        readers: list[str] = []
        stages = [Stage("input", slice(0, 0), slice(0, 1), 0)]
        for layer in range(shape.layers):
            heads = [f"a{layer}.h{head}" for head in range(shape.heads)]
            counts = {"q": shape.heads, "k": shape.groups, "v": shape.groups}
            inputs = [f"{head}<{kind}>" for kind in INPUTS for head in heads[: counts[kind]]]
            parts = {f"a{layer}": (inputs, heads)}
            if shape.mlps:
                parts[f"m{layer}"] = ([f"m{layer}"], [f"m{layer}"])
            before = len(writers)
            for name, (reads, writes) in parts.items():
                read, wrote = len(readers), len(writers)
                readers += reads
                writers += writes
                sees = before if shape.parallel else wrote
                stages.append(Stage(name, slice(read, len(readers)), slice(wrote, len(writers)), sees))
        readers.append("logits")
        stages.append(Stage("logits", slice(len(readers) - 1, len(readers)), slice(0, 0), len(writers)))
        made: dict[str, list[Any]] = {"writers": writers, "readers": readers, "stages": stages}
        for name, value in made.items():
            object.__setattr__(self, name, tuple(value))

    @cached_property
    def exists(self) -> NDArray[np.bool_]:
        """Mask [writers, readers] of the entries that are edges."""
        edges = np.zeros((len(self.writers), len(self.readers)), dtype=np.bool_)
        for stage in self.stages:
            edges[: stage.sees, stage.readers] = True
        return edges

    @property
    def edges(self) -> int:
        """Number of edges."""
        return int(self.exists.sum())

    @cached_property
    def writer_index(self) -> Mapping[str, int]:
        """Index of each writer by its name."""
        return {name: place for place, name in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> Mapping[str, int]:
        """Index of each reader by its name."""
        return {name: place for place, name in enumerate(self.readers)}

    def fed_by(self) -> NDArray[np.bool_]:
        """Mask [readers, writers] of which reader is an input of which writer.

        A query or an MLP feeds one writer, a key or value all heads of its group, the logits none.
        """
        return self._fed_by

    @cached_property
    def _fed_by(self) -> NDArray[np.bool_]:
        size = self.architecture.heads // self.architecture.groups
        inputs: NDArray[np.bool_] = np.zeros((len(self.readers), len(self.writers)), dtype=np.bool_)
        for reader, name in enumerate(self.readers[:-1]):
            node, _, kind = name.partition("<")
            layer, _, group = node.partition(".h")
            of_group = kind in ("k>", "v>")
            first = self.writer_index[f"{layer}.h{int(group) * size}" if of_group else node]
            inputs[reader, first : first + (size if of_group else 1)] = True
        return inputs

    def place(self, edge: str) -> tuple[int, int]:
        """Writer and reader of an edge such as `input->a0.h0<q>`.

        Raises:
            InterpretationError: if there is no such node or edge; near names are offered.
        """
        source, arrow, target = edge.partition("->")
        if not arrow:
            raise InterpretationError(
                f"edge {edge!r} has no arrow", fix="write edges as input->a0.h0<q>, m0->m1, a1.h0->logits"
            )
        for name, known in ((source, self.writer_index), (target, self.reader_index)):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known)[:3]
                raise InterpretationError(
                    f"edge {edge}: this model has no node {name!r}", fix=f"did you mean {', '.join(near)}?"
                )
        place = self.writer_index[source], self.reader_index[target]
        if not self.exists[place]:
            raise InterpretationError(
                f"edge {edge} goes backwards: {target} is computed before {source} is there, so it would "
                "close a cycle",
                fix="edges go from earlier nodes to later ones",
            )
        return place

    def name(self, writer: int, reader: int) -> str:
        """The name of an edge."""
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def names(self) -> Iterator[tuple[str, int, int]]:
        """Name and place of every edge, in the order of writers."""
        for writer, reader in zip(*np.nonzero(self.exists), strict=True):
            yield self.name(int(writer), int(reader)), int(writer), int(reader)
