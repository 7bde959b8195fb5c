"""Whatever lies where a file is expected: one message, at once, and nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    built,
    make_sae,
    random_weights,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values
from terminal import Command
from tiny import write_task

from remainder.base import files
from remainder.base.files import (
    brief,
    parse_json,
    parse_yaml,
    read_text,
    refused,
    require_file,
    require_folder,
)
from remainder.board.build import build
from remainder.board.snapshot import read_snapshot
from remainder.board.verifications import read_verification
from remainder.circuit.circuit import Circuit
from remainder.cli import main as cli
from remainder.errors import AssetError, InterpretationError, RecordError, printable
from remainder.formats import eap_ig
from remainder.formats.tensors import Layout, read_torch
from remainder.model.architecture import Architecture, Graph
from remainder.record import json as canonical
from remainder.record.json import write_atomically
from remainder.record.schema import TaskInfo
from remainder.record.store import read_record, values_path, write_record
from remainder.submission.names import distinct
from remainder.submission.open import open_submission

W = random_weights()
GRAPH = Graph(Architecture(layers=2, heads=2, groups=2, width=8))
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 12345678\n"


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        back = Path.cwd()
        os.chdir(path.parent)  # their names may have a hundred letters
        try:
            server.bind(path.name)
        finally:
            os.chdir(back)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 5_000_000_000)


INSTEAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "folder": (lambda path: path.mkdir(), "is a folder; expected a file"),
    "pipe": (os.mkfifo, "is a named pipe; expected a file"),
    "socket": (a_socket, "is a socket; expected a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device; expected a file"),
    "dangling link": (lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist"),
    "link to itself": (lambda path: path.symlink_to(path.name), "is a link that leads back to itself"),
    "pointer of LFS": (lambda path: path.write_text(LFS), "is a pointer of Git LFS"),
}
SETTINGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    **INSTEAD,
    "gigabytes": (sparse, r"has 5\.0 GB; expected at most"),
    "nothing": (lambda path: path.touch(), "it is empty"),
    "UTF-16": (lambda path: path.write_bytes("{}".encode("utf-16")), r"byte 1 is not UTF-8"),
    "HTML": (lambda path: path.write_text("<html>404</html>"), "is not valid|no YAML object"),
    "depth": (lambda path: path.write_text("[" * 100_000 + "]" * 100_000), "nested too deeply"),
}
WEIGHTS = {
    **INSTEAD,
    "gigabytes": (sparse, r"5\.0 GB"),
    "HTML": (lambda path: path.write_text("<html>404</html>"), "is no(t a readable safetensors)? file"),
}


def write_saelens(folder: Path) -> Path:
    make_sae("TopKSAE", k=3).save_model(str(folder))
    return folder


def write_top_k(folder: Path) -> Path:
    state = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"]}
    return write_dictionary_learning(
        folder, "AutoEncoderTopK", {**state, "decoder.weight": W["W_dec"].T, "b_dec": W["b_dec"]}
    )


FOLDERS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "saelens": (write_saelens, "cfg.json", "sae_weights.safetensors"),
    "dictionary-learning": (write_top_k, "config.json", "ae.pt"),
    "sparsify": (lambda folder: write_sparsify(folder / "layers.0", W), "cfg.json", "sae.safetensors"),
    "circuit-tracer": (
        lambda folder: write_circuit_tracer(folder, {1: W}),
        "config.yaml",
        "layer_1.safetensors",
    ),
}


def refuse(folder: Path, name: str, put: Callable[[Path], Any], message: str) -> None:
    """What is put in place of a file is told by the file's name, and soon."""
    (folder / name).unlink()
    put(folder / name)
    start = time.perf_counter()
    with pytest.raises(InterpretationError, match=message) as raised:
        built(folder)
    assert time.perf_counter() - start < 20  # what hangs never ends; a busy machine may take its time
    assert name in raised.value.what
    assert raised.value.fix
    assert "Errno" not in raised.value.what


