"""MIB's folders of circuits, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from circuit_files import PLAIN, WRITTEN, chosen, put

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig, mib
from remainder.model.architecture import Architecture, Graph
from remainder.task.spec import SIZES, Task, load_task


def a_task(name: str, model: str) -> Task:
    """A task of the given names; what else it holds does not matter here."""
    known = load_task("smollm2-135m/resid-15")
    return known.model_copy(update={"id": name, "model": known.model.model_copy(update={"name": model})})


IOI = a_task("gpt2/ioi", "gpt2")


BIG = Graph(Architecture(4, 7, 7, 8))


def nine(folder: Path, ending: str = ".json") -> list[Circuit]:
    """One circuit for each size but the full one, named so that names do not tell."""
    scores = np.random.default_rng(6).random(BIG.exists.shape)
    made = [
        Circuit.top(BIG, scores, int(size * BIG.edges), absolute=True, pruned=False) for size in SIZES[:-1]
    ]
    for place, circuit in enumerate(made):
        folder.mkdir(parents=True, exist_ok=True)
        eap_ig.save(folder / f"{(7 * place) % 10}{ending}", circuit)
    return made


@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_nine_circuits_have_mib_s_sizes(tmp_path: Path, ending: str) -> None:
    assert int(0.001 * BIG.edges) >= 1
    made = nine(tmp_path / "ioi_gpt2", ending)
    assert mib.found_in(tmp_path)
    assert mib.all_files(tmp_path) == [tmp_path / f"ioi_gpt2/{name}{ending}" for name in "012456789"]
    found, notes = mib.load(tmp_path, BIG, IOI)
    assert isinstance(found, Sized)
    assert found.sizes == SIZES[:-1]
    for size, circuit in zip(SIZES, made, strict=False):
        np.testing.assert_array_equal(found.at(size, True).kept, circuit.pruned().kept)
    assert any("kept edges on no path" in note for note in notes)
    eap_ig.save(tmp_path / "ioi_gpt2" / f"empty{ending}", Circuit.empty(BIG))
    eap_ig.save(tmp_path / "ioi_gpt2" / f"full{ending}", Circuit.full(BIG))
    assert mib.load(tmp_path / "ioi_gpt2", BIG, IOI).circuits.sizes == (0.0, *SIZES)


def test_small_circuits_of_which_pruning_left_nothing_keep_their_sizes(tmp_path: Path) -> None:
    for place, circuit in enumerate(nine(tmp_path)):
        eap_ig.save(tmp_path / f"{(7 * place) % 10}.json", circuit.pruned())
    found, notes = mib.load(tmp_path, BIG, IOI)
    assert found.sizes == SIZES[:-1]
    assert [found.at(size, True).edges for size in found.sizes[:2]] == [0, 0]
    assert notes == ()


def test_a_circuit_too_large_for_its_size_is_refused(tmp_path: Path) -> None:
    nine(tmp_path)
    eap_ig.save(tmp_path / "6.json", Circuit.of_nodes(BIG, BIG.writers[:-1]))
    with pytest.raises(
        InterpretationError, match=r"6\.json keeps .* of nine circuits it is the one for at most 50 %"
    ):
        mib.load(tmp_path, BIG, IOI)


def test_a_circuit_that_is_larger_once_heads_are_merged_stands_at_what_it_keeps(tmp_path: Path) -> None:
    """A file with an edge a head, of 4 heads in one group: keys and values are 1/4 of what they are there."""
    graph, heads = Graph(Architecture(4, 4, 1, 8)), Graph(Architecture(4, 4, 4, 8))
    names = [name for name, _, _ in heads.names()]
    np.random.default_rng(2).shuffle(names)
    names.sort(key=lambda name: "<k>" in name or "<v>" in name)
    counts = [int(size * heads.edges) for size in SIZES[:-1]]
    for place, count in enumerate(counts):
        eap_ig.save(tmp_path / f"{place}.json", Circuit.of_edges(heads, names[:count]))
    found, _ = mib.load(tmp_path, graph, IOI)
    assert isinstance(found, Sized)
    for size in found.sizes:
        assert found.at(size, True).edges <= size * graph.edges * (1 + 1e-9)
    largest = found.at(found.sizes[-1], True)
    assert largest.edges / graph.edges == found.sizes[-1] > 0.5 > largest.edges / heads.edges


def test_other_numbers_of_circuits_have_their_own_sizes(tmp_path: Path) -> None:
    made = nine(tmp_path)
    for place in (0, 1, 2, 3, 4):
        (tmp_path / f"{(7 * place) % 10}.json").unlink()
    found, _ = mib.load(tmp_path, BIG, IOI)
    assert found.sizes == tuple(circuit.edges / BIG.edges for circuit in made[5:])
    eap_ig.save(tmp_path / "twin.json", made[6])
    with pytest.raises(InterpretationError, match=r"2\.json and twin\.json keep equally many edges"):
        mib.load(tmp_path, BIG, IOI)


@pytest.mark.parametrize("ending", [".json", ".pt"])
@pytest.mark.parametrize("name", ["importances", "ioi-eap-ig"])
def test_a_single_file_ranks_whatever_its_flags(tmp_path: Path, ending: str, name: str) -> None:
    written = WRITTEN["plain"]
    content = written.json(*chosen(written, PLAIN))
    put(tmp_path / f"ioi_gpt2/{name}{ending}", content if ending == ".json" else written.pt(content))
    found, notes = mib.load(tmp_path, PLAIN, IOI)
    assert isinstance(found, Ranking)
    for edge, writer, reader in PLAIN.names():
        assert found.scores[writer, reader] == written.scores[edge]
    assert notes == ("its flags are not looked at: the scores rank",)


def test_the_folder_of_task_and_model_is_taken(tmp_path: Path) -> None:
    graphs = {
        "ioi_gpt2": 0.0,
        "ioi_qwen2.5": 1.0,
        "greater-than_gpt2": 2.0,
        "arithmetic_addition_llama3": 3.0,
    }
    for name, more in graphs.items():
        (tmp_path / name).mkdir()
        eap_ig.save(tmp_path / name / "importances.pt", Ranking(PLAIN, more + np.ones(PLAIN.exists.shape)))
    for task, model, expected in (
        ("gpt2/ioi", "gpt2", "ioi_gpt2"),
        ("x/ioi", "Qwen/Qwen2.5-0.5B", "ioi_qwen2.5"),
        ("gpt2/greater_than", "openai-community/gpt2", "greater-than_gpt2"),
        ("l/arithmetic-addition", "meta-llama/Llama-3.1-8B", "arithmetic_addition_llama3"),
    ):
        chosen_one = a_task(task, model)
        assert mib.folder_of(tmp_path, chosen_one).name == expected
        found, _ = mib.load(tmp_path, PLAIN, chosen_one)
        assert isinstance(found, Ranking)
        assert found.scores[0, 0] == 1 + graphs[expected]
    with pytest.raises(
        InterpretationError,
        match=r"addition_llama3, greater-than_gpt2, ioi_gpt2, ioi_qwen2\.5; none .* task gpt2/mcqa",
    ):
        mib.load(tmp_path, PLAIN, a_task("gpt2/mcqa", "gpt2"))
    (tmp_path / "ioi_gpt2-small").mkdir()
    eap_ig.save(tmp_path / "ioi_gpt2-small/importances.pt", Circuit.full(PLAIN))
    with pytest.raises(InterpretationError, match="of ioi_gpt2, ioi_gpt2-small; more than one of these"):
        mib.load(tmp_path, PLAIN, IOI)


def test_the_only_folder_is_taken_and_other_files_are_said(tmp_path: Path) -> None:
    eap_ig.save(
        put(tmp_path / "mine/notes.json", {"by": "me"}).with_name("scores.json"),
        Ranking(PLAIN, PLAIN.exists + 0.0),
    )
    found, notes = mib.load(tmp_path, PLAIN, IOI)
    assert isinstance(found, Ranking)
    assert notes == (
        "mine is the only folder there, and was taken for gpt2/ioi",
        "notes.json: no circuit, left out",
    )


def test_several_files_of_scores_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        put(tmp_path / name, WRITTEN["plain"].json())
    with pytest.raises(InterpretationError, match=r"a\.json has scores and keeps no edge, beside 1 other"):
        mib.load(tmp_path, PLAIN, IOI)


def test_a_path_that_is_no_folder_holds_none(tmp_path: Path) -> None:
    for path in (tmp_path / "none", put(tmp_path / "c.json", WRITTEN["plain"].json())):
        assert not mib.found_in(path)
        assert mib.all_files(path) == []
        with pytest.raises(InterpretationError, match="holds circuits of nothing; none of these"):
            mib.load(path, PLAIN, IOI)
