"""Single tokens: their mean is the record's, each is what it says, and no text in a file is acted upon."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from terminal import Command
from tiny import BOS, EOS, WINDOW, Shrink, make_loaded, write_task

import remainder as library
from remainder.loading.site import LanguageTask
from remainder.report.quantities import number_of
from remainder.report.tokens import write_tokens

ALL = 10**6
DIGITS = 6e-6
"""Records round to six significant digits."""


def word_of(one: int) -> str:
    """A word of the tiny vocabulary."""
    return {0: "<unk>", BOS: "<s>", EOS: "</s>"}.get(one, f"w{one}")


@pytest.fixture(scope="module")
def loaded() -> LanguageTask:
    return make_loaded()


@pytest.fixture(scope="module")
def every(loaded: LanguageTask) -> pd.DataFrame:
    return library.worst_tokens(loaded, Shrink(), most=ALL)


def test_the_mean_over_all_tokens_is_that_of_the_record(loaded: LanguageTask, every: pd.DataFrame) -> None:
    record, values = (result := library.evaluate(loaded, Shrink(), rungs="raw")).record, result.values
    assert len(every) == record.documents.tokens
    sums = values[(values["split"] == "evaluation")].groupby("rung")[["kl", "loss"]].sum() / len(every)
    assert every["kl"].mean() == pytest.approx(sums["kl"]["raw"], rel=1e-6)
    assert every["loss_clean"].mean() == pytest.approx(sums["loss"]["clean"], rel=1e-6)
    assert every["loss_spliced"].mean() == pytest.approx(sums["loss"]["raw"], rel=1e-6)
    assert every["kl"].mean() == pytest.approx(number_of(record, "kl_raw").value, rel=DIGITS)
    assert every["kl"].is_monotonic_decreasing
    assert not every.isna().any(axis=None)


def test_a_part_is_that_of_the_record_too(loaded: LanguageTask) -> None:
    record = library.evaluate(loaded, Shrink(), rungs="raw", documents=3).record
    some = library.worst_tokens(loaded, Shrink(), most=ALL, documents=3)
    assert some["document"].nunique() == 3
    assert some["kl"].mean() == pytest.approx(number_of(record, "kl_raw").value, rel=DIGITS)


def test_a_token_is_what_the_row_says(loaded: LanguageTask, every: pd.DataFrame) -> None:
    windows = loaded.windows("evaluation")
    place = {pair: row for row, pair in enumerate(zip(windows.documents, windows.indices, strict=True))}
    runner = loaded.runner("float32")
    for row in every.iloc[[0, 5, -1]].itertuples():
        ids = windows.inputs[place[row.document, row.window]]
        words = [word_of(one) for one in ids]
        assert row.token == words[row.position]
        assert row.next == words[row.position + 1]
        assert row.before.split() == words[: row.position]
        inputs = torch.from_numpy(ids)[None]
        with torch.inference_mode():
            prefix = runner.prefix(inputs)
            logits = runner.logits(runner.suffix(inputs, prefix, prefix.x_out)[0, row.position][None])[0]
        assert row.top_clean == word_of(logits.argmax().item())
        loss = -logits.log_softmax(-1)[ids[row.position + 1]]
        assert row.loss_clean == pytest.approx(loss.item(), abs=1e-4)
        assert row.l0 == 16  # codes of Shrink are the activation itself
        kept = [part.split(":") for part in row.codes.split()]
        sizes = prefix.x_out[0, row.position].abs().topk(5)
        assert [int(latent) for latent, _ in kept] == sizes.indices.tolist()


def test_batches_change_nothing(every: pd.DataFrame) -> None:
    few = library.worst_tokens(make_loaded(batch_size=3), Shrink(), most=7)
    assert len(few) == 7
    words = ["document", "window", "position", "before", "token", "next", "top_clean", "top_spliced", "l0"]
    assert few[words].equals(every.head(7)[words])
    assert few["kl"].tolist() == pytest.approx(every["kl"].head(7).tolist(), rel=1e-4)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_no_token_acts_on_a_terminal_or_a_table(tmp_path: Path, ending: str) -> None:
    nasty = [
        "\x1b[2J",
        "a\nb",
        "\u202egnp",
        "=1+1",
        "+",
        "-",
        "@x",
        "=",
        "0",
        "null",
        "",
        "\\n",
        '"',
        "\x7f\x85",
        "né",
        "\U000e0041",
        "|",
    ]
    texts = ["before", "token", "next", "top_clean", "top_spliced"]
    frame = pd.DataFrame({"document": "page-1", "kl": 0.5, **dict.fromkeys(texts, nasty)})
    path = tmp_path / f"worst{ending}"
    write_tokens(frame, path)
    content = path.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in content.split("\n"))
    assert len(content.splitlines()) == len(nasty) + (ending == ".csv")
    assert "né" in content
    if ending == ".csv":
        read = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in read["token"])
        assert "0" in read["token"].tolist()
        found = [json.loads(f'"{cell}"') for cell in read["token"]]
    else:
        found = [json.loads(line)["token"] for line in content.splitlines()]
    assert found == nasty


def test_a_task_without_a_text_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "remainder.api.arguments.open_task", lambda *_, **__: pytest.fail("a task was opened")
    )
    with pytest.raises(library.TaskError, match="tiny/digits has no text"):
        library.worst_tokens("tiny/digits", Shrink())


@pytest.mark.parametrize("most", [0, -1])
def test_a_number_of_tokens_that_is_none_is_refused(loaded: LanguageTask, most: int) -> None:
    with pytest.raises(library.TaskError, match=f"{most} tokens were asked for"):
        library.worst_tokens(loaded, Shrink(), most=most)


def test_a_run_writes_the_worst_tokens_and_its_record_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    task = write_task(tmp_path / "tasks")
    run = ("run", task, "--with", "mean-only", "--rungs", "raw")
    for words, what in (
        (("--dump-tokens", "worst.txt"), "does not end in .csv or .jsonl"),
        (("--tokens", 5), "--tokens says how many --dump-tokens writes"),
        (("--dump-tokens", "worst.csv", "--with", "identity"), "is of one submission on one task"),
    ):
        refused = remainder(*run, *words)
        assert refused.code == 7
        assert what in refused.err
        assert not (tmp_path / "results").exists()
    refused = remainder("run", "tiny/digits", "--with", "mean-only", "--dump-tokens", "worst.csv")
    assert refused.code == 3
    assert "tiny/digits has no text" in refused.err
    done = remainder(*run, "--dump-tokens", "worst.csv", "--tokens", ALL, "--format", "csv")
    assert done.code == 0, done.err
    frame = pd.read_csv(tmp_path / "worst.csv")
    (path,) = (tmp_path / "results").rglob("*mean-only*/*.json")
    record = library.read_record(path).record
    assert frame["kl"].mean() == pytest.approx(number_of(record, "kl_raw").value, rel=DIGITS)
    assert frame["token"][0].startswith("w")
    assert frame["position"].max() < WINDOW - 1
