"""Circuits of models with grouped queries, with an edge for every head or every group; folders of MIB."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circuit_files import GROUPED, PLAIN, WRITTEN, put
from tests.formats.test_mib import BIG, IOI, nine

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig, mib
from remainder.submission.open import open_submission

NAMES = ("n_key_value_heads", "num_key_value_heads", "n_kv_heads")


def by_head(**cfg: Any) -> dict[str, Any]:
    """As EAP-IG writes it, four heads a layer, with more in its cfg: as copied from a model's config."""
    content = WRITTEN["grouped"].json()
    content["cfg"] |= cfg
    return content


def by_group(folder: Path, **cfg: Any) -> dict[str, Any]:
    scores = np.random.default_rng(4).standard_normal(GROUPED.exists.shape)
    eap_ig.save(folder / "g.json", Ranking(GROUPED, scores))
    content: dict[str, Any] = json.loads((folder / "g.json").read_text())
    del content["cfg"]["n_key_value_heads"]
    content["cfg"] |= cfg
    return content


@pytest.mark.parametrize("ending", [".json", ".pt"])
@pytest.mark.parametrize("name", NAMES)
def test_edges_of_heads_are_read_whatever_cfg_counts(tmp_path: Path, name: str, ending: str) -> None:
    """The numbers that are listed tell: a0.h3<k> is of a head, where there are two groups."""
    expected, notes = eap_ig.load(put(tmp_path / "plain.json", by_head()), GROUPED)
    assert isinstance(expected, Ranking)
    assert len(notes) == 1
    content = by_head(**{name: 2, "d_head": 4, "model_name": "a"})
    written = content if ending == ".json" else WRITTEN["grouped"].pt(content)
    found, said = eap_ig.load(put(tmp_path / f"said{ending}", written), GROUPED)
    assert isinstance(found, Ranking)
    np.testing.assert_array_equal(found.scores, expected.scores)
    told = f"cfg says {name} = 2, and keys and values of 4 heads are listed, such as a1.h3<v>"
    assert any(note.startswith(told) for note in said)
    same, said = eap_ig.load(put(tmp_path / "heads.json", by_head(**{name: 4})), GROUPED)
    np.testing.assert_array_equal(same.scores, expected.scores)  # type: ignore[union-attr]
    assert said == notes


@pytest.mark.parametrize("name", NAMES)
def test_edges_of_groups_are_read_if_cfg_or_all_names_say_so(tmp_path: Path, name: str) -> None:
    bare, _ = eap_ig.load(put(tmp_path / "bare.json", by_group(tmp_path)), GROUPED)
    for cfg in ({name: 2}, {name: None}):
        found, notes = eap_ig.load(put(tmp_path / "said.json", by_group(tmp_path, **cfg)), GROUPED)
        np.testing.assert_array_equal(found.scores, bare.scores)  # type: ignore[union-attr]
        assert notes == ()
    few = by_group(tmp_path, **{name: 2})
    few["edges"] = {"input->a0.h1<k>": True, "a0.h2->logits": True}
    few["nodes"] = {}
    found, _ = eap_ig.load(put(tmp_path / "few.json", few), GROUPED)
    assert isinstance(found, Sized)
    assert found.at(found.sizes[0], True).names() == ["input->a0.h1<k>", "a0.h2->logits"]


@pytest.mark.parametrize("name", NAMES)
def test_a_count_that_nothing_agrees_with_is_refused(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "c.json", by_group(tmp_path, **{name: 4}))
    with pytest.raises(InterpretationError) as caught:
        eap_ig.load(path, GROUPED)
    assert (
        f"cfg says {name} = 4, an edge for the key of every head; keys and values of 2" in caught.value.what
    )
    path = put(tmp_path / "d.json", by_head(**{name: 1}))
    with pytest.raises(InterpretationError) as caught:
        eap_ig.load(path, GROUPED)
    assert f"{name} = 1; the task's model has" in caught.value.what
    assert caught.value.what.endswith(f"{name} = 2")
    path = put(tmp_path / "e.json", WRITTEN["plain"].json() | {"cfg": WRITTEN["plain"].cfg | {name: 3}})
    assert eap_ig.load(path, PLAIN).notes == ()


# ------------------------------------------------------------------------------------------ MIB