@pytest.mark.parametrize("instead", SETTINGS)
@pytest.mark.parametrize("format", FOLDERS)
def test_what_is_no_file_of_settings_is_told(tmp_path: Path, format: str, instead: str) -> None:
    write, name, _ = FOLDERS[format]
    refuse(write(tmp_path / "made"), name, *SETTINGS[instead])


@pytest.mark.parametrize("instead", WEIGHTS)
@pytest.mark.parametrize("format", FOLDERS)
def test_what_is_no_file_of_weights_is_told(tmp_path: Path, format: str, instead: str) -> None:
    write, _, name = FOLDERS[format]
    refuse(write(tmp_path / "made"), name, *WEIGHTS[instead])


@pytest.mark.parametrize("instead", sorted(SETTINGS.keys() - {"depth"}))  # of brackets, which are no TOML
def test_what_is_no_description_is_told(tmp_path: Path, instead: str) -> None:
    put, message = SETTINGS[instead]
    put(tmp_path / "submission.toml")
    with pytest.raises(InterpretationError, match=message) as raised:
        open_submission(tmp_path)
    assert "submission.toml" in raised.value.what


@pytest.mark.parametrize("ending", ["", ".json", ".pt", ".yaml", ".pkl", ".safetensors"])
@pytest.mark.parametrize("instead", ["pipe", "socket", "device", "dangling link", "link to itself"])
def test_what_is_named_is_looked_at_before_it_is_opened(tmp_path: Path, ending: str, instead: str) -> None:
    put, message = INSTEAD[instead]
    put(tmp_path / f"named{ending}")
    with pytest.raises(InterpretationError, match=message):
        open_submission(tmp_path / f"named{ending}")


@pytest.mark.parametrize(
    ("where", "message"),
    [("x" * 5000, "is no path: file name too long"), ("a\0b", "no submission"), ("/dev/null", "is a device")],
)
def test_odd_paths_are_told(where: str, message: str) -> None:
    with pytest.raises(InterpretationError, match=message) as raised:
        open_submission(where)
    assert raised.value.fix


def test_what_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: the system's refusal is made up."""
    folder = write_saelens(tmp_path / "made")
    real = os.stat

    def stat(path: Any, *arguments: Any, **settings: Any) -> Any:
        if str(path).endswith("cfg.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(InterpretationError, match=r"cfg\.json: Permission denied\n") as raised:
        open_submission(folder)
    assert "chmod" in (raised.value.fix or "")


# ------------------------------------------------------------------------------------- texts


def test_a_mark_at_the_beginning_and_other_ends_of_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n"a": 1\r\n}\r\n')
    assert parse_json(read_text(path, "JSON"), path) == {"a": 1}
    folder = write_top_k(tmp_path / "made")
    text = (folder / "config.json").read_bytes().replace(b", ", b",\r\n")
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert built(folder).encode(torch.ones(1, 1, 8)).shape[-1] == 12


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_json, '{"a": NaN}', "NaN is not a number in JSON"),
        (parse_json, '{"a": -Infinity}', "-Infinity is not a number in JSON"),
        (parse_json, '{"b": {"a": 1, "a": 2}}', "'a' stands there twice"),
        (parse_json, '{"a": ' * 100_000, "nested too deeply"),
        (parse_json, '{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        (parse_yaml, "a: 1\na: 2", "'a' stands there twice"),
        (parse_yaml, "[" * 5000, "nested too deeply"),
    ],
)
def test_texts_that_say_nothing_certain_are_refused(
    tmp_path: Path, parse: Callable[[str, Path], Any], text: str, message: str
) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InterpretationError, match=message):
        parse(text, tmp_path / "a")


def test_a_value_is_shown_in_short_however_large_it_is() -> None:
    nested: Any = "x"
    for _ in range(200):
        nested = [nested] * 9  # 9 to the power of 200 letters
    for value in (nested, "x" * 10**6, {"a": nested}, 10**3000, ["\x1b[31m"]):
        assert len(brief(value)) < 600
    assert brief("many") == "'many'"
    assert brief(1.5) == "1.5"


