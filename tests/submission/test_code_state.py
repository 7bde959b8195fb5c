"""What the code of a submission keeps – of what it encoded, or of earlier batches – is in no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from remainder.base.cache import sha256_file
from remainder.errors import InterpretationError
from remainder.interpretation.site_info import SiteInfo
from remainder.submission.sandbox import method as module
from remainder.submission.sandbox.confine import unlimited
from remainder.submission.sandbox.limits import Limits
from remainder.submission.sandbox.method import OWN, CodeMethod, open_method
from remainder.task.spec import load_task

SOURCE = """
class Method:
    kept, calls = 0, 0

    def encode(self, x):
        Method.kept, Method.calls = x.numel(), Method.calls + 1
        return x + KEEPS * Method.calls

    def decode(self, codes):
        return codes * 0 + Method.kept


def build(folder, site):
    return Method()
"""

pytestmark = [
    pytest.mark.slow,  # each process takes as long as torch is imported
    pytest.mark.skipif(bool(unlimited()), reason=f"nothing limits here {', '.join(unlimited())}"),
]

Open = Callable[[float], CodeMethod]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A method that counts its calls, and whose codes may tell it; a fresh one answers the second call."""
    monkeypatch.setattr(module, "_drawn", lambda calls: calls + 1)

    def begin(keeps: float) -> CodeMethod:
        file = tmp_path / "method.py"
        file.write_text(SOURCE.replace("KEEPS", repr(keeps)))
        site = SiteInfo("m", "a", "a", 3, 3)
        limits = Limits(memory=2_000_000_000, seconds=20.0)
        files = {f"{OWN}/{file.name}": (file, sha256_file(file))}
        return open_method("mine", files, "method.py:build", site, limits)

    return begin


def test_what_encode_saw_is_not_where_decode_runs(opened: Open) -> None:
    method, x = opened(0.0), torch.ones(2, 4, 3)
    assert torch.equal(method.encode(x), x)
    assert float(method.decode(x).abs().max()) == 0


def test_what_is_kept_of_earlier_batches_shows_in_a_fresh_process(opened: Open) -> None:
    method, x = opened(0.1), torch.ones(2, 4, 3)
    method.encode(x)
    with pytest.raises(
        InterpretationError, match="gives something else for the same batch in a fresh process"
    ):
        method.encode(x)


def test_which_calls_a_fresh_process_answers_is_drawn() -> None:
    drawn = {module._drawn(10) for _ in range(400)}
    assert len(drawn) > 20
    assert min(drawn) > 10
    assert max(drawn) <= 80


def test_a_site_is_told_of_by_its_task() -> None:
    site = SiteInfo.of(load_task("smollm2-135m/mlp-15"))
    assert (site.hook_in, site.hook_out) == ("blocks.15.mlp.hook_in", "blocks.15.hook_mlp_out")
    assert site.d_in == site.d_out == 576