@pytest.mark.parametrize("ending", [".JSON", ".Json", ".PT", ".pth"])
def test_files_of_a_folder_may_differ_in_case(tmp_path: Path, ending: str) -> None:
    nine(tmp_path / "a" / "IOI_GPT2")
    nine(tmp_path / "b" / "IOI_GPT2", ".json" if ending.lower() == ".json" else ".pt")
    for path in sorted((tmp_path / "b" / "IOI_GPT2").iterdir())[::2]:
        path.rename(path.with_suffix(ending))
    found = mib.load(tmp_path / "b", BIG, IOI)
    expected = mib.load(tmp_path / "a", BIG, IOI)
    assert [note.partition(": ")[2] for note in found.notes] == [
        note.partition(": ")[2] for note in expected.notes
    ]
    assert isinstance(found.circuits, Sized)
    assert isinstance(expected.circuits, Sized)
    assert found.circuits.sizes == expected.circuits.sizes
    for size in found.circuits.sizes:
        np.testing.assert_array_equal(
            found.circuits.at(size, True).kept, expected.circuits.at(size, True).kept
        )
    assert len(open_submission(tmp_path / "b").files) == 9


@pytest.mark.parametrize(
    "name", ["Importances.JSON", "IMPORTANCES.json", "importances.Pt", "importances.pth"]
)
def test_importances_may_be_called_so_in_capitals(tmp_path: Path, name: str) -> None:
    ending = ".json" if name.lower().endswith("json") else ".pt"
    scores = np.random.default_rng(1).standard_normal(PLAIN.exists.shape)
    eap_ig.save(tmp_path / f"x{ending}", Ranking(PLAIN, np.where(PLAIN.exists, scores, 0)))
    (tmp_path / f"x{ending}").rename(tmp_path / name)
    assert open_submission(tmp_path).method.format == "mib"
    assert isinstance(mib.load(tmp_path, PLAIN, IOI).circuits, Ranking)
    assert isinstance(eap_ig.load(tmp_path / name, PLAIN).circuits, Ranking)


@pytest.mark.parametrize("late", ["cfg last", "cfg first"])
def test_a_circuit_of_a_folder_is_not_left_out_for_the_order_of_its_fields(tmp_path: Path, late: str) -> None:
    nine(tmp_path)
    path = tmp_path / "4.json"
    content = json.loads(path.read_text())
    names = ["nodes", "edges", "cfg"] if late == "cfg last" else ["cfg", "edges", "nodes"]
    edges = dict(sorted(content["edges"].items(), key=lambda entry: len(entry[0]), reverse=True))
    content["edges"] = edges
    path.write_text(json.dumps({name: content[name] for name in names}, indent=8))
    assert path.stat().st_size > 65_536
    assert len(mib.all_files(tmp_path)) == 9


def test_what_may_be_a_circuit_is_not_left_out(tmp_path: Path) -> None:
    nine(tmp_path)
    for name in ("4.json", "7.json"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
        with pytest.raises(InterpretationError, match=rf"{name}\.gz is compressed \(gzip\)"):
            mib.load(tmp_path, BIG, IOI)
        (tmp_path / f"{name}.gz").unlink()
        eap_ig.save(tmp_path / name, Circuit.of_edges(BIG, ["input->logits"]))
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(text.encode("utf-16"))
        with pytest.raises(InterpretationError, match=rf"{name} is text in UTF-16"):
            mib.load(tmp_path, BIG, IOI)
        (tmp_path / name).unlink()
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"a,b"))
    (tmp_path / "deep.json").mkdir()
    assert mib.load(tmp_path, BIG, IOI).notes
    assert not any("table" in note or "deep" in note for note in mib.load(tmp_path, BIG, IOI).notes)


def test_a_folder_with_only_compressed_circuits_says_so(tmp_path: Path) -> None:
    (tmp_path / "ioi_gpt2").mkdir()
    (tmp_path / "ioi_gpt2" / "importances.json.gz").write_bytes(gzip.compress(b"{}"))
    for folder in (tmp_path, tmp_path / "ioi_gpt2"):
        with pytest.raises(InterpretationError, match=r"importances\.json\.gz is compressed") as caught:
            open_submission(folder)
        assert "gunzip" in (caught.value.fix or "")
    shutil.move(tmp_path / "ioi_gpt2/importances.json.gz", tmp_path / "ioi_gpt2/first.json.gz")
    with pytest.raises(InterpretationError, match=r"first\.json\.gz is compressed"):
        open_submission(tmp_path / "ioi_gpt2")
