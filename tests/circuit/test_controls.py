"""Circuits whose answer is known: compiled programs, and a trained induction circuit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from remainder.base.paths import project_root
from remainder.circuit.attribution import Attribution
from remainder.circuit.backgrounds import BACKGROUNDS, Scene
from remainder.circuit.circuit import Circuit
from remainder.circuit.run import record, run_circuit
from remainder.formats.eap_ig import read
from remainder.loading.open import open_task
from remainder.model.architecture import Stage
from remainder.model.graph import CircuitModel
from remainder.task.script import BuiltCircuit, load_script, run_circuit_script
from remainder.task.spec import load_task

TASKS = project_root() / "tasks"
PROGRAMS = ("reverse", "histogram")
NEEDED = {
    "reverse": {
        # The length, from how the sequence's letters are counted: 1 / (1 + length) by a0, one-hot by m0.
        "input->a0.h0<q>",
        "input->a0.h0<k>",
        "a0.h0->m0",
        # opp_idx = length − index by m1; opp_idx − 1 by m2; the letter at that place by a3.
        "m0->m1",
        "m1->m2",
        "m2->a3.h0<q>",
        "input->a3.h0<v>",
        "a3.h0->logits",
    },
    # 1 / (1 + how often the letter at hand occurs) by a0, one-hot by m0.
    "histogram": {"input->a0.h0<q>", "input->a0.h0<k>", "a0.h0->m0", "m0->logits"},
}
CONSTANT = {
    # The mark of the beginning (into a0's value and m0, into a3's key), the bias (into m0, m1, a3's query),
    # indices (into m1, a3's key): the same for all sequences.
    "reverse": {"input->a0.h0<v>", "input->m0", "input->m1", "input->a3.h0<q>", "input->a3.h0<k>"},
    "histogram": {"input->a0.h0<v>", "input->m0"},
}
LEAST = {
    # What the removal of any one edge costs at least, nats: a little below what was measured.
    ("reverse", "counterfactual"): 0.15,
    ("reverse", "permuted"): 0.07,
    ("reverse", "raw"): 0.2,
    ("reverse", "full"): 0.3,
    ("histogram", "counterfactual"): 5.0,
    ("histogram", "permuted"): 4.0,
    ("histogram", "raw"): 1.0,
    ("histogram", "full"): 3.0,
}


@cache
def built(task: str) -> BuiltCircuit:
    return run_circuit_script(load_task(task))


@cache
def scenes(task: str) -> tuple[Scene, ...]:
    """One for each template."""
    one = built(task)
    pairs = zip(one.prompts["calibration"], one.prompts["evaluation"], strict=True)
    return tuple(Scene(one.model, bank, asked, seed=3) for bank, asked in pairs)


@cache
def script(folder: str, name: str) -> ModuleType:
    module = load_script(TASKS / folder / f"{name}.py")
    assert isinstance(module, ModuleType)
    return module


def circuit(task: str, name: str) -> Circuit:
    graph = built(task).model.graph
    if name in ("full", "empty"):
        return Circuit.full(graph) if name == "full" else Circuit.empty(graph)
    sized = built(task).interpretations[name]
    (size,) = sized.sizes
    found = sized.at(size, absolute=False)
    assert isinstance(found, Circuit)
    return found


def without(whole: Circuit, edge: str) -> Circuit:
    kept = whole.kept.copy()
    kept[whole.graph.place(edge)] = False
    return Circuit(whole.graph, kept)


@torch.no_grad()
def losses(task: str, one: Circuit | None, background: str) -> Float[Tensor, " scored"]:
    """−log p of the right token at every scored position of all templates; without a circuit, clean."""
    found = []
    for scene in scenes(task):
        logits = scene.clean_logits if one is None else scene.run(one, BACKGROUNDS[background])
        asked = scene.evaluation
        seen = torch.from_numpy(asked.scored[:, scene.positions])
        right = torch.from_numpy(asked.correct[..., 0]).flatten()
        found.append(cross_entropy(logits[seen].double(), right, reduction="none"))
    return torch.cat(found)


def gap(task: str, one: Circuit, background: str) -> float:
    return float((losses(task, one, background) - losses(task, None, background)).mean())


@pytest.mark.parametrize("program", PROGRAMS)
def test_compiled_programs_run_as_before_on_every_sequence(program: str) -> None:
    tokens = load_file(TASKS / "tracr" / program / "interpreter.safetensors")["tokens"].long()
    before = script("tracr", "model").load_program(TASKS / "tracr" / program, 10.0)
    there = tokens != before.program.pad
    with torch.no_grad():
        expected = before(tokens)
        found = built(f"tracr/{program}-circuit").model.run(tokens)
    # What is at the places of padding is neither asked for nor read.
    torch.testing.assert_close(found[there], expected[there], atol=1e-5, rtol=0)


def test_the_induction_transformer_runs_as_before() -> None:
    folder = TASKS / "tiny" / "induction"
    before = script("tiny/induction", "build").build(seed=5, folder=folder, windows=20)
    tokens = torch.from_numpy(before.examples["fit"].inputs)
    now = script("tiny/induction-circuit", "circuit").circuit_model(folder)
    with torch.no_grad():
        torch.testing.assert_close(now.run(tokens), before.module(tokens), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(
            now.double().run(tokens), before.module.double()(tokens).float(), atol=1e-5, rtol=0
        )


def by_hand(
    tokens: Int[Tensor, "rows pos"], kept: Callable[[str], bool], other: Int[Tensor, "rows pos"]
) -> Float[Tensor, "rows pos vocabulary"]:
    """The induction transformer, every input of every head added up edge by edge; removed: from `other`."""
    weights = {
        name: value.double()
        for name, value in load_file(TASKS / "tiny" / "induction" / "weights.safetensors").items()
    }

    def head(inputs: Sequence[Tensor], layer: int, number: int) -> Tensor:
        part = slice(16 * number, 16 * number + 16)
        q, k, v = (
            x @ weights[f"layer_{layer}.{name}.weight"][part].T
            for x, name in zip(inputs, ("query", "key", "value"), strict=True)
        )
        z = scaled_dot_product_attention(q, k, v, is_causal=True)
        return z @ weights[f"layer_{layer}.output.weight"][:, part].T

    def embedded(ids: Tensor) -> Tensor:
        return weights["embedding.weight"][ids] + weights["position.weight"][: ids.shape[1]]

    clean = {"input": embedded(other)}
    for layer in (0, 1):
        x = torch.stack(list(clean.values())).sum(0)
        clean |= {f"a{layer}.h{i}": head([x, x, x], layer, i) for i in range(4)}
    now = {"input": embedded(tokens)}

    def read_by(reader: str) -> Tensor:
        return torch.stack([now[u] if kept(f"{u}->{reader}") else clean[u] for u in now]).sum(0)

    for layer in (0, 1):
        now |= {
            f"a{layer}.h{i}": head([read_by(f"a{layer}.h{i}<{kind}>") for kind in "qkv"], layer, i)
            for i in range(4)
        }
    return read_by("logits") @ weights["unembedding.weight"].T


def test_random_circuits_are_those_of_sums_by_hand() -> None:
    asked = built("tiny/induction-circuit").prompts["fit"][0].take(slice(0, 3))
    tokens, other = torch.from_numpy(asked.tokens), torch.from_numpy(asked.counterfactual)
    model = script("tiny/induction-circuit", "circuit").circuit_model(TASKS / "tiny" / "induction").double()
    rng = np.random.default_rng(0)
    for share in (0.3, 0.6, 0.9):
        one = Circuit(model.graph, model.graph.exists & (rng.random(model.graph.exists.shape) < share))
        with torch.no_grad():
            found = run_circuit(model, one, tokens, record(model, other)[0])
        expected = by_hand(tokens, set(one.names()).__contains__, other)
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "task", ["tracr/reverse-circuit", "tracr/histogram-circuit", "tiny/induction-circuit"]
)
def test_tasks_open_with_prompts_that_the_model_solves(task: str) -> None:
    loaded = open_task(task, device="cpu")
    assert loaded.facts.accuracy > 0.98
    assert isinstance(loaded.circuit_model(), CircuitModel)
    for split in ("fit", "calibration", "evaluation"):
        amounts = [getattr(tier, f"{split}_windows") for tier in loaded.task.tiers.values()]
        assert sum(map(len, loaded.prompts(split))) >= max(amounts)
    assert len(loaded.interpretations) >= 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_prompts_of_programs_ask_for_what_the_interpreter_says(program: str) -> None:
    known = load_file(TASKS / "tracr" / program / "interpreter.safetensors")
    answers = dict(zip(map(tuple, known["tokens"].tolist()), known["answers"].tolist(), strict=True))
    pad = script("tracr", "model").load_program(TASKS / "tracr" / program).program.pad
    asked = set()
    for (prompts,) in built(f"tracr/{program}-circuit").prompts.values():
        lengths = (prompts.tokens != pad).sum(1) - 1
        assert sorted(lengths) == [3] * 33 + [4] * 33 + [5] * 33
        assert (lengths != (prompts.counterfactual != pad).sum(1) - 1).all()
        for row, other, scored, correct in zip(
            prompts.tokens, prompts.counterfactual, prompts.scored, prompts.correct, strict=True
        ):
            place = int(scored.argmax())
            assert scored.sum() == 1
            assert correct.tolist() == [[answers[tuple(row)][place - 1]]]
            # Another answer, or −1: no letter stands there.
            assert answers[tuple(other)][place - 1] != correct.item()
            asked.add((*row.tolist(), place))
    assert len(asked) == 3 * 99, "no prompt twice"


def test_counterfactuals_of_induction_ask_for_another_token_everywhere() -> None:
    for groups in built("tiny/induction-circuit").prompts.values():
        assert [int(group.scored[0].sum()) for group in groups] == [23, 27, 31]
        for group in groups:
            length = int(group.scored[0].sum()) + 1
            for tokens in (group.tokens, group.counterfactual):
                for row, scored in zip(tokens, group.scored, strict=True):
                    (places,) = np.nonzero(scored)
                    assert (row[places] == row[places - length]).all()
                    assert len(set(row[: 64 - length].tolist())) == 64 - length
            right = [
                [row[place - length + 1] for place in np.flatnonzero(scored)]
                for row, scored in zip(group.tokens, group.scored, strict=True)
            ]
            np.testing.assert_array_equal(group.correct[..., 0], right)
            assert (group.tokens != group.counterfactual).all()


@pytest.mark.parametrize("program", PROGRAMS)
def test_edges_from_the_weights_are_those_that_the_program_says(program: str) -> None:
    edges = script("tracr", "edges")
    folder = TASKS / "tracr" / program
    found, values = edges.edges(edges.parts(folder)), edges.written(folder)
    constant = {
        name for name, (writer, shared) in found.items() if edges.carries_constant(values[writer], shared)
    }
    assert set(found) == NEEDED[program] | CONSTANT[program]
    assert constant == CONSTANT[program]
    task = f"tracr/{program}-circuit"
    # In the committed files too, before anything is pruned.
    for name, wanted in (("circuit", NEEDED[program]), ("with-constants", set(found))):
        graph = built(task).model.graph
        stored = read(TASKS / task / f"{name}.json", graph)
        assert set(Circuit(graph, stored.kept).names()) == wanted
    assert set(circuit(task, "compiled-circuit").names()) == NEEDED[program]
    assert set(circuit(task, "compiled-with-constants").names()) == set(found)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("background", ["counterfactual", "permuted", "raw", "full"])
def test_the_compiled_circuit_has_no_gap_and_no_edge_of_it_can_go(program: str, background: str) -> None:
    task = f"tracr/{program}-circuit"
    whole = circuit(task, "compiled-circuit")
    clean = losses(task, None, background)
    assert float((losses(task, whole, background) - clean).abs().max()) <= 1e-5, "of any prompt"
    removed = {edge: gap(task, without(whole, edge), background) for edge in whole.names()}
    assert len(removed) == len(NEEDED[program])
    assert min(removed.values()) > LEAST[program, background]
    assert gap(task, circuit(task, "empty"), background) > 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_where_removed_edges_carry_nothing_constants_are_needed(program: str) -> None:
    task = f"tracr/{program}-circuit"
    for background in ("zero", "mean"):
        assert abs(gap(task, circuit(task, "compiled-with-constants"), background)) <= 1e-5
        assert gap(task, circuit(task, "compiled-circuit"), background) > 1
    whole = circuit(task, "compiled-with-constants")
    harmless = {edge for edge in whole.names() if gap(task, without(whole, edge), "zero") < 1}
    # The bias of a query that selects the beginning where nothing else is selected, which never is the case.
    assert harmless == ({"input->a3.h0<q>"} if program == "reverse" else set())


@pytest.mark.parametrize("program", PROGRAMS)
def test_integrated_gradients_find_the_compiled_circuit(program: str) -> None:
    task = f"tracr/{program}-circuit"
    exists = built(task).model.graph.exists
    true = circuit(task, "compiled-circuit").kept[exists]
    prompts = (built(task).prompts["fit"][0].take(slice(0, 24)),)
    # In float64, where a gate that is shut has no gradient at all: what ranks is no rounding.
    model = script("tracr", "circuit").circuit_model(TASKS / "tracr", program, 10.0).double()
    attribution = Attribution(model, prompts, batch_size=24)
    scores = attribution.edges(400)[exists]
    assert roc_auc_score(true, scores) >= 0.95
    assert roc_auc_score(true, np.abs(scores)) >= 0.95
    assert roc_auc_score(true, attribution.patched_edges()[exists]) == 1


def test_few_steps_do_not_see_gates_that_are_shut() -> None:
    task = "tracr/histogram-circuit"
    exists = built(task).model.graph.exists
    true = circuit(task, "compiled-circuit").kept[exists]
    model = script("tracr", "circuit").circuit_model(TASKS / "tracr", "histogram", 10.0).double()
    scores = Attribution(model, built(task).prompts["fit"], batch_size=99).edges(5)[exists]
    assert roc_auc_score(true, scores) == 0.625
    assert np.count_nonzero(np.abs(scores) > 1e-12) == 1, "only what the logits read has a gradient"


@pytest.mark.parametrize("background", ["counterfactual", "raw"])
def test_the_induction_circuit_leaves_a_twentieth_of_the_gap(background: str) -> None:
    task = "tiny/induction-circuit"
    empty = gap(task, circuit(task, "empty"), background)
    share = {
        name: gap(task, circuit(task, f"{name}-circuit"), background) / empty
        for name in ("known", "textbook", "other")
    }
    assert empty > 5
    assert 0 <= share["known"] <= 0.05
    assert share["textbook"] > 3 * share["known"]
    assert share["other"] > 0.3
    assert abs(gap(task, circuit(task, "full"), background)) < 1e-5


def test_the_induction_circuit_is_one() -> None:
    task = "tiny/induction-circuit"
    report: dict[str, Any] = json.loads((TASKS / task / "edges.json").read_text())
    attention = json.loads((TASKS / "tiny" / "induction" / "heads.json").read_text())["attention"]
    previous = int(np.argmax(attention["previous_token_0"]))
    induction = {int(head) for head in np.argsort(attention["induction_1"])[-2:]}
    assert report["circuit"]["previous_token"] == report["textbook"]["previous_token"] == previous
    assert set(report["circuit"]["induction"]) == induction, "the two that attend most to what followed"
    names = set(circuit(task, "known-circuit").names())
    for head in range(4):
        assert (f"a0.h{previous}->a1.h{head}<k>" in names) == (head in induction)
        assert (f"a1.h{head}->logits" in names) == (head in induction)
        assert not [name for name in names if name.startswith("a0.") and name.endswith(f"a1.h{head}<q>")]
    assert {report[name]["edges"] for name in ("circuit", "textbook", "other")} == {23}
    assert len(names) == len(set(circuit(task, "other-circuit").names())) == 23
    assert [edge for edge in names if edge.startswith("a0.") and edge.endswith("<v>")], "layer 0 adds to V"
    assert not [
        edge
        for edge in circuit(task, "textbook-circuit").names()
        if edge.startswith("a0.") and not edge.endswith("<k>")
    ]


def test_written_values_add_up_to_what_is_read() -> None:
    model = built("tracr/reverse-circuit").model
    tokens = torch.from_numpy(built("tracr/reverse-circuit").prompts["fit"][0].tokens[:4])
    total: list[Tensor] = []
    read_at: list[str] = []

    class Adding:
        def read(self, stage: Stage, stream: Tensor) -> Tensor:
            torch.testing.assert_close(stream, torch.stack(total).sum(0))
            read_at.append(stage.name)
            return stream[:, :, None].expand(-1, -1, stage.readers.stop - stage.readers.start, -1)

        def write(self, stage: Stage, values: Tensor) -> None:
            outputs = model.outputs(stage, values)
            assert outputs.shape[2] == stage.writers.stop - stage.writers.start
            total.append(outputs.sum(2))

    with torch.no_grad():
        torch.testing.assert_close(model.run(tokens, Adding()), model.run(tokens))
    assert read_at == [stage.name for stage in model.graph.stages[1:]]