# ------------------------------------------------------------------------------------- tensors

LAYOUT = Layout({"a": (2, 3)}, {}, "it is so")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.eye(2, 3).to_sparse(), "a is stored as a sparse tensor"),
        (lambda: torch.ones(2, 3).to("meta"), "a is stored as a tensor without values"),
        (lambda: torch.ones(2, 3).to(torch.complex64), "a is stored as complex64"),
        (lambda: torch.ones(2, 3) > 0, "a is stored as bool"),
        (lambda: torch.ones(2, 3).long(), "a is stored as int64"),
    ],
)
def test_other_kinds_of_tensors_are_refused(
    tmp_path: Path, made: Callable[[], torch.Tensor], message: str
) -> None:
    torch.save({"a": made()}, tmp_path / "ae.pt")
    with pytest.raises(InterpretationError, match=message) as raised:
        read_torch(tmp_path / "ae.pt", LAYOUT)
    assert "convert it" in (raised.value.fix or "")


def test_objects_are_refused_in_our_words(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "ae.pt")
    with pytest.raises(InterpretationError) as raised:
        read_torch(tmp_path / "ae.pt", LAYOUT)
    assert raised.value.what.endswith("ae.pt holds more than tensors: torch.nn.modules.linear.Linear")
    assert "state_dict()" in (raised.value.fix or "")


# ------------------------------------------------------------------------------------- messages


def test_no_message_holds_codes_of_a_terminal() -> None:
    problem = InterpretationError("a\x1b[31mb\x9bc\udce4\nd", fix="e\x07f")
    assert (problem.what, problem.fix) == ("a\\x1b[31mb\\x9bc\\udce4\nd", "e\\x07f")
    assert str(problem) == "a\\x1b[31mb\\x9bc\\udce4\nd\n  To mend it: e\\x07f"
    assert printable("schön – 模型") == "schön – 模型"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "chmod"),
        (errno.EROFS, "chmod"),
        (errno.ELOOP, "put the file itself there"),
        (errno.ENAMETOOLONG, "check the path"),
        (errno.EIO, "sound"),
    ],
)
def test_every_refusal_of_the_system_says_what_to_do(code: int, words: str) -> None:
    found = refused(OSError(code, os.strerror(code), "/some/place"), None, AssetError)
    assert isinstance(found, AssetError)
    assert "/some/place" in found.what
    assert words in (found.fix or "")
    assert "Errno" not in str(found)


def test_a_null_in_a_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is no path"):
        require_file(tmp_path / "a\0b", error=RecordError)


# ------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("when", ["written", "flushed", "moved"])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = tmp_path / "new" / "a.json"
    path.parent.mkdir()
    path.write_bytes(b"old")

    def full(*arguments: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "flushed":
        monkeypatch.setattr(canonical.os, "fsync", full)
    elif when == "moved":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RecordError, match=r"a\.json cannot be written: No space left") as raised:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert "free some space" in (raised.value.fix or "")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_folder(tmp_path / "new" / "below", "--out", RecordError)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    for name in ("file", "file/below", "link", "link/below"):
        with pytest.raises(RecordError, match=rf"--out .*{name}: .* is no folder"):
            require_folder(tmp_path / name, "--out", RecordError)
    monkeypatch.setattr(files.os, "access", lambda *arguments: False)
    with pytest.raises(RecordError, match="may not be written to"):
        require_folder(tmp_path, "--out", RecordError)


