"""The page of circuits: sizes as columns, edges and nodes in tables and figures of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_board import put, submission
from synthetic_records import fake_hash
from synthetic_values import synthetic_values

from remainder.board.by_size import size_tables
from remainder.board.merge import BoardRow, read_entries
from remainder.board.pages import TaskText, task_html
from remainder.board.view import boards
from remainder.circuit.chance import random_nodes
from remainder.circuit.features import FeatureCircuit
from remainder.record.metrics import CircuitMetrics, CircuitPoint, CircuitRung
from remainder.record.number import Number
from remainder.record.schema import CircuitSize, TaskInfo

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
WHOLE = 1000


def number(value: float) -> Number:
    return Number(value=value, low=value - 0.1, high=value + 0.1)


def circuits(entry: BoardRow, kept: dict[str, int], *, nodes: bool = False) -> BoardRow:
    """The record of an entry as one of circuits, its efficiency the logarithm of what is kept."""
    rung = CircuitRung(**{name: number(0.5) for name in ("answer", "faithfulness", "gap", "kl")})
    points = {
        size: CircuitPoint(
            rungs={"raw": rung, "full": rung, "counterfactual": rung},
            efficiency=None if count == 0 or size.startswith("+") else number(float(np.log(count))),
        )
        for size, count in kept.items()
    }
    sizes = {
        size: CircuitSize(edges=None if nodes else count, nodes=count, bits=1.0)
        for size, count in kept.items()
    }
    record = entry.record
    metrics = CircuitMetrics(answer=number(3.0), points=points, cpr={}, cmd={})
    changes = {
        "complexity": record.complexity.model_copy(update={"circuits": sizes, "features": WHOLE}),
        "metrics": record.metrics.model_copy(update={"circuit": metrics}),
    }
    return BoardRow(record.model_copy(update=changes), entry.path, entry.sums)


@pytest.fixture
def entries(tmp_path: Path) -> list[BoardRow]:
    paths = [
        put(tmp_path, synthetic_values(seed=n), task=TASK, submission=submission(f"c-{n}")) for n in range(4)
    ]
    found, _ = read_entries(tmp_path, paths)
    found.sort(key=lambda entry: entry.record.submission.name)
    ranking = {"0": 0, "0.01": 9, "+0.01": 10, "0.1": 100, "1": 1000, "headline": 100}
    return [
        circuits(found[0], ranking),
        circuits(found[1], {"0": 0, "headline": 23}),
        circuits(found[2], {"0": 0, ">0.1": 5, ">0.01": 90, "headline": 90}, nodes=True),
        circuits(found[3], {"0": 0, "headline": 0}),
    ]


def test_a_circuit_stands_at_its_size_or_at_the_smallest_that_holds_it(entries: list[BoardRow]) -> None:
    (board,) = boards(entries)
    edges, nodes = size_tables(board, "x.html", "t")
    assert (edges.what, edges.sizes) == ("edges", ("1 %", "10 %", "100 %"))
    assert nodes.sizes == ("0.1 %", "0.2 %", "0.5 %", "1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %")
    cells = {row.name: [cell.value for cell in row.cells] for row in (*edges.rows, *nodes.rows)}
    shown = {count: f"{np.log(count):.2f}" for count in (9, 23, 90, 100, 1000, 5)}
    assert cells["c-0"] == [shown[9], shown[100], shown[1000]]
    assert cells["c-1"] == ["–", shown[23], "–"]
    assert cells["c-2"] == ["–", "–", shown[5], "–", "–", "–", shown[90], "–", "–", "–"]
    assert cells["c-3"] == ["–"] * 3


def test_edges_and_nodes_are_never_on_one_axis(entries: list[BoardRow]) -> None:
    (board,) = boards(entries)
    for table in size_tables(board, "x.html", "t"):
        assert table.curve is not None
        (panel,) = table.curve.panels
        assert f"share of {table.what} kept" in panel.drawing
        assert {key.name for key in table.curve.keys} <= {row.name for row in table.rows}
    page = task_html(TaskText("family/task", "1", "", [("1", "x.html")]), [board])
    assert 'data-unit="edges kept"' in page
    assert 'data-unit="nodes kept"' in page
    assert "edges or nodes" not in page.partition('<table class="board')[0].partition('class="tools"')[0]
    assert "Sizes of circuits are no bits" in page


def test_random_nodes_are_as_many_on_each_template() -> None:
    generator = torch.Generator().manual_seed(0)

    def circuit(positions: int) -> FeatureCircuit:
        latents = {name: torch.rand(positions, 30, generator=generator) < 0.1 for name in ("b", "a")}
        return FeatureCircuit(
            latents, {name: torch.rand(positions, generator=generator) < 0.5 for name in "ab"}
        )

    mine = {"one": circuit(3), "two": circuit(5)}
    found = random_nodes(mine, seed=1)
    assert len(found) == 20
    for random in found:
        for template, part in random.items():
            assert part.nodes == mine[template].nodes
            assert {k: v.shape for k, v in part.latents.items()} == {
                k: v.shape for k, v in mine[template].latents.items()
            }
    flags = torch.stack([random["two"].latents["a"].float() for random in found])
    assert not (flags == flags[0]).all()
    share = mine["two"].nodes / mine["two"].of
    assert float(flags.mean()) == pytest.approx(share, abs=0.03)
    again = random_nodes(mine, seed=1)[7]["one"]
    assert all((again.latents[name] == found[7]["one"].latents[name]).all() for name in ("a", "b"))
    assert random_nodes({"one": mine["one"].empty}, seed=1) == ()
