"""Submissions that are code: trust, hashes, the same score as in this process, and the rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from code_files import SOUND, write_code
from tiny import make_loaded

import remainder
from remainder.errors import InterpretationError
from remainder.interpretation.site_info import SiteInfo
from remainder.submission.description import Description, read_description
from remainder.submission.method import FORMATS
from remainder.submission.open import open_submission
from remainder.submission.sandbox.confine import unlimited

confined = pytest.mark.skipif(bool(unlimited()), reason="this system does not confine code")


def test_it_is_not_executed_unless_it_is_trusted(tmp_path: Path) -> None:
    folder = write_code(tmp_path / "mine", "raise SystemExit('executed')\n")
    with pytest.raises(InterpretationError, match=r"coded is code: .*mine/method\.py is executed") as caught:
        open_submission(folder)
    assert "--trust-code" in (caught.value.fix or "")
    found = open_submission(folder, trust_code=True)
    assert (found.method.format, found.format_name, found.is_trusted) == ("code", "code", True)
    assert "is_trusted" not in found.model_dump()
    assert FORMATS["code"].runs_code
    # Records are verified by this, which knows nothing of trust.
    assert read_description(folder, Description).method == found.method


def test_every_file_that_it_can_read_is_hashed(tmp_path: Path) -> None:
    folder = write_code(tmp_path / "mine")
    first = open_submission(folder, trust_code=True)
    (folder / ".hidden").write_text("a")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "method.pyc").write_text("a")
    assert open_submission(folder, trust_code=True).hash == first.hash
    (folder / "weights").mkdir()
    (folder / "weights" / "w.bin").write_bytes(b"1")
    second = open_submission(folder, trust_code=True)
    assert sorted(second.files) == ["method.py", "weights/w.bin"]
    (folder / "weights" / "w.bin").write_bytes(b"2")
    third = open_submission(folder, trust_code=True)
    (folder / "method.py").write_text(f"{SOUND}\n")
    fourth = open_submission(folder, trust_code=True)
    assert len({one.hash for one in (first, second, third, fourth)}) == 4


@pytest.mark.parametrize("target", ["elsewhere", "method.py"])
def test_a_link_is_refused(tmp_path: Path, target: str) -> None:
    folder = write_code(tmp_path / "mine")
    (tmp_path / "elsewhere").write_text("a")
    (folder / "data").symlink_to(folder / target if target == "method.py" else tmp_path / target)
    with pytest.raises(InterpretationError, match="data is a link or no file"):
        open_submission(folder, trust_code=True)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("other.py:build", "there is no other.py"),
        ("nobody-has-this", "no installed package registers 'nobody-has-this'"),
        ("../method.py:build", "must lie in the submission's folder"),
        ("method.py:", "write"),
        ("method:build", "write"),
        ("method.py:a.b", "write"),
    ],
)
def test_an_entry_that_is_none(tmp_path: Path, entry: str, words: str) -> None:
    folder = write_code(tmp_path / "mine")
    text = (folder / "submission.toml").read_text()
    (folder / "submission.toml").write_text(text.replace("method.py:build", entry))
    with pytest.raises(InterpretationError, match=words):
        open_submission(folder, trust_code=True)


@confined
def test_the_score_is_that_of_the_same_object_in_this_process(tmp_path: Path) -> None:
    folder, rungs = write_code(tmp_path / "mine"), ("raw", "coded")
    here: dict[str, object] = {}
    exec(SOUND, here)
    site = SiteInfo("m", "a", "a", 16, 16)
    loaded = make_loaded()
    ours = remainder.evaluate(loaded, here["build"](tmp_path, site), rungs=rungs)  # type: ignore[operator]
    found = remainder.evaluate(loaded, folder, rungs=rungs, trust_code=True)
    assert found.record.submission.format == "code"
    assert found.record.submission.hash == open_submission(folder, trust_code=True).hash
    numbers = [result.values.select_dtypes("number").to_numpy() for result in (ours, found)]
    assert numbers[0].shape == numbers[1].shape
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-6, atol=1e-6, equal_nan=True)
    # Its decoder is not affine, and yet its codes have bits and it has a place among others of that size.
    assert found.record.metrics.coding is not None
    assert found.record.metrics.coding.points["coded"].bits.value > 0
    assert json.loads(found.record.model_dump_json())["submission"]["method"] == {"format": "code"}