def test_what_the_system_refuses_is_no_traceback(
    remainder: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(cli, "app", full)
    outcome = remainder("tasks")
    assert outcome.code == AssetError.exit_code
    assert outcome.err.startswith(f"remainder: {tmp_path} cannot be written: No space left")
    assert "To mend it: free some space" in outcome.err


def test_what_the_terminal_cannot_show_is_written_in_letters_that_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    monkeypatch.setattr(cli, "app", lambda: print("Δ"))
    cli.main()
    sys.stdout.flush()
    assert shown.getvalue() == b"\\u0394\n"


# ------------------------------------------------------------------------------------- the command line


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_task(tmp_path / "tasks")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["identity"], 3),
        (["identity", "--task", "no/task"], 3),
        (["hub:nobody/nothing:x", "--task", "tiny/site"], 4),
        (["nothing-here", "--task", "tiny/site"], 1),
    ],
)
def test_a_check_gives_json_whatever_goes_wrong(
    task: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.setattr("remainder.formats.hub.snapshot", no_hub)
    arguments = [str(task) if argument == "tiny/site" else argument for argument in arguments]
    outcome = remainder("check", *arguments, "--format", "json")
    content = json.loads(outcome.out)
    assert (outcome.code, content["passed"]) == (code, False)
    assert content["submission"] == arguments[0]
    if code == 1:
        assert content["error"] is None
        assert content["steps"][-1]["passed"] is False
        return
    assert content["error"]["exit_code"] == code
    assert content["error"]["what"] in outcome.err
    assert content["error"]["fix"]


def no_hub(*arguments: Any, **settings: Any) -> None:
    raise AssetError("the hub does not answer", fix="try again")


def test_the_command_that_scores_it_can_be_pasted(task: Path, tmp_path: Path, remainder: Command) -> None:
    folder = tmp_path / "a b'c $x"
    folder.mkdir()
    (folder / "submission.toml").write_text(described("mine", 3))
    outcome = remainder("check", folder.name, "--task", task)
    assert outcome.code == 0, outcome
    # A task of one's own has no name but its folder.
    assert f"""  remainder run {task} --with 'a b'"'"'c $x'""" in outcome.out


def described(name: str, rank: int) -> str:
    return (
        f'name = "{name}"\nkind = "reconstruction"\ntitle = "t"\nauthors = []\nlicence = "MIT"\n'
        f'[method]\nformat = "pca"\nrank = {rank}\n'
    )


def test_the_same_thing_named_twice_is_run_once(task: Path, tmp_path: Path, remainder: Command) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "submission.toml").write_text(described("mine", 3))
    named = ("--with", "mine", "--with", tmp_path / "mine", "--rungs", "raw")
    outcome = remainder("run", task, *named, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [row["submission"] for row in json.loads(outcome.out)] == ["mine"]
    assert "! mine is named more than once, with the same content: it is run once" in outcome.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "submission.toml").write_text(described("mine", 4))
    outcome = remainder("run", task, "--with", "mine", "--with", "other", "--rungs", "raw")
    assert outcome.code == InterpretationError.exit_code
    assert "2 different submissions are called mine" in outcome.err
    assert "in its submission.toml" in outcome.err


def sparsify_at(folder: Path, seed: int) -> Any:
    return open_submission(write_sparsify(folder, random_weights(seed=seed)))


def test_folders_of_one_name_are_called_after_what_tells_them_apart(tmp_path: Path) -> None:
    places = [tmp_path / part / "layers.0" for part in ("a/run", "b/run", "b/Walk")]
    found = distinct([sparsify_at(place, seed) for seed, place in enumerate(places)])
    assert [entry.name for entry in found.entries] == ["a-run-layers.0", "b-run-layers.0", "b-walk-layers.0"]
    assert found.notes[0] == "a/run/layers.0 is called a-run-layers.0, since others are called layers.0"
    found = distinct([sparsify_at(place, seed) for seed, place in enumerate(places[1:])])
    assert [entry.name for entry in found.entries] == ["run-layers.0", "walk-layers.0"]
    copies = distinct([sparsify_at(place, 5) for place in (tmp_path / "c/layers.0", tmp_path / "d/layers.0")])
    assert [entry.name for entry in copies.entries] == ["layers.0"]
    assert copies.notes
    (alone,) = distinct([open_submission("mean-only")]).entries
    assert alone.name == "mean-only"


