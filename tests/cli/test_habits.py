"""Habits of a command line: levels of talk, completion, a doctor, a cache that can be cleared, refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
import typer
from filelock import FileLock
from terminal import Command
from torch import nn

import remainder as package
from remainder.base import housekeeping
from remainder.base.cache import build_once
from remainder.base.in_use import hold
from remainder.base.paths import project_root
from remainder.cli import complete
from remainder.cli.main import app
from remainder.errors import RemainderError, TaskError
from remainder.model.copied import _check
from remainder.model.device import pick_device
from remainder.publish import doctor
from remainder.task.spec import list_tasks

TASK = "tiny/digits"
RUN = ("run", TASK, "--with", "mean-only", "--rungs", "raw", "--fresh")


def shell(*words: str, **environment: str) -> str:
    """Standard output of another process with this interpreter."""
    known = {**os.environ, "PYTHONPATH": str(project_root() / "harness"), "COLUMNS": "80", **environment}
    done = subprocess.run([sys.executable, *words], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# levels of talk


def commands(group: click.Group, name: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for word, command in group.commands.items():
        whole = f"{name} {word}".strip()
        found |= commands(command, whole) if hasattr(command, "commands") else {whole: command}
    return found


def test_every_command_has_both_levels() -> None:
    found = commands(typer.main.get_command(app))  # type: ignore[arg-type]
    assert {"run", "board build", "cache clear", "doctor"} <= found.keys()
    for name, command in found.items():
        options = {word for parameter in command.params for word in parameter.opts}
        assert {"-q", "--quiet", "-v", "--verbose"} <= options, name


def test_quiet_is_the_table_alone_and_verbose_has_seconds_of_stages(
    tmp_path: Path, remainder: Command
) -> None:
    usual = remainder(*RUN, "--out", tmp_path)
    assert "1/1 mean-only: measured in" in usual.err
    quiet = remainder(*RUN, "--out", tmp_path, "-q")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == usual.out
    assert remainder("-q", "run", "no/task").err.startswith("remainder: there is no task")
    assert remainder("run", "no/task").err.startswith("loading libraries")  # one call leaves nothing behind
    verbose = remainder(*RUN, "--out", tmp_path, "--verbose")
    assert verbose.out == usual.out
    assert re.search(r"^  \w+ \d+\.\d s, ", verbose.err, re.MULTILINE)
    assert not re.search(r"^  \w+ \d+\.\d s, ", usual.err, re.MULTILINE)


def test_quiet_keeps_what_went_wrong_and_verbose_shows_where(remainder: Command) -> None:
    quiet = remainder("run", "no/task", "-q")
    assert (quiet.code, quiet.out) == (TaskError.exit_code, "")
    assert quiet.err.startswith("remainder: there is no task 'no/task'")
    assert "Traceback" not in quiet.err
    verbose = remainder("run", "no/task", "-v")
    assert verbose.code == TaskError.exit_code
    assert "Traceback" in verbose.err
    assert "remainder: there is no task 'no/task'" in verbose.err
    assert "Traceback" not in remainder("run", "no/task").err
    assert "--quiet and --verbose are both given" in " ".join(remainder("tasks", "-q", "-v").err.split())


# python -m, completion


def test_the_package_is_a_command() -> None:
    assert shell("-m", "remainder", "--version") == f"remainder {package.__version__}\n"


def test_a_shell_completes_names_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['remainder']; from remainder.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    asked = {
        "_REMAINDER_COMPLETE": "complete_bash",
        "COMP_WORDS": "remainder run tiny/dig",
        "COMP_CWORD": "2",
    }
    assert shell("-c", code, **asked).split() == [TASK]


def test_what_is_completed() -> None:
    assert complete.tasks("") == list_tasks()
    assert complete.suites("ti") == ["tiny"]
    assert "mean-only" in complete.submissions("me")
    assert complete.parts_of_cache("act") == ["activations"]
    assert complete.tasks("nothing") == []


# devices


def test_auto_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, remainder: Command, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    monkeypatch.setenv("REMAINDER_DEVICE", "cpu")
    assert pick_device("auto").type == "cpu"
    assert pick_device("cuda").type == "cuda"
    monkeypatch.setenv("REMAINDER_DEVICE", "")
    assert pick_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("REMAINDER_DEVICE", "tpu")
    done = remainder(*RUN, "--out", tmp_path)
    assert done.code == TaskError.exit_code
    assert "there is no device 'tpu', which REMAINDER_DEVICE names" in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TaskError, match="there is no device 'tpu', which REMAINDER_DEVICE names"):
        package.evaluate(TASK, "mean-only")
    assert remainder("check", "mean-only", "--task", TASK, "--device", "cpu").code == 0
    monkeypatch.setenv("REMAINDER_DEVICE", "cuda")
    with pytest.raises(TaskError, match="REMAINDER_DEVICE=cuda: this PyTorch sees no CUDA device"):
        pick_device("auto")


def test_gpus_of_apple_are_refused(monkeypatch: pytest.MonkeyPatch, remainder: Command) -> None:
    done = remainder(*RUN, "--device", "mps")
    assert done.code == TaskError.exit_code
    assert "--device mps: GPUs of Apple are not supported: they have no float64" in " ".join(done.err.split())
    monkeypatch.setenv("REMAINDER_DEVICE", "mps:0")
    with pytest.raises(TaskError, match="REMAINDER_DEVICE=mps:0: GPUs of Apple are not supported"):
        pick_device("auto")


class Placed(nn.Module):
    """A module whose weights say that they lie on devices that are not here."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        for number, place in enumerate(places):
            stub = SimpleNamespace(device=torch.device(place), is_floating_point=lambda: True)
            self._parameters[f"w{number}"] = stub  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (("cuda:0", "cuda:1"), r"several places \(cuda:0, cuda:1\), and models over several devices are not"),
        (("cuda:0", "cpu", "meta"), r"several places \(cpu, cuda:0, meta\), and models over several devices"),
        (("mps:0",), "GPUs of Apple are not supported"),
    ],
)
def test_a_model_that_lies_elsewhere_is_refused(places: tuple[str, ...], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        _check(Placed(*places), "M")


def test_windows_is_refused_by_commands_and_functions(
    monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    done = remainder("tasks")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("remainder: Windows is not supported: ")
    assert "WSL 2" in done.err
    with pytest.raises(RemainderError, match="Windows is not supported"):
        _ = package.evaluate


# doctor


def broken_package(folder: Path) -> Path:
    """A folder for `sys.path` with an installed package that cannot be imported."""
    (folder / "third-1.0.dist-info").mkdir(parents=True)
    (folder / "third-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: third\nVersion: 1.0\n"
    )
    (folder / "third-1.0.dist-info" / "entry_points.txt").write_text(
        "[remainder.tasks]\na/b = gone_of_third:X\n"
    )
    return folder


def test_a_doctor_says_what_is_there(remainder: Command) -> None:
    done = remainder("doctor")
    assert done.code == 0, done.out
    titles = [line for line in done.out.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        "machine",
        "packages",
        "cache",
        "settings",
        "other packages",
        "torch",
        "nothing is missing",
    ]
    assert all(len(line) <= 80 for line in done.out.splitlines())
    content = json.loads(remainder("doctor", "--format", "json").out)
    assert content["faults"] == []
    assert content["machine"]["tasks"] == len(list_tasks())
    assert content["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert content["torch"]["auto"] == pick_device("auto").type


def test_what_is_missing_is_named_with_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, remainder: Command, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(broken_package(tmp_path / "site"))
    required = ["nothing-of-that-name>=3", "numpy>=999", "rich", "tomli>=2; python_version < '3'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: required)
    monkeypatch.setenv("REMAINDER_DEVICE", "tpu")
    done = remainder("doctor", "--format", "json")
    assert done.code == 1
    content = json.loads(done.out)
    assert content["packages"]["nothing-of-that-name"] == "missing"
    assert "tomli" not in content["packages"]
    assert content["other packages"] == {"tasks a/b": "gone_of_third:X, by third 1.0"}
    told = {fault["what"].partition(", w")[0]: fault["fix"] for fault in content["faults"]}
    assert list(told) == [
        "nothing-of-that-name is missing",
        f"numpy is {doctor.metadata.version('numpy')}, and >=999 is needed",
        "the package third 1.0 registers 'a/b' in remainder.tasks as gone_of_third:X",
        "there is no device 'tpu'",
    ]
    assert told["nothing-of-that-name is missing"] == "pip install 'nothing-of-that-name>=3'"
    assert "4 fault(s)" in remainder("doctor").out


def test_a_torch_that_cannot_be_imported_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from remainder.publish.doctor import examine\n"
        "sections = examine()\nfirst = [next(sections).title for _ in range(5)]\n"
        "assert 'torch' not in sys.modules\nsys.modules['torch'] = None\n"
        "sys.modules['torch'] = type(sys)('torch')\n"
        "sys.modules['torch'].__spec__ = sys.__spec__\n(last,) = sections\nprint(last.faults)"
    )
    assert "torch, or what needs it, cannot be imported: " in shell("-c", code)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (*_, last) = doctor.examine()
    assert last.faults == [("torch is missing: nothing can be measured", "pip install remainder")]


def test_a_report_tells_no_secret_and_nobodys_home(
    monkeypatch: pytest.MonkeyPatch, remainder: Command, tmp_path: Path
) -> None:
    for name, text in {
        "HF_TOKEN": "hf_secret",
        "PIP_INDEX_URL": "https://me:secret@host/simple",
        "HF_ENDPOINT": "https://me:secret@hub.example",
        "HOME": str(tmp_path / "somebody"),
        "REMAINDER_CACHE": str(tmp_path / "somebody" / "cache"),
    }.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "somebody").mkdir()
    out = remainder("doctor").out
    assert "secret" not in out
    assert "somebody" not in out
    assert re.search(r"place +~/cache$", out, re.MULTILINE)
    assert re.search(r"hub +hub\.example$", out, re.MULTILINE)
    assert re.search(r"HF_TOKEN +set$", out, re.MULTILINE)


# cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with something of this package's, and something of somebody else's."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    for kind, key in (("models", "a-model"), ("models", "b"), ("adhoc", "task"), ("reference", "r")):
        build_once(kind, key, lambda folder: (folder / "file").write_bytes(bytes(1000)) and None)
    pinned = tmp_path / "cache" / "files" / ("0" * 64)
    pinned.mkdir(parents=True)
    (pinned / "model.bin").write_bytes(bytes(500))
    (tmp_path / "cache" / "models" / "mine").mkdir()
    (tmp_path / "cache" / "models" / "mine" / "thesis.tex").write_text("all of it")
    (tmp_path / "cache" / "photos").mkdir()
    return tmp_path / "cache"


def test_the_cache_tells_its_size_and_clears_what_comes_again(cache: Path, remainder: Command) -> None:
    content = json.loads(remainder("cache", "size", "--format", "json").out)
    assert content["place"] == str(cache)
    assert list(content["parts"]) == ["files", "models", "reference", "adhoc"]
    assert content["parts"]["models"]["entries"] == 2
    assert content["parts"]["files"] == {"entries": 1, "bytes": 500}
    assert "models, converted" in remainder("cache", "size").out
    assert remainder("cache", "clear", "models").out.startswith("removed: 0.0 MB")
    assert sorted(path.name for path in (cache / "models").iterdir() if path.is_dir()) == ["mine"]
    assert (cache / "reference" / "r" / "file").is_file()
    for unclear in ((), ("reference", "--all")):
        done = remainder("cache", "clear", *unclear)
        assert done.code == 4
        assert "name parts (files, reference, adhoc), or give --all" in done.err
    assert (cache / "reference" / "r" / "file").is_file()
    remainder("cache", "clear", "--all")
    assert list(json.loads(remainder("cache", "size", "--format", "json").out)["parts"]) == ["adhoc"]
    assert (cache / "models" / "mine" / "thesis.tex").is_file()
    assert (cache / "photos").is_dir()
    remainder("cache", "clear", "adhoc")
    assert not (cache / "adhoc" / "task").exists()


def test_what_another_process_is_making_is_left(cache: Path, remainder: Command) -> None:
    with FileLock(cache / "models" / "b.lock"):
        done = remainder("cache", "clear", "models")
    assert done.code == 0
    assert "! models/b is in use by another process, and was left" in " ".join(done.err.split())
    assert (cache / "models" / "b" / "file").is_file()
    assert not (cache / "models" / "a-model").exists()


def test_what_somebody_reads_is_left(cache: Path, remainder: Command) -> None:
    class Reader:
        pass

    reader = Reader()
    hold(cache / "reference" / "r", reader)
    assert "! reference/r is in use" in remainder("cache", "clear", "--all").err
    assert (cache / "reference" / "r" / "file").is_file()
    del reader
    assert remainder("cache", "clear", "--all").err == ""
    assert not (cache / "reference" / "r").exists()


def test_a_part_that_is_none_is_refused(cache: Path, remainder: Command) -> None:
    done = remainder("cache", "clear", "models", "photos")
    assert done.code == 4
    assert "the cache has no part 'photos'" in done.err
    assert (cache / "models" / "b" / "file").is_file()


def test_every_kind_of_folder_that_is_cached_is_a_part() -> None:
    harness = project_root() / "harness" / "remainder"
    texts = [path.read_text(encoding="utf-8") for path in harness.rglob("*.py")]
    found = {
        kind for text in texts for kind in re.findall(r'(?:build_once\(|cache_root\(\) / )"([\w-]+)"', text)
    }
    assert {"models", "activations", "submit"} <= found <= housekeeping.PARTS.keys()
