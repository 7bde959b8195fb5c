"""Scoring a submission on a sealed text: honest ones hold there, and one that memorised its text does not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attacks import Known, write
from code_files import write_code
from safetensors.torch import save_file
from synthetic_board import coded, put, submission
from synthetic_records import synthetic_record
from terminal import Command

from remainder.board.audits import REGISTER, SealedText, audit_path, read_audits, uses_of
from remainder.board.merge import read_entries
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.loading.fetch import tokenizer_key
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.loading.site import LanguageTask
from remainder.measure.plan import plan
from remainder.publish import remeasure
from remainder.publish.audit import _verdict, audit, read_sealed, render_audit, seal
from remainder.record.store import read_summary
from remainder.runs.cells import run
from remainder.submission.open import open_submission

TASK, HONEST, MEMORISED = "tiny/wiki", "wiki-topk", "memorised-evaluation"
DOCUMENTS = 12


@cache
def _opened(
    task: str, *, device: str = "cpu", batch_size: int | None = None, progress: None = None
) -> LoadedTask:
    return open_task(task, device=device, batch_size=batch_size, progress=progress)


@pytest.fixture(autouse=True)
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task stays in memory between the tests."""
    monkeypatch.setattr(
        remeasure, "open_task", lambda task, **settings: _opened(task, device=settings["device"])
    )


@pytest.fixture(scope="module")
def loaded() -> LanguageTask:
    found = _opened(TASK, device="cpu")
    assert isinstance(found, LanguageTask)
    return found


@pytest.fixture(scope="module")
def sealed(loaded: LanguageTask) -> bytes:
    """Documents that score nothing, as a maintainer's own would be."""
    corpus, tokenizer = loaded.corpus, loaded.given.tokenizer
    chosen = corpus.documents("fit")[:DOCUMENTS]
    texts = [tokenizer.decode(corpus.tokens[corpus.bounds[i] : corpus.bounds[i + 1]]) for i in chosen]
    return seal([(f"secret-{number}", text) for number, text in enumerate(texts)], loaded)


