"""`remainder score`: one command from a model, a text and an SAE to a table; what is wrong is said first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from format_files import make_sae
from terminal import Command

import remainder as package
from remainder.record.store import read_record

HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `model`, `my-sae` and `corpus.txt`, and nothing of this project."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny.save_model(tiny.make_model(), Path("model"))
    make_sae("StandardSAE", 0, {"hook_name": HOOK}, d_in=tiny.WIDTH, d_sae=24).save_model("my-sae")
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, tiny.VOCABULARY, 30 + number) for number in range(24)]
    text = "\n\n".join(" ".join(f"w{word}" for word in document) for document in documents)
    Path("corpus.txt").write_text(text, encoding="utf-8")
    return tmp_path / "here"


def test_a_table_with_intervals_and_everything_else_that_takes_a_record(
    folder: Path, remainder: Command
) -> None:
    scored = remainder(
        "score",
        "my-sae",
        "--model",
        "model",
        "--text",
        "corpus.txt",
        "--save-task",
        "saved",
        "--device",
        "cpu",
    )
    assert scored.code == 0, scored.err
    assert "my-sae" in scored.out
    assert "Brackets: 95 % intervals" in scored.out
    assert "24 documents of corpus.txt, split at blank lines" in " ".join(scored.err.split())
    assert max(map(len, scored.out.splitlines())) <= 80
    (path,) = (folder / "results").glob("adhoc/*/1/my-sae/*.json")
    record = read_record(path).record
    assert record.task.id.startswith("adhoc/model-blocks.1.hook_resid_pre-")
    assert record.corpus.source == "corpus.txt"
    assert record.model.source == "local:model"
    same = package.evaluate("saved", "my-sae", device="cpu").record
    for name in ("raw", "coded", "full"):
        found, expected = same.metrics.rungs[name].quenched.kl, record.metrics.rungs[name].quenched.kl
        assert found.value == pytest.approx(expected.value, abs=1e-6)
        assert expected.low < expected.value < expected.high
    again = remainder("score", "my-sae", "--model", "model", "--text", "corpus.txt", "--device", "cpu")
    assert "found finished" in again.err
    for command in (["show", str(path)], ["show", "saved"], ["show", record.task.id], ["explain", str(path)]):
        assert remainder(*command).code == 0
    other = make_sae(
        "StandardSAE", 0, {"hook_name": HOOK, "model_name": "google/gemma-2-2b"}, d_in=16, d_sae=24
    )
    other.save_model("other")
    scored = remainder(
        *("score", "other", "--model", "model", "--text", "corpus.txt", "--device", "cpu", "--rungs", "raw")
    )
    assert scored.code == 0, scored.err
    assert "it was made for the model google/gemma-2-2b" in " ".join((scored.out + scored.err).split())
    shown = remainder("show", record.task.id)  # of two names
    assert shown.code == 0, shown.err
    assert record.task.id in shown.out
    verified = remainder("verify", "results")
    assert verified.code == 0, verified.out
    built = remainder("board", "build", "--results", "results", "--site", "site")
    assert built.code != 0
    assert "left out, 2 file(s)" in built.err
    assert "Its task is ad hoc, of whoever measured: no board takes this record." in " ".join(
        built.err.split()
    )
    assert ".runs" not in built.err
    assert not any(Path("site/records").iterdir())
    assert "0 of 0 records are new" in remainder("board", "order", "--results", "results").out
    frozen = remainder("board", "freeze", "2026.12", "--results", "results", "--out", "frozen")
    assert "is ad hoc, and on no public board" in " ".join(frozen.err.split())
    Path("results/order.jsonl").unlink(missing_ok=True)
    verified = remainder("verify", path)
    assert verified.code == 0, verified.out
    assert "is ad hoc: it was not compared" in " ".join(verified.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "one.txt"], "1 document of one.txt, split at blank lines: a single one"),
        (["--text", "empty.txt"], "the text empty.txt holds no text"),
        (["--text", "few.txt"], "too few of at least one window"),
        (["--text", "corpus.txt", "--hook", "blocks.1.hook_resid_per"], "blocks.1.hook_resid_pre"),
        (
            ["--text", "corpus.txt", "--hook", "blocks.2.hook_mlp_out"],
            "was trained at blocks.1.hook_resid_pre",
        ),
        (["--text", "corpus.txt", "--save-task", "model"], "there is something else in it"),
        (["--text", "corpus.txt", "--like", "tracr/reverse"], "has no text whose settings could be taken"),
        (["--text", "corpus.txt", "--rungs", "fulll"], "there is no rung 'fulll'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    folder: Path, remainder: Command, arguments: list[str], message: str
) -> None:
    Path("one.txt").write_text("a single block of words\nin two lines", encoding="utf-8")
    Path("empty.txt").write_text("\n\n", encoding="utf-8")
    Path("few.txt").write_text("w5 w6 w7\n\nw8 w9\n\nw5", encoding="utf-8")
    found = remainder("score", "my-sae", "--model", "model", "--device", "cpu", *arguments)
    assert found.code != 0
    assert message in " ".join(found.err.split())
    assert "To mend it" in found.err
    assert not Path("results").exists()


def test_interpretations_of_two_hooks_are_refused_together(folder: Path, remainder: Command) -> None:
    make_sae("StandardSAE", 1, {"hook_name": "blocks.2.hook_resid_pre"}, d_in=16, d_sae=24).save_model(
        "other"
    )
    found = remainder("score", "my-sae", "other", "--model", "model", "--text", "corpus.txt")
    assert found.code != 0
    assert "they were made at several hooks" in " ".join(found.err.split())


def test_two_of_one_name_are_told_apart_or_refused(folder: Path, remainder: Command) -> None:
    for number in (1, 2):
        place = Path(f"run-{number}") / "my-sae"
        make_sae("StandardSAE", number, {"hook_name": HOOK}, d_in=16, d_sae=24).save_model(place)
    arguments = ["run-1/my-sae", "run-2/my-sae", "--model", "model", "--text", "corpus.txt", "--rungs", "raw"]
    found = remainder("score", *arguments, "--device", "cpu", "--format", "json")
    assert found.code == 0, found.err
    assert {row["submission"] for row in json.loads(found.out)} == {"run-1-my-sae", "run-2-my-sae"}
