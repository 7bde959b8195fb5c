"""Submissions that are code: trust, hashes, the same score as in this process, and the rules."""

from __future__ import annotations

import gc
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from code_files import HOSTILE, SOUND, TOML, write_code
from filelock import FileLock
from terminal import Command
from tiny import make_loaded, make_task, write_task

import remainder
from remainder.errors import InterpretationError
from remainder.interpretation.site_info import SiteInfo
from remainder.loading.site import LanguageTask
from remainder.measure.plan import plan
from remainder.report.result import Result
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


def test_code_that_is_named_alone_is_told_what_belongs_beside_it(tmp_path: Path) -> None:
    folder = write_code(tmp_path / "mine")
    with pytest.raises(InterpretationError, match="is a file; a submission is a folder"):
        open_submission(folder / "method.py", trust_code=True)
    (folder / "submission.toml").unlink()
    with pytest.raises(InterpretationError, match="which says what it makes") as alone:
        open_submission(folder / "method.py", trust_code=True)
    shown = (alone.value.fix or "").partition("\n\n")[2].replace("SUITE/TASK", "tiny/digits")
    (folder / "submission.toml").write_text(shown.replace('licence = "…"', 'licence = "MIT"'))
    assert open_submission(folder, trust_code=True).name == "my-method"
    (folder / "submission.toml").unlink()
    with pytest.raises(InterpretationError, match="nor what a known format consists") as bare:
        open_submission(folder, trust_code=True)
    assert "docs/submit-a-method.md" in (bare.value.fix or "")
    with pytest.raises(InterpretationError, match="no baseline of that name") as nobody:
        open_submission("0")
    assert len(nobody.value.fix or "") < 200


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Install a package of one module that registers a method, as pip leaves it on the disk."""

    def make(source: str = SOUND) -> Path:
        site, info = tmp_path / "site", tmp_path / "site" / "Bent_Codes-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "bent_codes.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bent-codes\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[remainder.methods]\nbent = bent_codes:build\n")
        names = ["bent_codes.py", *(f"{info.name}/{name}" for name in ("METADATA", "entry_points.txt"))]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, f"{info.name}/RECORD"]))
        monkeypatch.syspath_prepend(site)
        return site

    return make


def named(folder: Path) -> Path:
    """A submission that names the entry point."""
    folder.mkdir()
    (folder / "submission.toml").write_text(TOML.format(name="coded", entry="bent"))
    return folder


def test_all_files_of_an_installed_package_are_hashed(tmp_path: Path, install: Callable[..., Path]) -> None:
    site, folder = install(), named(tmp_path / "mine")
    with pytest.raises(InterpretationError, match="bent_codes:build of an installed package is executed"):
        open_submission(folder)
    found = open_submission(folder, trust_code=True)
    info = "bent-codes-1.0/Bent_Codes-1.0.dist-info"
    names = ["bent-codes-1.0/bent_codes.py", f"{info}/METADATA", f"{info}/entry_points.txt"]
    assert sorted(found.files) == sorted(names)
    assert found.kilobytes is None
    (site / "bent_codes.py").write_text(f"{SOUND}\n")
    assert open_submission(folder, trust_code=True).hash != found.hash
    (site / "Bent_Codes-1.0.dist-info" / "RECORD").write_text("Bent_Codes-1.0.dist-info/METADATA,,\n")
    with pytest.raises(InterpretationError, match="bent_codes is not among that package") as caught:
        open_submission(folder, trust_code=True)
    assert "editable" in (caught.value.fix or "")


@pytest.fixture(scope="module")
def loaded() -> LanguageTask:
    return make_loaded()


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh process is asked: each takes a second or two."""
    monkeypatch.setattr("remainder.submission.sandbox.method._drawn", lambda calls: 10**9)


def numbers(result: Result) -> Any:
    return result.values.select_dtypes("number").to_numpy()


def children() -> set[str]:
    """Processes that this one has started and that still run; other tests may have left some."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def same(one: Any, other: Any) -> None:
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


def bent(folder: Path) -> Any:
    """The same object in this process."""
    here: dict[str, Any] = {}
    exec(SOUND, here)
    return here["build"](folder, SiteInfo("m", "a", "a", 16, 16))


@pytest.fixture(scope="module")
def ours(loaded: LanguageTask, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The score of the same object in this process, with bits."""
    return remainder.evaluate(loaded, bent(tmp_path_factory.mktemp("none")), rungs=("raw", "coded"))