@pytest.fixture(scope="module")
def measured(loaded: LanguageTask, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The record and the folder of an honest baseline and of a codebook of the evaluation tokens, by name."""
    root = tmp_path_factory.mktemp("board") / "results"
    folder = write(MEMORISED, Known(loaded), root.parent / "folders")
    submissions = [open_submission(HONEST), open_submission(folder)]
    rows = run(loaded, submissions, plan(loaded.task, "quick", rungs=("raw",)), root)
    paths = {row.record.submission.name: row.path for row in rows}
    return {HONEST: (paths[HONEST], Path(HONEST)), MEMORISED: (paths[MEMORISED], folder)}


Prepared = Callable[..., tuple[Path, Path]]


@pytest.fixture
def prepared(sealed: bytes, tmp_path: Path, loaded: LanguageTask) -> Prepared:
    """Writes a sealed file and its entry in audit.toml; gives the file and the folder of results."""

    def make(content: bytes = sealed, **changed: Any) -> tuple[Path, Path]:
        file, root = tmp_path / "text.json", tmp_path / "results"
        file.write_bytes(content)
        entry = {
            "name": "first",
            "sha256": hashlib.sha256(content).hexdigest(),
            "tokenizer": tokenizer_key(loaded.task.model),
            "committed": "2026-11-29",
            "limit": 2,
            "state": "sealed",
            **changed,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in entry.items()]
        (tmp_path / REGISTER).write_text("[[text]]\n" + "\n".join(lines) + "\n")
        return file, root

    return make


def test_an_honest_place_holds_on_a_sealed_text(
    prepared: Prepared, measured: dict[str, tuple[Path, Path]]
) -> None:
    file, root = prepared()
    path, folder = measured[HONEST]
    found = audit(path, file, root, submission=folder, keep=True)
    assert found.verdict.holds, found.verdict.faults
    assert found.verdict.documents == DOCUMENTS
    assert found.verdict.use == 1
    public, left = found.verdict.unexplained_public.value, found.verdict.unexplained_audited.value
    assert public is not None
    assert left is not None
    assert 0.8 < left / public < 1.25
    assert "its place holds" in render_audit(found)
    kept = read_audits(audit_path(root, read_summary(path)))
    assert kept.word == "audited"
    assert kept.verdicts == (found.verdict,)


def test_a_place_by_memorising_does_not_hold(
    prepared: Prepared, measured: dict[str, tuple[Path, Path]]
) -> None:
    file, root = prepared()
    path, folder = measured[MEMORISED]
    found = audit(path, file, root, submission=folder, keep=True)
    assert not found.verdict.holds
    assert any("may have memorised" in fault for fault in found.verdict.faults)
    assert "does NOT hold" in render_audit(found)
    assert read_audits(audit_path(root, read_summary(path))).word == "audit failed"


def test_a_verdict_tells_nothing_of_the_text(
    prepared: Prepared, measured: dict[str, tuple[Path, Path]], sealed: bytes
) -> None:
    file, root = prepared()
    path, folder = measured[HONEST]
    audit(path, file, root, submission=folder, keep=True)
    told = audit_path(root, read_summary(path)).read_text()
    assert "secret-" not in told
    words = {
        word for each in json.loads(sealed)["documents"] for word in each["text"].split() if len(word) > 12
    }
    assert len(words) > 50
    assert not any(word in told for word in words)


def test_a_text_is_used_as_often_as_its_limit_says_and_once_a_submission(
    prepared: Prepared, measured: dict[str, tuple[Path, Path]]
) -> None:
    file, root = prepared(limit=1)
    path, folder = measured[HONEST]
    looked = audit(path, file, root, submission=folder)
    assert looked.path is None
    assert uses_of(root, hashlib.sha256(file.read_bytes()).hexdigest()) == 0
    audit(path, file, root, submission=folder, keep=True)
    with pytest.raises(RecordError, match="was used 1 times, of 1"):
        audit(path, file, root, submission=folder)
    prepared(limit=2)
    with pytest.raises(RecordError, match="was audited with the text first before"):
        audit(path, file, root, submission=folder)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sha256": "0" * 64}, "no text of leaderboard/audit.toml"),
        ({"state": "published"}, "is published"),
        ({"tokenizer": "another"}, "is for another tokenizer"),
        ({"limit": 0}, "audit.toml"),
        ({"state": "open"}, "audit.toml"),
    ],
)
def test_a_text_that_is_none_of_the_sealed_ones_is_refused(
    prepared: Prepared, loaded: LanguageTask, changed: dict[str, Any], says: str
) -> None:
    file, root = prepared(**changed)
    with pytest.raises(RecordError, match=says):
        read_sealed(file, root, loaded)


def test_a_sealed_file_says_itself_what_it_is_for(
    prepared: Prepared, loaded: LanguageTask, sealed: bytes
) -> None:
    other = json.dumps({**json.loads(sealed), "tokenizer": "another"}).encode()
    file, root = prepared(other)
    with pytest.raises(RecordError, match="says that it is for the tokenizer another"):
        read_sealed(file, root, loaded)
    file, root = prepared(b'{"documents": []}')
    with pytest.raises(RecordError, match=r"text\.json"):
        read_sealed(file, root, loaded)


def test_a_verdict_that_compares_nothing_is_refused() -> None:
    text = SealedText(
        name="first", sha256="0" * 64, tokenizer="any", committed="2026-11-29", limit=2, state="sealed"
    )
    enough, few = (synthetic_record(coded(1.0, documents=documents)) for documents in (12, 3))
    assert _verdict(enough, enough, text, 1).holds
    for public, audited in ((enough, few), (few, enough), (few, few)):
        with pytest.raises(RecordError, match="can be compared on the text first"):
            _verdict(public, audited, text, 1)


def test_a_record_with_a_finer_interpretation_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "results", coded(1.0), reference=submission("finer"))
    with pytest.raises(RecordError, match="a finer interpretation stands for the model"):
        audit(path, tmp_path / "text.json", tmp_path / "results")


def test_two_seals_of_one_text_have_other_hashes(loaded: LanguageTask) -> None:
    """Otherwise a guess of the text could be tried on the hash."""
    documents = [("a", "one"), ("b", "two")]
    assert (
        hashlib.sha256(seal(documents, loaded)).digest() != hashlib.sha256(seal(documents, loaded)).digest()
    )


def test_a_task_without_text_is_refused(prepared: Prepared) -> None:
    file, root = prepared()
    with pytest.raises(TaskError, match="has no text"):
        read_sealed(file, root, open_task("tiny/digits", device="cpu"))


def test_the_command_prints_a_verdict_and_fails_where_it_does_not_hold(
    remainder: Command, measured: dict[str, tuple[Path, Path]], sealed: bytes, loaded: LanguageTask
) -> None:
    path, folder = measured[MEMORISED]
    file = path.parents[5] / "text.json"
    file.write_bytes(sealed)
    digest = hashlib.sha256(sealed).hexdigest()
    (path.parents[5] / REGISTER).write_text(
        f'[[text]]\nname = "first"\nsha256 = "{digest}"\ntokenizer = "{tokenizer_key(loaded.task.model)}"\n'
        'committed = "2026-11-29"\nlimit = 3\nstate = "sealed"\n'
    )
    found = remainder("audit", path, "--text", file, "--submission", folder)
    assert found.code == 1, found
    assert "does NOT hold" in found.out
    assert "not kept" in found.out
    assert not audit_path(path.parents[4], read_summary(path)).exists()
    assert remainder("audit", "no-such-record", "--text", file).code != 0


@pytest.mark.parametrize(
    ("count", "what"), [(2, "holds 2 records, and one is audited"), (0, "holds 0 records")]
)
def test_a_folder_is_audited_if_it_holds_one_record(
    count: int, what: str, remainder: Command, tmp_path: Path
) -> None:
    (tmp_path / "some").mkdir()
    for number in range(count):
        (tmp_path / "some" / f"{number}.json").write_text("{}")
    refused = remainder("audit", tmp_path / "some", "--text", tmp_path / "text.json")
    assert refused.code == 7
    assert what in " ".join(refused.err.split())
    (tmp_path / "one.json").write_text("{}")
    alone = remainder("audit", tmp_path / "one.json", "--text", tmp_path / "text.json")
    assert "lies in no folder of results" in " ".join(alone.err.split())


def test_a_board_says_whether_a_row_is_audited_and_gives_no_place_to_one_that_fails(
    measured: dict[str, tuple[Path, Path]], prepared: Prepared
) -> None:
    file, _ = prepared()
    root = measured[HONEST][0].parents[4]
    shutil.copy(file.with_name(REGISTER), root.parent / REGISTER)
    paths = [path for path, _ in measured.values()]
    entries, faults = read_entries(root, paths)
    assert not faults
    assert [entry.audit for entry in entries] == ["unaudited", "unaudited"]
    kept = [audit(path, file, root, submission=folder, keep=True).path for path, folder in measured.values()]
    entries, faults = read_entries(root, paths)
    assert not faults
    assert [entry.audit for entry in entries] == ["audited", "audit failed"]
    assert ["audit on a sealed text" in entry.failed for entry in entries] == [False, True]
    assert kept[0] is not None
    kept[0].write_text("{}")
    entries, faults = read_entries(root, paths)
    assert "holds no verdicts of an audit" in faults[0].what
    assert entries[0].audit == "unaudited"
    shutil.rmtree(kept[0].parent)


CODEBOOK = """import torch
from safetensors.torch import load_file


class Table:
    def __init__(self, rows):
        self.rows = rows

    def encode(self, x):
        return torch.nn.functional.one_hot(torch.cdist(x, self.rows).argmin(-1), len(self.rows)).float()

    def decode(self, codes):
        return self.rows[codes.argmax(-1)] * (codes.amax(-1, keepdim=True) > 0.5)


def build(folder, site):
    return Table(load_file(folder / "rows.safetensors")["rows"])
"""


@pytest.mark.slow
def test_code_that_memorised_its_text_has_no_place(
    prepared: Prepared, loaded: LanguageTask, tmp_path: Path
) -> None:
    """No process can show what it remembers; other documents do. And an audit runs no code unasked."""
    folder = write_code(tmp_path / "mine", CODEBOOK, name="mine")
    rows = loaded.rows("evaluation", loaded.task.tier("quick").evaluation_windows)
    save_file({"rows": rows.unique(dim=0).contiguous()}, folder / "rows.safetensors")
    file, root = prepared()
    entry = open_submission(folder, trust_code=True)
    (row,) = run(loaded, [entry], plan(loaded.task, "quick", rungs=("raw",)), root)
    with pytest.raises(InterpretationError, match=r"method\.py is executed on this machine"):
        audit(row.path, file, root, submission=folder)
    found = audit(row.path, file, root, submission=folder, trust_code=True, keep=True)
    assert not found.verdict.holds
    assert any("may have memorised" in fault for fault in found.verdict.faults)
