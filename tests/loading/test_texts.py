"""Texts of anyone: what a document is, how it is called, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hub_server import serving
from real_run import ENVIRONMENT

from remainder.errors import AssetError, TaskError
from remainder.loading import hub_texts
from remainder.loading.texts import read_text

WORDS = ["one two three", "four five", "six"]


def contents(source: Any, **settings: Any) -> list[str]:
    return sorted(map(str, read_text(source, **settings).contents))


def test_one_file_is_split_at_blank_lines_and_several_are_a_document_each(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("one two three\n\n \t\nfour five\n\n\n\nsix\n", encoding="utf-8")
    found = read_text(file)
    assert sorted(found.contents) == sorted(WORDS)
    assert found.name == "corpus.txt"
    assert found.rule == "3 documents of corpus.txt, split at blank lines"
    assert len(read_text(file, split="files").contents) == 1
    for number, words in enumerate(WORDS):
        (tmp_path / f"{number}.txt").write_text(f"{words}\n\nmore")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, words in enumerate(WORDS):
        (folder / f"{number}.txt").write_text(f"{words}\n\nmore", encoding="utf-8")
    found = read_text(folder)
    assert sorted(found.contents) == sorted(f"{words}\n\nmore" for words in WORDS)
    assert found.rule == "3 documents of folder, a file each"
    assert sorted(found.titles) == ["0.txt", "1.txt", "2.txt"]
    several = read_text(sorted(folder.glob("*.txt")))
    assert several.ids == found.ids
    assert several.name == "0.txt and 2 more"
    assert len(read_text(folder, split="blank-lines").contents) == 4  # "more" is there three times


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_lines_of_json_by_field_and_by_id(tmp_path: Path, ending: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[ending]
    rows = [{"id": f"page-{i}", "title": f"T{i}", "body": words} for i, words in enumerate(WORDS)]
    file = tmp_path / f"rows.jsonl{ending}"
    file.write_bytes(pack("\n".join(map(json.dumps, rows)).encode()))
    found = read_text(file, field="body")
    assert found.ids == ("page-0", "page-1", "page-2")
    assert found.contents == tuple(WORDS)
    assert found.titles == ("T0", "T1", "T2")
    assert found.rule.endswith("field body, called by their id")
    assert read_text(file, field="body", first=2).ids == ("page-0", "page-1")
    with pytest.raises(TaskError, match="has no field 'text'") as raised:
        read_text(file)
    assert "id, title, body" in (raised.value.fix or "")


def test_rows_of_parquet(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": WORDS, "n": [1, 2, 3]}), file)
    assert contents(file) == sorted(WORDS)
    with pytest.raises(TaskError, match="has no field 'body'"):
        read_text(file, field="body")
    with pytest.raises(TaskError, match="n is 1, no text"):
        read_text(file, field="n")
    file.write_bytes(b"no parquet at all")
    with pytest.raises(AssetError, match="is no whole parquet file"):
        read_text(file)


def test_neither_order_nor_names_of_files_change_anything_and_repeated_documents_are_said() -> None:
    found, other = read_text(WORDS), read_text([*WORDS[::-1], WORDS[1]])
    assert found.ids == other.ids
    assert found.contents == other.contents
    assert other.rule == "3 documents of a list of strings"
    assert other.left_out == ("1 repeating another one",)
    assert read_text([*WORDS, "", " "]).left_out == ("2 empty",)
    assert all(name.startswith("doc-") for name in found.ids)


@pytest.mark.parametrize(
    "ids",
    [
        [[1, 2, 3], [1, 2, 4]],
        [np.array([1, 2, 3]), np.array([1, 2, 4], dtype=np.int32)],
        torch.tensor([[1, 2, 3], [1, 2, 4]]),
        np.array([[1, 2, 3], [1, 2, 4]], dtype=np.uint16),
    ],
)
def test_token_ids(ids: Any) -> None:
    found = read_text(ids)
    assert found.has_tokens
    assert sorted(map(tuple, found.contents)) == [(1, 2, 3), (1, 2, 4)]
    assert len(read_text(ids[0]).contents) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no such text", "there is no such file or folder"),
        ([], "the text is empty"),
        (["", "  \n"], "holds no text"),
        ([[]], "holds no text"),
        ([1.5, 2.5], "neither a string nor token ids"),
        ([[1, -2]], "has the token id -2"),
        (["a", [1]], r"document 2 of the text is \[1\], and others are strings"),
        (["a", "b", None], "document 3 of the text is None"),
        ([[1], "b"], "document 2 of the text is 'b', neither"),
        ([{"text": "a"}], "document 1 of the text is {'text': 'a'}, neither"),
        ([[2**40]], "has the token id 1099511627776"),
        ([b"ab"], "neither a string"),
        (b"ab", "no list"),
        (iter("ab"), "no list"),
        ({"a", "b"}, "no list"),
        ({"title": "a document"}, "a dict with keys"),
        ({"title": "a document"}.values(), "no list"),
        (pd.DataFrame({"text": ["a", "b"]}), "a DataFrame with columns"),
        (pyarrow.table({"text": ["a", "b"]}), "a Table with columns"),
        (pd.Series([1, 2]), "a Series, whose value 1 is 1"),
        (pd.Series(["a", None]), "a Series, whose value 2 is nan"),
        (np.array("a"), "no list"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}), "with keys"),
        (["a \ud800 b"], r"document 1 holds '\\ud800', half of a letter"),
        ("two words " * 1000, "there is no such file or folder"),
        (7, "the text is 7"),
        ("hf:one", "names no data set"),
    ],
)
def test_what_is_no_text_is_refused(source: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        read_text(source)
    assert raised.value.fix


def test_columns_and_data_sets_in_memory_are_read_by_row() -> None:
    assert contents(pd.Series(WORDS)) == contents(np.array(WORDS)) == sorted(WORDS)
    assert contents(pd.Series([[1, 2], [3]])) == contents([[1, 2], [3]])
    data = datasets.Dataset.from_dict({"text": WORDS, "n": [1, 2, 3]})
    assert contents(data["text"]) == contents(data) == sorted(WORDS)
    assert contents(data.to_iterable_dataset(), first=3) == sorted(WORDS)
    with pytest.raises(TaskError, match="row 1: n is 1, no text"):
        read_text(data, field="n")
    with pytest.raises(TaskError, match="has no field 'body'"):
        read_text(data, field="body")


@pytest.mark.parametrize("first", [0, "5", 2.5, True])
def test_a_number_of_documents_is_whole_and_above_zero(first: Any) -> None:
    read: Any = read_text.__wrapped__  # without the checks of types that tests have
    with pytest.raises(TaskError, match=f"first is {first!r}"):
        read(WORDS, first=first)
    assert len(read(WORDS, first=np.int64(2)).contents) == 2
    with pytest.raises(TaskError, match="the field of the text is 5"):
        read(WORDS, field=5)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n ")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "text.docx").write_bytes(b"PK")
    (tmp_path / "half.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno json\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:30])
    (tmp_path / "none").mkdir()
    for name, message in (
        ("empty.txt", "holds no text"),
        ("latin.txt", "is no UTF-8"),
        ("text.docx", "a text is .txt, .jsonl"),
        ("bad.jsonl", "line 2 is no JSON"),
        ("list.jsonl", "no object"),
        ("half.jsonl", "document 1 holds .*, half of a letter"),
        ("cut.jsonl.gz", "cannot be unpacked"),
        ("none", "holds no .txt"),
    ):
        with pytest.raises((TaskError, AssetError), match=message):
            read_text(tmp_path / name)
    with pytest.raises(TaskError, match="files of several kinds"):
        read_text([tmp_path / "empty.txt", tmp_path / "bad.jsonl"])
    with pytest.raises(TaskError, match="nothing splits"):
        read_text(WORDS, split="files")
    with pytest.raises(TaskError, match="the split of the text is 'words'"):
        read_text(WORDS, split="words")


def test_a_data_set_is_streamed_from_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rows(*place: Any, **settings: Any) -> Iterator[dict[str, Any]]:
        asked.append((place, settings))
        number = 0
        while True:  # whoever asks for all would wait for ever
            number += 1
            yield {"text": f"document {number}"}

    monkeypatch.setattr(hub_texts, "_commit", lambda repo, revision: "c0ffee" * 6)
    monkeypatch.setattr("datasets.load_dataset", rows)
    found = read_text("hf:owner/name:small@main#test", first=3)
    assert found.name == "hf:owner/name:small@c0ffeec0ffee#test"
    assert len(found.contents) == 3
    expected = {"split": "test", "revision": "c0ffee" * 6, "streaming": True}
    assert asked == [(("owner/name", "small"), expected)]
    assert len(read_text("hf:owner/name").contents) == hub_texts.FIRST


def test_an_offline_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE forbids") as raised:
        read_text("hf:owner/name")
    assert ".jsonl" in (raised.value.fix or "")


READING = """
import sys
from remainder.errors import RemainderError
from remainder.loading.texts import read_text
for name in sys.argv[1:]:
    try:
        print(read_text(name, first=7))
    except RemainderError as problem:
        print(str(problem).replace("\\n", " "))
"""


def test_data_sets_of_a_hub_and_what_it_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    rows = [json.dumps({"text": f"document {number}", "id": f"d{number}"}) for number in range(2000)]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    names = ["words", "words#test", "words:other", "words@nope", "gated", "none"]
    with serving() as hub:
        commit = hub.add("datasets/me/words", folder)
        hub.add("datasets/me/gated", folder, token="secret")
        environment = {**ENVIRONMENT, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", READING, *(f"hf:me/{name}" for name in names)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found, test, other, nope, gated, none = ran.stdout.splitlines()
    assert f"name='hf:me/words@{commit[:12]}#train'" in found
    assert "the first 7 documents of" in found
    assert "contents=('document 0', 'document 1'" in found
    assert "Bad split: test. Available splits: ['train']" in test
    assert "'other' not found" in other
    assert "has no revision 'nope'" in nope
    assert "datasets/me/gated is gated" in gated
    assert "hf auth login" in gated
    assert "there is no repository datasets/me/none" in none