@confined
def test_the_score_is_that_of_the_same_object_in_this_process(
    tmp_path: Path, loaded: LanguageTask, rarely: None
) -> None:
    folder, before = write_code(tmp_path / "mine"), children()
    found = remainder.evaluate(loaded, folder, rungs=("raw",), trust_code=True)
    assert found.record.submission.format == "code"
    assert found.record.submission.hash == open_submission(folder, trust_code=True).hash
    same(numbers(remainder.evaluate(loaded, bent(folder), rungs=("raw",))), numbers(found))
    # Nothing of it is left once it is measured.
    assert children() <= before
    assert json.loads(found.record.model_dump_json())["submission"]["method"] == {"format": "code"}


@confined
@pytest.mark.slow
def test_a_fresh_process_now_and_then_changes_nothing(
    tmp_path: Path, loaded: LanguageTask, ours: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.submission.sandbox.method._drawn", lambda calls: 3 * calls)
    folder = write_code(tmp_path / "mine")
    found = remainder.evaluate(loaded, folder, rungs=("raw", "coded"), trust_code=True)
    same(numbers(ours), numbers(found))
    # Its decoder is not affine, and yet its codes have bits and it has a place among others of that size.
    assert found.record.metrics.coding is not None
    assert found.record.metrics.coding.points["coded"].bits.value > 0
    assert found.record.metrics.coding.points["coded"].efficiency.value is not None


@confined
@pytest.mark.slow
def test_an_installed_method_scores_as_its_file(
    tmp_path: Path, loaded: LanguageTask, ours: Result, install: Callable[..., Path], rarely: None
) -> None:
    install()
    folder = named(tmp_path / "mine")
    (folder / "weights.bin").write_bytes(b"1")
    found = remainder.evaluate(loaded, folder, rungs=("raw", "coded"), trust_code=True)
    same(numbers(ours), numbers(found))
    assert "weights.bin" in found.record.submission.files


@confined
@pytest.mark.slow
def test_it_is_closed_and_asked_again_and_what_was_left_behind_is_removed(
    tmp_path: Path, rarely: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    left = {age: tmp_path / "tmp" / f"remainder-code-{age}" for age in ("old", "new", "held")}
    for age, folder in left.items():
        folder.mkdir()
        (folder / "weights").write_text("a")
        if age != "new":
            os.utime(folder, (1, 1))
    held = FileLock(left["held"] / "lock")
    held.acquire()
    os.utime(left["held"], (1, 1))
    mine, x = open_submission(write_code(tmp_path / "mine"), trust_code=True), torch.ones(1, 2, 16)
    before = children()
    method = mine.build(make_task(), lambda: pytest.fail("it is told no moments"))
    assert [age for age, folder in left.items() if folder.exists()] == ["new", "held"]
    first = method.encode(x)
    assert len(children() - before) == 1
    method.rest()
    assert children() <= before
    assert torch.equal(method.encode(x), first)
    del method
    gc.collect()
    assert children() <= before
    assert {folder.name for folder in (tmp_path / "tmp").iterdir()} == {left["new"].name, left["held"].name}


def test_code_takes_memory_for_its_processes(tmp_path: Path, loaded: LanguageTask) -> None:
    """So that a sweep of many does not hold the processes of all of them."""
    entry = open_submission(write_code(tmp_path / "mine"), trust_code=True)
    groups = loaded.groups([entry] * 7, plan(loaded.task, "quick", rungs=("raw",), device="cpu"))
    assert [len(group) for group in groups] == [3, 3, 1]


LEAK = """import torch


class Leak:
    def __init__(self, width):
        self.calls, self.kept, self.draw = 0, None, 1 + torch.rand(1, generator=GENERATOR)

    def encode(self, x):
        self.calls += 1
        self.kept = x
        ENCODE

    def decode(self, codes):
        DECODE


def build(folder, site):
    return Leak(site.d_in)
"""
"""A method with a fault."""

SEEDED, FREE = "torch.Generator().manual_seed(1)", "torch.seed() and None"
FAULTS = {
    "deterministic": ("return x + 0.1 * self.calls", "return codes", SEEDED, "are given again"),
    "causal": ("return x + 0.1 * x.flip(1)", "return codes", SEEDED, "later positions change"),
    "local": ("return x + 0.1 * x.mean(0)", "return codes", SEEDED, "other windows"),
    "by its codes": ("return x[..., :2]", "return self.kept", SEEDED, "gave NoneType instead of a tensor"),
    "late": (
        "return x * (1 + 0.01 * (self.calls > 18))", "return codes", SEEDED, "else for the same batch in a fr"
    ),
    "drawn": ("return x * self.draw", "return codes", FREE, "else for the same batch in a fresh process"),
    "shape": ("return x", "return codes[..., :3]", SEEDED, r"decode gave shape \(.*, 3\)"),
    "nan": ("return x / 0 * 0", "return codes", SEEDED, "encode gave .* values that are NaN or infinite"),
    "windows": ("return x[0]", "return codes", SEEDED, "encode gave shape"),
}  # fmt: skip


@confined
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_method_that_breaks_a_rule_has_no_score(
    tmp_path: Path, loaded: LanguageTask, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(
        "remainder.submission.sandbox.method._drawn", lambda calls: 20 if calls < 20 else 10**9
    )
    encode, decode, generator, words = FAULTS[fault]
    source = LEAK.replace("ENCODE", encode).replace("DECODE", decode).replace("GENERATOR", generator)
    folder = write_code(tmp_path / "mine", source)
    with pytest.raises(InterpretationError, match=words):
        remainder.evaluate(loaded, folder, rungs=("raw", "coded"), trust_code=True)


def test_a_run_without_trust_says_so_at_once(tmp_path: Path, remainder: Command) -> None:
    place, folder = write_task(tmp_path / "tasks"), write_code(tmp_path / "mine")
    done = remainder("run", place, "--with", folder, "--out", tmp_path / "results")
    assert done.code == InterpretationError.exit_code
    assert "method.py is executed" in "".join(done.err.split("\n"))
    assert not list((tmp_path / "results").rglob("*.json"))


@confined
@pytest.mark.slow
def test_workers_measure_code_and_what_fails_leaves_no_record(tmp_path: Path, remainder: Command) -> None:
    place, out = write_task(tmp_path / "tasks"), tmp_path / "results"
    good = write_code(tmp_path / "good", name="good")
    bad = write_code(
        tmp_path / "bad", SOUND.replace("torch.tanh(", "__import__('os')._exit(3 or "), name="bad"
    )
    told = ("--with", good, "--with", bad, "--trust-code", "--out", out, "--rungs", "raw,coded")
    done = remainder("run", place, *told, "--workers", "2")
    assert done.code != 0
    assert "bad: its code was stopped: decode" in " ".join(done.err.split())
    records = [path for path in out.rglob("*.json") if "/good/" in str(path) or "/bad/" in str(path)]
    assert {path.parent.name for path in records} == {"good"}


STOPPED = {
    "loop": "encode took longer than 3 seconds",
    "fill": "REMAINDER_CODE_GB",
    "bomb": "raised BlockingIOError|raised PermissionError",
    "connect": "raised PermissionError",
    "write_home": "raised PermissionError",
    "vanish": "ended its process with code 7",
    "leave": "raised SystemExit",
}
"""Acts of the hostile code that end a measurement, and words of the message."""


@confined
@pytest.mark.slow
def test_whatever_code_does_a_run_tells_it_and_writes_no_record(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_CODE_SECONDS", "3")
    place, out, outside = write_task(tmp_path / "tasks"), tmp_path / "results", tmp_path / "outside"
    outside.mkdir()
    told: list[object] = []
    for act in STOPPED:
        source = HOSTILE.replace("OUTSIDE", str(outside))
        source = source.replace("ACTS[int(x.flatten()[0])](x)", f"{act}(x)")
        told += ["--with", write_code(tmp_path / act, source, name=act.replace("_", "-"))]
    done = remainder("run", place, *told, "--trust-code", "--out", out, "--rungs", "raw")
    assert done.code == InterpretationError.exit_code
    said = " ".join((done.out + done.err).split())
    for act, words in STOPPED.items():
        assert re.search(rf"{act.replace('_', '-')}: [^!]*({words})", said), act
    assert not list(out.rglob("*.csv.gz"))
    assert list(outside.iterdir()) == []
