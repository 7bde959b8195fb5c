"""Which sources the shells of a flow keep, and what has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Shrink, make_loaded

from remainder.errors import InterpretationError, TaskError
from remainder.interpretation.kept import Kept, Some
from remainder.measure.keeping import ORDERS, look_at_sources
from remainder.measure.plan import plan
from remainder.runs.flow import measure_flow, plan_flow
from remainder.submission.objects import object_submission


def test_dynamic_keeps_the_largest_contributions_and_breaks_ties_by_index() -> None:
    codes = torch.tensor([[[3.0, -2.0, 0.0, 2.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]]])
    sizes = torch.tensor([1.0, 2.0, 9.0, 2.0, 1.0])  # contributions 3 4 0 4 1
    expected = {
        0: [[0.0] * 5, [0.0] * 5],
        1: [[0, -2.0, 0, 0, 0], [0, 1.0, 0, 0, 0]],
        2: [[0, -2.0, 0, 2.0, 0], [0, 1.0, 0, 0, 0]],
        3: [[3.0, -2.0, 0, 2.0, 0], [0, 1.0, 0, 0, 0]],
        5: codes[0].tolist(),
    }
    for keep, rows in expected.items():
        assert Some(keep, sizes=sizes).of(codes)[0].tolist() == rows


def test_what_is_kept_depends_on_no_other_token() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (3, 7, 50), generator=generator).float()  # full of ties
    some = Some(5, sizes=torch.ones(50))
    together = some.of(codes)
    assert (together.ne(0).sum(-1) == 5).all()
    for window in range(3):
        assert torch.equal(some.of(codes[window : window + 1])[0], together[window])


def test_a_static_choice_keeps_the_same_sources_everywhere() -> None:
    chosen = torch.tensor([True, False, True])
    codes = torch.ones(1, 2, 3)
    assert Some(2, chosen=chosen).of(codes).tolist() == [[[1.0, 0.0, 1.0]] * 2]


def test_kept_has_what_the_whole_one_has() -> None:
    kept = Kept(Shrink(), Some(1, sizes=torch.ones(16)))
    assert hasattr(kept, "skip") == hasattr(Shrink(), "skip")


class Counted(Shrink):
    """Counts how often it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.times += 1
        return super().encode(x)


def test_shells_share_the_codes_of_a_batch_and_have_the_numbers_that_they_have_alone(tmp_path: Path) -> None:
    loaded, counted = make_loaded(), Counted()
    settings = plan(loaded.task, "quick", rungs=("raw", "mean"))
    planned = plan_flow(loaded, object_submission(counted, "all"), settings, order="energy", keeps=(2, 5))
    before = counted.times
    together = measure_flow(planned, tmp_path)
    of_both, before = counted.times - before, counted.times
    alone, _ = loaded.measure(planned.shells[5], settings)
    of_one = counted.times - before
    assert alone.metrics == together.records[1].metrics
    # The other finds the codes of 4 batches of calibration, twice, and of 5 of `fit`; rules are each one's.
    assert of_both <= 2 * of_one - 13


class Restless(Shrink):
    """Never encodes the same twice."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x) * (1 + 0.1 * torch.rand(()))


def test_shells_of_what_is_not_deterministic_are_refused() -> None:
    loaded = make_loaded()
    with pytest.raises(InterpretationError, match="the same activations"):
        plan_flow(
            loaded, object_submission(Restless(), "restless"), plan(loaded.task, "quick"), order="index"
        )


def test_orders_rank_by_what_they_say() -> None:
    loaded = make_loaded()
    rows = loaded.rows("calibration")
    generator = torch.Generator().manual_seed(1)
    decoder = torch.randn(6, 16, generator=generator)

    class Linear:
        W_dec = decoder

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ decoder.T - torch.arange(6.0) / 10)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes @ decoder

    entry = object_submission(Linear(), "linear")
    settings = plan(loaded.task, "quick")
    found = {order: look_at_sources(loaded, entry, settings, order) for order in ORDERS}
    codes = Linear().encode(rows).double()
    norms = decoder.double().norm(dim=1)
    assert found["dynamic"].ranking is None
    assert found["dynamic"].full == int((codes > 0).sum(1).max())
    assert found["dynamic"].sizes == pytest.approx(norms.numpy(), rel=1e-5)
    energy, variance = codes.square().mean(0) * norms**2, codes.var(0, correction=0) * norms**2
    for order, scores in (("energy", energy), ("variance", variance)):
        ranking = found[order].ranking
        assert ranking is not None
        assert ranking.tolist() == scores.argsort(descending=True).tolist()
    index, random = found["index"].ranking, found["random"].ranking
    assert index is not None
    assert random is not None
    assert index.tolist() == list(range(6))
    assert sorted(random.tolist()) == list(range(6)) != random.tolist()
    attributed = found["attribution"].ranking
    assert attributed is not None
    assert sorted(attributed.tolist()) == list(range(6))


def test_keeping_all_sources_is_the_whole_interpretation(tmp_path: Path) -> None:
    loaded = make_loaded()
    entry = object_submission(Shrink(), "shrink")
    settings = plan(loaded.task, "quick", rungs=("raw", "full"), pairs=1)
    planned = plan_flow(loaded, entry, settings, order="index", keeps=(0, 16))
    found = measure_flow(planned, tmp_path)
    whole, _ = loaded.measure(entry, settings)
    assert found.records[-1].metrics.rungs == whole.metrics.rungs
    assert found.flow.scales["bath"].reason == "rung mean was not measured"


class Square:
    """Decodes to squares: no source has a contribution of its own."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes * codes.sum(-1, keepdim=True)


class Silent(Shrink):
    """Codes that are never on."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("thing", "order", "says"),
    [(Square(), "dynamic", "no contributions: decode is not affine"), (Silent(), "index", "has no source")],
)
def test_what_has_no_sources_is_refused(thing: object, order: str, says: str) -> None:
    loaded = make_loaded()
    with pytest.raises(InterpretationError, match=says):
        plan_flow(loaded, object_submission(thing, "thing"), plan(loaded.task, "quick"), order=order)


@pytest.mark.parametrize(("keeps", "says"), [((0, 17), "--keep 17: .* has 16 sources"), ((4,), "one shell")])
def test_more_than_there_is_is_refused(keeps: tuple[int, ...], says: str) -> None:
    loaded = make_loaded()
    with pytest.raises(TaskError, match=says):
        plan_flow(
            loaded,
            object_submission(Shrink(), "shrink"),
            plan(loaded.task, "quick"),
            order="index",
            keeps=keeps,
        )
