"""The process that runs a submission's code: what it is kept from, and what becomes of what it does."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from code_files import HOSTILE

from remainder.errors import InterpretationError
from remainder.submission.sandbox.confine import unlimited
from remainder.submission.sandbox.limits import Limits
from remainder.submission.sandbox.process import Process

LIMITS = Limits(memory=2_000_000_000, seconds=20.0, largest=50_000_000)
ACTS = re.findall(r"^@act\ndef (\w+)", HOSTILE, re.M)
SITE = {"model": "m", "hook_in": "a", "hook_out": "a", "d_in": 3, "d_out": 3}

pytestmark = pytest.mark.skipif(bool(unlimited()), reason=f"nothing limits here {', '.join(unlimited())}")

Start = Callable[..., Process]
MUTE = """class Mute(Exception):
    def __str__(self):
        raise SystemExit(1)

raise Mute
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is none of the code's business."""
    place = tmp_path_factory.mktemp("outside")
    (place / "kept").write_text("a secret")
    return place


@pytest.fixture(scope="module")
def start(outside: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start the hostile code."""
    started = []

    def begin(limits: Limits = LIMITS) -> Process:
        home = tmp_path_factory.mktemp("code")
        own, work = home / "own", home / "work"
        own.mkdir()
        work.mkdir()
        (own / "method.py").write_text(HOSTILE.replace("OUTSIDE", str(outside)))
        (own / "fails.py").write_text("import torch\nraise RuntimeError('no way in')\n")
        (own / "needs.py").write_text("import beside\nimport package_that_is_not_there\n")
        (own / "beside.py").write_text("")
        (own / "long.py").write_text("raise ValueError(5000 * 'A')\n")
        (own / "mute.py").write_text(MUTE)
        (own / "tasks.py").write_text("import remainder\nremainder.open_task('tiny/digits')\n")
        (own / "gives.py").write_text("def build(folder, site):\n    return 3\n")
        (own / "half.py").write_text(
            "class A:\n    def encode(self, x): ...\ndef build(f, s):\n    return A()\n"
        )
        process = Process("mine", [own], work, limits)
        started.append(process)
        process.own = own  # type: ignore[attr-defined]
        build(process)
        return process

    yield begin
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def process(start: Start) -> Process:
    return start()


def build(process: Process, entry: str = "method.py:build") -> None:
    own = process.own  # type: ignore[attr-defined]
    words = {"verb": "build", "entry": entry, "package": None, "folder": str(own), "site": SITE}
    process.ask(words, expected="built")


def ask(process: Process, act: str) -> torch.Tensor:
    x = torch.full((2, 3), float(ACTS.index(act)))
    data = x.numpy().reshape(-1).view("uint8").data
    answer = process.ask({"verb": "encode", "shape": [2, 3]}, data, expected="tensor")
    return torch.frombuffer(answer.numbers, dtype=torch.float32).reshape(answer.words["shape"])


REFUSED = [
    ("write_beside", "PermissionError"),
    ("write_home", "PermissionError"),
    ("remove", "PermissionError"),
    ("change_mode", "PermissionError"),
    ("truncate", "PermissionError"),
    ("read", "PermissionError"),
    ("read_environment", "PermissionError"),
    ("connect", "PermissionError"),
    ("datagram", "PermissionError"),
    ("lock", "PermissionError"),
    ("lock_bytes", "PermissionError"),
    ("lock_an_open_file", "PermissionError"),
    ("watch", "PermissionError"),
    ("start", "PermissionError"),
    ("bomb", "PermissionError"),
    ("kill_parent", "PermissionError"),
    ("raise_limit", "ValueError|PermissionError"),
    ("fill", "RuntimeError|MemoryError"),
    ("fill_file", "OSError"),
    ("leave", "SystemExit"),
]


@pytest.mark.parametrize(("act", "error"), REFUSED)
def test_what_it_may_not_do_raises_in_it_and_it_can_be_asked_again(
    process: Process, outside: Path, act: str, error: str
) -> None:
    with pytest.raises(InterpretationError, match=f"mine: encode in its code raised ({error})") as caught:
        ask(process, act)
    assert caught.value.fix
    assert (outside / "kept").read_text() == "a secret"
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert torch.equal(ask(process, "nothing"), torch.zeros(2, 3))


def test_a_failure_is_told_with_its_place(process: Process) -> None:
    with pytest.raises(
        InterpretationError, match=r"\(method\.py, line \d+ > method\.py, line \d+\)"
    ) as caught:
        ask(process, "write_home")
    assert "tempfile" in (caught.value.fix or "")
    with pytest.raises(InterpretationError) as caught:
        ask(process, "fill")
    assert "2 GB" in (caught.value.fix or "")
    assert "REMAINDER_CODE_GB" in (caught.value.fix or "")


@pytest.mark.parametrize("act", ["print_much", "write_inside", "use_threads"])
def test_what_it_may_do(process: Process, act: str) -> None:
    assert torch.equal(ask(process, act), torch.full((2, 3), float(ACTS.index(act))))


def test_what_is_no_tensor_is_refused(process: Process) -> None:
    with pytest.raises(InterpretationError, match="mine: encode gave list instead of a tensor"):
        ask(process, "give_a_list")


@pytest.mark.parametrize(
    ("entry", "words", "fix"),
    [
        (
            "fails.py:build",
            r"build in its code raised RuntimeError: no way in \(fails.py, line 2\)",
            "correct",
        ),
        ("needs.py:build", "ModuleNotFoundError: No module named 'package_that_is_not_there'", "install"),
        ("long.py:build", r"raised ValueError: A{400} … \(long.py, line 1\)", "correct"),
        (
            "mute.py:build",
            r"raised Mute: its message cannot be made: SystemExit \(mute.py, line 5\)",
            "correct",
        ),
        ("tasks.py:build", r"raised TaskError: there is no task .* \(tasks.py, line 2\)", "read tasks"),
        ("gives.py:build", "an object of type int, which has no encode and no decode", "correct"),
        ("half.py:build", "an object of type A, which has no decode", "correct"),
        ("gives.py:make", "gives.py has no make; expected a function", "correct"),
    ],
)
def test_an_entry_that_gives_no_method(process: Process, entry: str, words: str, fix: str) -> None:
    with pytest.raises(InterpretationError, match=words) as caught:
        build(process, entry)
    assert (caught.value.fix or "").startswith(fix)
    build(process)


ENDED = [
    ("loop", "encode took longer than 1 seconds", "REMAINDER_CODE_SECONDS"),
    ("vanish", "encode ended its process with code 7; it printed last: about to leave", "return"),
    ("fill_folder", "encode wrote more than 0.05 GB or 10,000 files to its temporary folder", "write less"),
    ("crash", "encode was ended by signal 11", "compiled code"),
    ("babble", "encode sent what is no answer: it is no message", "open files"),
    ("announce", "encode sent what is no answer: it announces 1,000,000,000,000,002 bytes", "open files"),
]


def test_a_process_that_cannot_be_confined_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "remainder.submission.sandbox.process._PROGRAM", "print('no room'); raise SystemExit(4)"
    )
    with pytest.raises(InterpretationError, match=r"starting ended its process with code 4.*no room"):
        Process("mine", [], tmp_path, LIMITS)


@pytest.mark.parametrize(("act", "words", "fix"), ENDED[:1])
def test_an_endless_loop_is_ended(start: Start, act: str, words: str, fix: str) -> None:
    ends(start, act, words, fix)


@pytest.mark.slow
@pytest.mark.parametrize(("act", "words", "fix"), ENDED[1:])
def test_whatever_ends_it_is_told_and_it_stays_ended(start: Start, act: str, words: str, fix: str) -> None:
    ends(start, act, words, fix)


def ends(start: Start, act: str, words: str, fix: str) -> None:
    process = start(dataclasses.replace(LIMITS, seconds=1.0) if act == "loop" else LIMITS)
    for _ in range(2):
        with pytest.raises(InterpretationError, match=f"mine: its code was stopped: {words}") as caught:
            ask(process, act)
        assert fix in (caught.value.fix or "")
    with pytest.raises(ProcessLookupError):
        os.killpg(process._process.pid, 0)
