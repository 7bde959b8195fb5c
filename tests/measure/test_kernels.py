"""A rung is one class and one line of the table: what it is given, and where its sample goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny import Shrink, make_loaded, make_task

from remainder.api import evaluate
from remainder.record.rungs import KERNELS, RUNGS, RungSpec
from remainder.report.explain import explain
from remainder.report.ladder import ladder
from remainder.residual.kernel import Context, Kernel, Sample
from remainder.residual.noise import Draw


class Again(Kernel):
    """The reconstruction once more, and the residual where it may be seen."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        seen = 0.0 if context.residual is None else context.residual
        return context.reconstruction.double() + seen


CASES = {
    "replaces": ({"base": "nothing"}, "coded"),
    "replaces-seeing": ({"base": "nothing", "needs": ("residual",)}, "clean"),
    "cancels": ({"base": "activation"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rung_of_the_table_is_measured_and_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    fields, like = CASES[name]
    changed: dict[str, Any] = dict(fields)
    for table in (RUNGS, KERNELS):
        monkeypatch.setitem(table, name, RungSpec("a test", f"{__name__}:Again", **changed))
    result = evaluate(make_loaded(make_task()), Shrink(), rungs=[name])
    values = result.values.set_index(["document", "window", "rung"])["loss"]
    new = torch.tensor(values.xs(name, level="rung").to_numpy())
    if like is None:
        raw, clean = (values.xs(rung, level="rung").to_numpy() for rung in ("raw", "clean"))
        assert not torch.allclose(new, torch.tensor(raw))
        assert not torch.allclose(new, torch.tensor(clean))
    else:
        torch.testing.assert_close(new, torch.tensor(values.xs(like, level="rung").to_numpy()))
    assert [rung.name for rung in ladder(result.record)] == ["raw", "coded", name]
    assert f"{name} " in explain(result.record)


class Watcher(Kernel):
    """The reconstruction, and a note of everything that was seen."""

    seen: ClassVar[list[Context]] = []

    def sample(self, context: Context, draw: Draw) -> Sample:
        self.seen.append(context)
        return torch.zeros_like(context.reconstruction, dtype=torch.float64)


@pytest.mark.parametrize("ladder", ["coded", "exact"])
def test_kernels_are_given_the_codes_that_the_ladder_stands_on(
    ladder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if ladder == "exact":
        request.getfixturevalue("exact_ladder")
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    for table in (RUNGS, KERNELS):
        for name, needs in (("watches", ("codes", "tokens")), ("blind", ())):
            spec = RungSpec("a test", f"{__name__}:Watcher", needs=needs, keeps=True)
            monkeypatch.setitem(table, name, spec)
    monkeypatch.setattr(Watcher, "seen", [])
    loaded, thing = make_loaded(make_task()), Shrink()
    evaluate(loaded, thing, rungs=["watches", "blind"])
    given = [context for context in Watcher.seen if context.codes is not None]
    assert len(given) == len(Watcher.seen) / 2
    assert all(context.residual is None for context in Watcher.seen)
    assert {context.tokens is None for context in Watcher.seen if context.codes is None} == {True}
    for context in given:
        codes, mask = context.codes, context.mask
        assert codes is not None
        decoded = thing.decode(codes.placed(mask))[mask]
        torch.testing.assert_close(decoded.double(), context.reconstruction[mask], rtol=1e-5, atol=1e-5)
        windows = loaded.windows("evaluation")
        place = {pair: i for i, pair in enumerate(zip(windows.documents, windows.indices, strict=True))}
        rows = [place[pair] for pair in zip(*context.places[1:], strict=True)]
        assert context.tokens is not None
        assert context.tokens.tolist() == windows.inputs[rows].tolist()