# ------------------------------------------------------------------------------------- circuits and records


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edges_scores": lambda value: value.to_sparse()}, "edges_scores is a sparse tensor"),
        ({"edges_scores": lambda value: value.to("meta")}, "edges_scores is a tensor without values"),
        ({"edges_scores": lambda value: value.to(torch.complex64)}, "edges_scores is stored as complex64"),
        ({"edges_in_graph": lambda value: value.float().to_sparse()}, "edges_in_graph is a sparse tensor"),
        ({"src_nodes": lambda value: None}, "src_nodes is None; expected a list"),
        ({"dst_nodes": lambda value: 5}, "dst_nodes is 5; expected a list"),
    ],
)
def test_other_kinds_of_circuits_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    graph = GRAPH
    eap_ig.save(tmp_path / "c.pt", Circuit.full(graph))
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save(
        {name: changed.get(name, lambda value: value)(value) for name, value in content.items()},
        tmp_path / "c.pt",
    )
    with pytest.raises(InterpretationError, match=message) as raised:
        eap_ig.load(tmp_path / "c.pt", graph)
    assert raised.value.fix


def test_a_number_without_end_is_refused(tmp_path: Path) -> None:
    graph = GRAPH
    eap_ig.save(tmp_path / "c.json", Circuit.full(graph))
    text = (tmp_path / "c.json").read_text().replace('"score": 0.0', f'"score": {10**400}', 1)
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InterpretationError, match="no number that can be computed with"):
        eap_ig.load(tmp_path / "c.json", graph)


@pytest.mark.parametrize("command", ["show", "explain", "cite"])
@pytest.mark.parametrize("instead", INSTEAD)
def test_what_is_no_record_is_told(tmp_path: Path, remainder: Command, command: str, instead: str) -> None:
    put, message = INSTEAD[instead]
    put(tmp_path / "x.json")
    if instead == "folder" and command != "cite":
        message = "holds no record"  # it may be a folder of some
    outcome = remainder(command, tmp_path / "x.json")
    assert outcome.code == RecordError.exit_code
    assert re.search(message, outcome.err)
    assert "To mend it: " in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("instead", INSTEAD)
def test_what_is_no_snapshot_or_verification_is_told(tmp_path: Path, instead: str) -> None:
    put, message = INSTEAD[instead]
    put(tmp_path / "2031.01.json")
    with pytest.raises(RecordError, match=message):
        read_snapshot("2031.01", folder=tmp_path)
    with pytest.raises(RecordError, match=message):
        read_verification(tmp_path / "2031.01.json")


@pytest.mark.parametrize("instead", INSTEAD)
def test_values_that_are_no_file_are_told(tmp_path: Path, instead: str) -> None:
    put, message = INSTEAD[instead]
    values = synthetic_values()
    task = TaskInfo(id="family/task", version="1-A", hash="0" * 64)
    record = synthetic_record(values, task=task)
    folder = tmp_path / record.task.id / "1" / record.submission.name
    path = folder / f"{record.record_id}.json"
    write_record(record, values, path)
    values_path(path).unlink()
    put(values_path(path))
    with pytest.raises(RecordError, match=message):
        read_record(path)
    built = build(tmp_path, None)
    assert built.records == 0
    assert any(re.search(message, fault.what) for fault in built.faults)


def test_a_check_of_circuits_reads_them(tmp_path: Path, remainder: Command) -> None:
    """The task is one of the benchmark, whose model is committed and small."""
    task = "tiny/induction-circuit"
    found = remainder("check", "full-graph", "--task", task)
    assert found.code == 0, found
    assert f"remainder run {task} --with full-graph" in found.out
    eap_ig.save(tmp_path / "c.json", Circuit.full(GRAPH))
    other = remainder("check", tmp_path / "c.json", "--task", task)
    assert other.code == 1
    assert "✗ fits" in other.out
    assert "of another architecture" in " ".join(other.out.split())
    assert "To mend it: choose a task of the model" in " ".join(other.out.split())
    assert remainder("check", "identity", "--task", task).code == 1
    assert remainder("check", "full-graph", "--task", "tiny/wiki").code == 1
