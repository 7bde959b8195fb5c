"""What is measured once a task is the same in all of its records: transform coding, and random circuits."""

from __future__ import annotations

import math

import pytest
from synthetic_board import coded, submission
from synthetic_records import synthetic_record

from remainder.board.once import agree, of_random_circuits, of_reference
from remainder.board.origin import check_peers, peer_of
from remainder.record.metrics import CircuitMetrics, CircuitPoint, CircuitRung
from remainder.record.number import Number
from remainder.record.schema import CircuitSize, Record

EDGES = 200
_NONE = Number.null("not measured")


def faults(record: Record, *others: Record) -> list[str]:
    """Faults of a record beside others of its task."""
    peers = [peer_of(other.model_dump(mode="json")) for other in others]
    return [remark.text for remark in check_peers(record, peers) if remark.is_fault]


def paid(name: str, factor: float, *, reference: float = 1.0) -> Record:
    """A record of codes that are paid for; KL of its reference rungs at few bits is times `reference`."""
    values = coded(factor)
    changed = values["rung"].isin(["reference-mean", "reference-2", "reference-3"])
    values.loc[changed, "kl"] *= reference
    return synthetic_record(values, submission=submission(name))


def ranked(name: str, kl: float, chance: dict[str, tuple[int, float]], *, format: str | None) -> Record:
    """A record of circuits with `raw` KL `kl`; `chance` has by size the edges kept, and KL of random ones."""
    rung = CircuitRung(answer=_NONE, faithfulness=_NONE, gap=_NONE, kl=Number(value=kl, low=None, high=None))
    points, costs = {}, {}
    for size, (kept, random) in chance.items():
        ratio = float(f"{math.log((random + 1e-6) / (kl + 1e-6)):.6g}")
        efficiency = Number(value=ratio, low=None, high=None)
        points[size] = CircuitPoint(rungs={"raw": rung}, efficiency=efficiency)
        costs[size] = CircuitSize(edges=kept, nodes=9, bits=12.5)
    record = synthetic_record(coded(1.0), submission=submission(name))
    method = record.submission.method.model_copy(update={"format": format})
    metrics = record.metrics.model_copy(
        update={"circuit": CircuitMetrics(answer=_NONE, points=points, cpr={}, cmd={})}
    )
    cost = record.complexity.model_copy(update={"circuits": costs, "features": EDGES})
    info = record.submission.model_copy(update={"kind": "circuit", "method": method})
    return record.model_copy(
        update={"record_id": f"{name:0>64}", "metrics": metrics, "complexity": cost, "submission": info}
    )


def test_a_reference_that_others_do_not_have_is_at_fault() -> None:
    honest = [paid("one", 0.5), paid("two", 1.2)]
    assert faults(honest[0], honest[1]) == []
    found = faults(paid("three", 0.8, reference=1.5), *honest)
    assert [fault.partition(":")[0] for fault in found] == [
        "metrics.coding.full_bits",
        *(f"metrics.coding.reference, kl of reference-{name}" for name in ("mean", "2", "3")),
    ]
    assert all("2 other record(s) of this task have" in fault for fault in found)


def test_bits_of_budgets_that_others_do_not_have_are_at_fault() -> None:
    honest = [paid("one", 0.5), paid("two", 1.2)]
    forged = paid("three", 0.8)
    coding = forged.metrics.coding
    assert coding is not None
    assert coding.full_bits.value is not None
    larger = coding.full_bits.model_copy(update={"value": 2 * coding.full_bits.value, "high": None})
    metrics = forged.metrics.model_copy(update={"coding": coding.model_copy(update={"full_bits": larger})})
    (fault,) = faults(forged.model_copy(update={"metrics": metrics}), *honest)
    assert fault.startswith("metrics.coding.full_bits: ")


def test_values_of_the_reference_are_those_of_its_rows() -> None:
    values = coded(0.7)
    found = of_reference(synthetic_record(values).model_dump(mode="json"))
    assert len(found) == 1 + 2 * values["rung"].str.startswith("reference").sum() / 12
    rows = values.loc[values["rung"] == "reference-5"]
    assert found["metrics.coding.reference, kl of reference-5"] == pytest.approx(
        rows["kl"].sum() / rows["tokens"].sum(), rel=1e-5
    )


def test_random_circuits_that_others_do_not_have_are_at_fault() -> None:
    first = ranked("one", 0.3, {"0.1": (7, 2.0), "0.5": (93, 0.9)}, format="edge-attribution")
    second = ranked("two", 1.1, {"0.1": (12, 2.0), "0.5": (88, 0.9)}, format="random-edges")
    assert faults(first, second) == []
    forged = ranked("three", 0.4, {"0.1": (7, 3.0), "0.5": (90, 0.9)}, format="edge-patching")
    (fault,) = faults(forged, first, second)
    assert fault.startswith("KL of random circuits of 20 edges: ")
    assert "2 other record(s) of this task have" in fault


@pytest.mark.parametrize(
    ("circuits", "format", "edges"),
    [
        ({"0": (0, 2.5), "headline": (20, 2.0)}, None, [20]),
        ({"0.1": (20, 2.0), "0.5": (31, 1.7), "headline": (31, 1.7)}, "node-attribution", [20]),
        ({"0.1": (20, 2.0), "0.5": (31, 1.7), "headline": (31, 1.7)}, "edge-patching", [20, 100]),
        ({"0.1": (20, 2.0), "+0.5": (31, 1.7)}, "a format of another package", [20]),
    ],
)
def test_random_circuits_are_compared_where_their_size_is_known(
    circuits: dict[str, tuple[int, float]], format: str | None, edges: list[int]
) -> None:
    """Of what is pruned or ranks nodes the number is not known, unless both ways of counting agree."""
    given = {size: of for size, of in circuits.items() if size != "0"}
    found = of_random_circuits(ranked("one", 0.3, given, format=format).model_dump(mode="json"))
    assert list(found) == [f"KL of random circuits of {count} edges" for count in edges]
    assert found["KL of random circuits of 20 edges"] == pytest.approx(2.0, rel=1e-4)


def test_rounding_is_no_disagreement() -> None:
    assert agree(2.0, 2.005, "float32")
    assert not agree(2.0, 2.02, "float32")
    assert agree(2.0, 2.02, "bfloat16")
    assert not agree(math.nan, 2.0, "float32")
