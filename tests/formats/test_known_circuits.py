"""Fields of circuits and of attribution graphs: one that nobody knows is refused, or told in a note."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from known_files import without
from tests.formats import test_attribution_graph as graphs
from tests.formats import test_eap_ig as circuits

from remainder.errors import InterpretationError
from remainder.formats import attribution_graph, eap_ig, eap_ig_fields
from remainder.formats.known import Ignore

PLACES = {
    "invented": lambda content: content,
    "cfg.invented": lambda content: content["cfg"],
    "edges.invented": lambda content: content["edges"]["input->logits"],
    "nodes.invented": lambda content: content["nodes"]["input"],
}


def circuit(folder: Path, name: str, ending: str) -> Path:
    """A file of EAP-IG with a field that nobody knows."""
    written = circuits.WRITTEN["plain"]
    content = copy.deepcopy(written.json(*circuits.chosen(written, circuits.GRAPHS["plain"])))
    if ending == ".pt":
        stored = written.pt(content)
        PLACES[name](stored)["invented"] = 1
        return circuits.put(folder / "c.pt", stored)
    PLACES[name](content)["invented"] = 1
    return circuits.put(folder / "c.json", content)


@pytest.mark.parametrize(
    ("name", "ending"), [*((name, ".json") for name in PLACES), ("invented", ".pt"), ("cfg.invented", ".pt")]
)
def test_an_invented_field_of_a_circuit_is_refused_or_ignored_by_name(
    tmp_path: Path, name: str, ending: str
) -> None:
    path, graph = circuit(tmp_path, name, ending), circuits.GRAPHS["plain"]
    with pytest.raises(InterpretationError, match="has invented; expected") as raised:
        eap_ig.load(path, graph)
    assert f"--ignore-field {name}" in str(raised.value.fix)
    ignore = Ignore(frozenset({name}))
    eap_ig.load(path, graph, ignore=ignore)
    (warning,) = ignore.warnings
    assert f"The field {name} of" in warning
    absent = Ignore(frozenset({"absent"}))
    with pytest.raises(InterpretationError, match="has invented"):
        eap_ig.load(path, graph, ignore=absent)
    with pytest.raises(InterpretationError, match="names absent"):
        absent.require_found(str(path))


TAKEN = [
    *((eap_ig_fields.CFG, name) for name in ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")),
    (eap_ig_fields.ENTRY, "score"),
    (eap_ig_fields.ENTRY, "in_graph"),
    (eap_ig_fields.JSON, "edges"),
]


@pytest.mark.parametrize(("table", "name"), TAKEN, ids=[name for _, name in TAKEN])
def test_without_its_line_a_field_of_a_circuit_is_refused(tmp_path: Path, table: Any, name: str) -> None:
    written = circuits.WRITTEN["plain"]
    content = written.json(*circuits.chosen(written, circuits.GRAPHS["plain"]))
    path = circuits.put(tmp_path / "c.json", content)
    eap_ig.load(path, circuits.GRAPHS["plain"])
    with without(table.lines, name), pytest.raises(InterpretationError, match=f"has (.*, )?{name}"):
        eap_ig.load(path, circuits.GRAPHS["plain"])


def test_what_nobody_knows_of_a_graph_is_noted(tmp_path: Path) -> None:
    assert graphs.load(tmp_path, graphs.SMALL).notes == ()
    content = copy.deepcopy(graphs.SMALL)
    content["invented"] = content["nodes"][0]["strange"] = content["links"][0]["odd"] = 1
    content["metadata"]["free"] = content["qParams"]["free"] = 1
    assert graphs.load(tmp_path, content).notes == (
        "graph.json has the field invented, which is not known: the graph is read without it.",
        "graph.json has the field links.odd, which is not known: links are read without it.",
        "graph.json has the field nodes.strange, which is not known: nodes are read without it.",
    )
    for name in graphs.SMALL["nodes"][0]:
        with without(attribution_graph.NODE.lines, name):
            (note,) = graphs.load(tmp_path, graphs.SMALL).notes
        assert f"the field nodes.{name}, which is not known" in note
