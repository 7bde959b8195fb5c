"""Circuits of features from a submission's folder to a record, on a tiny model; and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import behaviour_files
import numpy as np
import pytest
import sae_lens
import tiny
import torch
from format_files import make_sae
from safetensors.torch import load_file, save_file
from terminal import Command
from tests.formats import test_attribution_graph as graphs
from torch import Tensor
from transformers import AutoModelForCausalLM

import remainder
from remainder.base.paths import project_root
from remainder.board import consistency, origin, plausibility
from remainder.circuit.features import FeatureCircuit
from remainder.errors import InterpretationError, RecordError, RemainderError, TaskError
from remainder.loading.open import open_task
from remainder.loading.prompts import PromptTask
from remainder.publish import remeasure as rerun_module
from remainder.record.circuit_summary import EMPTY, HEADLINE
from remainder.record.recompute import recompute
from remainder.record.schema import CircuitSize, Record
from remainder.record.store import StoredRecord, read_record, write_record
from remainder.record.values import values_to_csv
from remainder.report.flow import render_flow
from remainder.runs.flow import flow_plan, measure_flow, plan_flow
from remainder.submission import feature_circuits
from remainder.submission.feature_circuits import FoundFeatures
from remainder.submission.method import read_method, submission_hash
from remainder.submission.open import open_submission
from remainder.task.prompts import Prompts

LATENTS = 12
HOOKS = ("blocks.1.hook_out", "blocks.2.hook_out")
THRESHOLDS = (0.0003, 0.03, 0.1, 100.0)
SUBMISSION = """
name = "features"
kind = "feature-circuit"
title = "Two tiny autoencoders"
authors = ["Nobody"]
licence = "MIT"

[method]
{method}
"""
SITES = "".join(
    f'\n[[method.sites]]\nhook_in = "{hook}"\nsubmission = "sae-{number}"\n'
    for number, hook in enumerate(HOOKS)
)
FOUND = f'format = "feature-attribution"\nsteps = 2\nthresholds = {list(THRESHOLDS)}\n'
SCORES = 'format = "feature-scores"\npath = "scores.safetensors"\nthresholds = [0.03, 0.1]\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a task, its cache beside it."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMAINDER_CACHE", str(folder / "cache"))
        place = behaviour_files.write(folder, behaviour_files.mostly(), quick=8, standard=8)
        toml = (place / "task.toml").read_text()
        toml = toml.replace('"raw", "full"', '"raw", "full", "permuted", "counterfactual"')
        (place / "task.toml").write_text(toml.replace("fit_windows = 2", "fit_windows = 8"))
        yield place


@pytest.fixture(scope="module")
def task(place: Path) -> PromptTask:
    loaded = open_task(place, device="cpu")
    assert isinstance(loaded, PromptTask)
    return loaded


def submission(folder: Path, method: str = FOUND, sites: str = SITES, width: int = tiny.WIDTH) -> Path:
    """A folder with two SAEs as SAELens writes them."""
    for number, hook in enumerate(HOOKS):
        sae = make_sae("StandardSAE", number, {"hook_name": hook}, d_in=width, d_sae=LATENTS)
        sae.save_model(folder / f"sae-{number}")
    (folder / "submission.toml").write_text(SUBMISSION.format(method=method + sites))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return submission(tmp_path_factory.mktemp("submissions") / "features")


def found_in(folder: Path, task: PromptTask) -> FoundFeatures:
    circuits = open_submission(folder).circuits(task, 8)
    assert isinstance(circuits, FoundFeatures)
    return circuits


@pytest.fixture(scope="module")
def found(folder: Path, task: PromptTask) -> FoundFeatures:
    return found_in(folder, task)


@pytest.fixture(scope="module")
def stored(task: PromptTask, folder: Path) -> StoredRecord:
    # With zeros removed nodes cost much, so that f has values.
    result = remainder.evaluate(task, folder, rungs=("raw", "full", "permuted", "counterfactual", "zero"))
    return StoredRecord(result.record, result.values)


# what is found


def test_thresholds_give_circuits_and_those_that_keep_nothing_are_told(found: FoundFeatures) -> None:
    circuits = found.circuits
    assert list(circuits.circuits) == [">0.0003", ">0.03", ">0.1"]
    assert found.notes == (">100: no node has such a score",)
    assert circuits.scores is not None
    for name, threshold in zip(circuits.circuits, THRESHOLDS, strict=False):
        parts = [part for sites in circuits.scores.values() for part in sites.values()]
        nodes = sum(int((part.abs() > threshold).sum()) for part in parts)
        errors = sum(int((part[:, -1].abs() > threshold).sum()) for part in parts)
        sums = circuits.count(name)
        assert (sums.nodes, sums.errors, sums.of) == (nodes, errors, sum(part.numel() for part in parts))
    shares = {name: circuits.count(name).nodes / circuits.count(name).of for name in circuits.circuits}
    assert circuits.nearest(1.0) == ">0.0003"
    assert circuits.nearest(shares[">0.03"]) == ">0.03"


def test_thresholds_that_keep_the_same_nodes_are_one_circuit(
    task: PromptTask, found: FoundFeatures, tmp_path: Path
) -> None:
    assert found.circuits.scores is not None
    parts = [part.abs().flatten() for sites in found.circuits.scores.values() for part in sites.values()]
    second, first = sorted(torch.cat(parts).tolist())[-2:]
    between = [round(second + share * (first - second), 4) for share in (0.3, 0.6)]
    method = FOUND.replace(str(list(THRESHOLDS)), str(between))
    alone = found_in(submission(tmp_path, method), task)
    lower, upper = (f">{each:.3g}" for each in between)
    assert list(alone.circuits.circuits) == [upper]
    assert alone.notes == (f"{lower}: the same nodes as of the next larger threshold",)
    method = FOUND.replace(str(list(THRESHOLDS)), "[0.1, 0.10001]")
    with pytest.raises(InterpretationError, match="two are the same to three digits"):
        found_in(submission(tmp_path, method), task)


@pytest.mark.slow
def test_a_flow_keeps_the_nodes_beyond_each_threshold(
    task: PromptTask, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, counts = open_submission(folder), []
    score = feature_circuits.score_nodes

    def counted(*arguments: Any, **settings: Any) -> Any:
        counts.append(1)
        return score(*arguments, **settings)

    monkeypatch.setattr(feature_circuits, "score_nodes", counted)
    settings = flow_plan(task, "quick", None, None)
    planned = plan_flow(task, entry, settings, out=tmp_path)
    searched = len(counts)
    circuits = found_in(folder, task).circuits
    del counts[searched:]
    nodes = sorted(circuits.count(name).nodes for name in circuits.circuits)
    assert list(planned.shells) == [0, *nodes]
    assert (planned.order, planned.sources, planned.ties) == ("nodes", circuits.count(">0.1").of, 0)
    flow, records = measure_flow(planned, tmp_path)
    whole, _ = task.measure(entry, settings)
    for name, record in zip(reversed(circuits.circuits), records[1:], strict=True):
        mine, expected = record.circuits.points[HEADLINE], whole.circuits.points[name]
        assert mine.rungs["raw"] == expected.rungs["raw"]
    empty = records[0].metrics.rungs["raw"].quenched.gap
    assert empty == whole.circuits.points[EMPTY].rungs["raw"].gap
    shape = flow.scales["shape"]
    assert shape.reason is None or "documents" in shape.reason
    assert flow.scales["perturbative"].reason == "rung mean was not measured"
    del counts[searched:]
    assert measure_flow(plan_flow(task, entry, settings, out=tmp_path), tmp_path) == (flow, records)
    assert len(counts) == searched
    assert "nodes kept" in " ".join(render_flow(flow, records).split())


# the record, against passes of another implementation


class Reference:
    """The tiny model of transformers, with SAEs of sae-lens at the outputs of two of its blocks."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(tiny.model_folder()).eval()
        self.saes = [sae_lens.SAE.load_from_disk(str(folder / f"sae-{number}")) for number in (0, 1)]
        self.layers = [self.model.model.layers[int(re.findall(r"\d+", hook)[0])] for hook in HOOKS]

    @torch.no_grad()
    def run(self, tokens: np.ndarray, change: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Logits at the last position; `change(site, x)` is put in place of the output of a site's block."""

        def hook(site: int) -> Any:
            def replace(module: Any, given: Any, output: Any) -> Any:
                whole = output[0] if isinstance(output, tuple) else output
                new = change(site, whole)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            return replace

        handles = [layer.register_forward_hook(hook(site)) for site, layer in enumerate(self.layers)]
        try:
            logits: Tensor = self.model(torch.as_tensor(tokens)).logits[:, -1].double()
        finally:
            for handle in handles:
                handle.remove()
        return logits

    def nodes(self, tokens: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Latents and errors of both sites in clean passes."""
        seen: dict[int, Tensor] = {}

        def keep(site: int, x: Tensor) -> Tensor:
            seen[site] = x
            return x

        self.run(tokens, keep)
        return [self.split(site, seen[site]) for site in (0, 1)]

    def split(self, site: int, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            codes = self.saes[site].encode(x)
            return codes, x - self.saes[site].decode(codes)

    def answers(
        self, prompts: Prompts, instead: list[tuple[Tensor, Tensor]], circuit: FeatureCircuit, errors: str
    ) -> Tensor:
        """Of each prompt, with the nodes that the circuit does not keep replaced by `instead`."""

        def change(site: int, x: Tensor) -> Tensor:
            codes, error = self.split(site, x)
            kept = circuit.latents[HOOKS[site]]
            keeps = {"nodes": circuit.errors[HOOKS[site]], "kept": torch.ones(x.shape[1], dtype=torch.bool)}
            flags = keeps.get(errors, torch.zeros(x.shape[1], dtype=torch.bool))
            with torch.no_grad():
                mixed = self.saes[site].decode(torch.where(kept, codes, instead[site][0]))
            return mixed + torch.where(flags[:, None], error, instead[site][1])

        logits = self.run(prompts.tokens, change)
        right, wrong = (torch.as_tensor(part[:, 0]) for part in (prompts.correct, prompts.wrong))
        lead: Tensor = (logits.gather(1, right) - logits.gather(1, wrong))[:, 0]
        return lead


@pytest.mark.parametrize(
    ("rung", "errors"),
    [("raw", "nodes"), ("counterfactual", "nodes"), ("errors-kept", "kept"), ("errors-mean", "")],
)
def test_values_are_those_of_another_implementation(
    rung: str, errors: str, stored: StoredRecord, found: FoundFeatures, folder: Path, task: PromptTask
) -> None:
    reference = Reference(folder)
    values = stored.values.set_index(["rung", "document", "draw"]).sort_index()
    calibration = {group.template: group for group in task.prompts("calibration")}
    sizes = [">0.0003", ">0.1"] + ([] if rung.startswith("errors") else ["~>0.1"])
    for group in task.prompts("evaluation"):
        documents = [name for name in group.documents if name in set(stored.values["document"])]
        prompts = group.take(slice(0, len(documents)))
        assert list(prompts.documents) == documents
        if rung == "counterfactual":
            instead = reference.nodes(prompts.counterfactual)
        else:
            bank = reference.nodes(calibration[group.template].take(slice(0, 4)).tokens)
            instead = [(codes.mean(0), error.mean(0)) for codes, error in bank]
        for size in sizes:
            circuit = found.circuits.circuits[size.removeprefix("~")][group.template]
            circuit = circuit.complement if size.startswith("~") else circuit
            expected = reference.answers(prompts, instead, circuit, errors)
            got = [values.loc[(f"{rung}@{size}", name, 0), "answer"] for name in documents]
            np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=2e-4)


def test_a_record_says_what_was_kept_and_how_faithful_that_is(
    stored: StoredRecord, found: FoundFeatures
) -> None:
    record, values = stored
    circuit, costs = record.metrics.circuit, record.complexity.circuits
    assert circuit is not None
    assert costs is not None
    assert record.submission.kind == "feature-circuit"
    assert set(circuit.points) == {"0", "headline", *found.circuits.circuits} == set(costs)
    assert circuit.cpr == circuit.cmd == {}
    for name in found.circuits.circuits:
        sums = found.circuits.count(name)
        assert costs[name] == CircuitSize(nodes=sums.nodes, errors=sums.errors, bits=sums.bits)
        assert "edges" not in costs[name].model_dump()
        assert sums.bits == pytest.approx(float(np.log2(float(_choose(sums.of, sums.nodes)))), rel=1e-6)
    answers = values.groupby("rung")["answer"].mean()
    for background in ("raw", "full", "counterfactual", "zero"):
        rung = circuit.points[">0.1"].rungs[background]
        floor, whole = answers[f"{background}@0"], answers["clean"]
        assert rung.answer.value == pytest.approx(answers[f"{background}@>0.1"], rel=1e-5)
        assert rung.completeness is not None
        for number, size in ((rung.faithfulness, ">0.1"), (rung.completeness, "~>0.1")):
            if number.value is None:
                assert "interval includes 0" in str(number.reason)
            else:
                expected = (answers[f"{background}@{size}"] - floor) / (whole - floor)
                assert number.value == pytest.approx(expected, rel=1e-4)
    assert circuit.points[">0.1"].rungs["zero"].faithfulness.value is not None
    telescope = circuit.points["headline"].telescope
    assert telescope is not None
    parts = [telescope.shape.value, telescope.dependence.value, telescope.rest.value]
    assert telescope.total.value == pytest.approx(sum(part or 0.0 for part in parts), abs=1e-5)
    assert record.metrics.gaussian_ratio.fitted.value is not None
    assert record.checks["full_equals_clean"].passed
    assert record.checks["empty_equals_counterfactual"].passed
    recompute(record, values)


def _choose(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


@pytest.mark.slow
def test_rungs_that_features_have_not_are_recorded_as_such(task: PromptTask, folder: Path) -> None:
    record = remainder.evaluate(task, folder, rungs="raw,zero,full-sequential").record
    assert set(record.measurement.unmeasured) == {"full-sequential"}
    circuit = record.metrics.circuit
    assert circuit is not None
    assert "zero" in circuit.points[">0.1"].rungs
    assert not list(
        consistency.check_measurement(
            record, remainder.evaluate(task, folder, rungs="raw,zero,full-sequential").values
        )
    )


# from the command line, and again


def test_a_folder_is_run_shown_and_explained(
    place: Path, folder: Path, tmp_path: Path, remainder: Command
) -> None:
    said = remainder("run", place, "--with", folder, "--out", tmp_path / "results", "--device", "cpu")
    assert said.code == 0, said.err
    assert "Kept" in said.out
    assert "errors-kept" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    (path,) = (tmp_path / "results").rglob("*.json")
    explained = remainder("explain", path)
    assert explained.code == 0, explained.err
    assert "Circuits by threshold" in explained.out
    assert max(map(len, explained.out.splitlines())) <= 80
    same = remainder("compare", path, path)
    assert same.code == 0, same.err
    verified = remainder("verify", path)
    # That a task is a test's own is no fault of one's own record; all else is as it should be.
    assert verified.code == 0, verified.out
    assert "fault:" not in verified.out
    assert "does not come with the benchmark: it was not compared" in " ".join(verified.out.split())


def test_a_record_is_measured_again(
    stored: StoredRecord, place: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    write_record(stored.record, stored.values, path)
    monkeypatch.setattr(rerun_module, "open_task", lambda name, **arguments: open_task(place, **arguments))
    found = rerun_module.rerun(path, submission=folder)
    assert found.passed, found.faults
    assert found.rows == len(stored.values)


def test_scores_are_written_and_read_again(
    place: Path, task: PromptTask, found: FoundFeatures, folder: Path, tmp_path: Path, remainder: Command
) -> None:
    submission(tmp_path, SCORES)
    said = remainder("circuit", place, folder, "--save", tmp_path / "scores.safetensors", "--device", "cpu")
    assert said.code == 0, said.err
    assert f"{found.circuits.count('>0.1').of:,} nodes" in said.out
    read = found_in(tmp_path, task).circuits
    assert list(read.circuits) == [">0.03", ">0.1"]
    assert {name: read.count(name) for name in read.circuits} == {
        name: found.circuits.count(name) for name in read.circuits
    }
    assert set(open_submission(tmp_path).files) >= {"scores.safetensors", "sae-0/sae_weights.safetensors"}
    for save, options, what in (
        ("c.json", (), "is a circuit of features, whose files end in .safetensors"),
        ("c.safetensors", ("--size", "0.1"), "only scores of its nodes can be written"),
    ):
        refused = remainder("circuit", place, folder, "--save", tmp_path / save, *options, "--device", "cpu")
        assert refused.code == 5
        assert what in " ".join(refused.err.split())


def test_complements_are_of_the_headline_unless_more_rungs_are_asked_for(
    task: PromptTask, folder: Path, found: FoundFeatures
) -> None:
    circuit = remainder.evaluate(task, folder).record.metrics.circuit
    assert circuit is not None
    headline = found.circuits.nearest(task.spec.headline)
    for size, point in circuit.points.items():
        for name, rung in point.rungs.items():
            swept = name in ("raw", "full", "counterfactual")
            assert (rung.completeness is not None) == (swept and size in ("headline", headline)), (size, name)


def test_a_graph_of_each_template_is_a_circuit(task: PromptTask, tmp_path: Path) -> None:
    method = 'format = "feature-graph"\npath = "graphs"\n'
    submission(tmp_path, method)
    (tmp_path / "graphs").mkdir()
    for group in task.prompts("evaluation"):
        write_graph(tmp_path / "graphs" / f"{group.template}.json", group.tokens.shape[1])
    found = found_in(tmp_path, task)
    assert list(found.circuits.circuits) == ["graph"]
    assert (found.circuits.count("graph").nodes, found.circuits.count("graph").errors) == (6, 2)
    assert all("replacement" in note for note in found.notes)
    assert set(open_submission(tmp_path).files) >= {"graphs/long.json", "graphs/short.json"}
    record = remainder.evaluate(task, tmp_path).record
    circuit = record.metrics.circuit
    assert circuit is not None
    assert set(circuit.points) == {"0", "headline"}
    assert circuit.points["headline"].rungs["raw"].completeness is not None
    shutil.move(tmp_path / "graphs" / "long.json", tmp_path / "one.json")
    with pytest.raises(InterpretationError, match=r"long.json: there is no graph of template long"):
        found_in(tmp_path, task)
    submission(tmp_path, method.replace('"graphs"', '"one.json"'))
    with pytest.raises(
        InterpretationError, match="is one graph, and mine/words has the templates long, short"
    ):
        found_in(tmp_path, task)
    with pytest.raises(InterpretationError, match="names features and does not hold them") as caught:
        open_submission(tmp_path / "one.json")
    assert 'format = "feature-graph"\npath = "one.json"' in str(caught.value)


def write_graph(path: Path, positions: int, model: str = "tiny", number: int = 2) -> None:
    """Two features and an error of blocks 1 and 2, as circuit-tracer writes them."""
    last = positions - 1
    nodes = [
        graphs.feature(1, 5, 1),
        graphs.feature(2, number, last),
        graphs.error(2, 2),
        graphs.token(7, 1),
        graphs.node(
            f"{tiny.LAYERS + 1}_4_{last}",
            4,
            str(tiny.LAYERS + 1),
            last,
            "logit",
            token_prob=0.5,
            influence=None,
        ),
    ]
    links = [graphs.link(nodes[0], nodes[1], 1.0), graphs.link(nodes[1], nodes[4], 1.0)]
    content = graphs.whole(
        nodes, [*links, graphs.link(nodes[2], nodes[4], 0.5), graphs.link(nodes[3], nodes[0], 1.0)]
    )
    content["metadata"] |= {"scan": model, "prompt_tokens": [f"w{i}" for i in range(positions)]}
    path.write_text(json.dumps(content))


# hashes


def test_the_hash_covers_settings_weights_and_where_they_are_used(folder: Path, tmp_path: Path) -> None:
    mine = open_submission(folder)
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert open_submission(copy).hash == mine.hash
    assert set(mine.files) == {
        f"sae-{number}/{name}" for number in (0, 1) for name in ("cfg.json", "sae_weights.safetensors")
    }
    text = (copy / "submission.toml").read_text()
    for old, new in (("steps = 2", "steps = 3"), ("0.03", "0.04"), ("blocks.1", "blocks.0")):
        (copy / "submission.toml").write_text(text.replace(old, new))
        assert open_submission(copy).hash != mine.hash
    (copy / "submission.toml").write_text(text.replace("Two tiny", "A pair of"))
    assert open_submission(copy).hash == mine.hash
    weights = load_file(copy / "sae-1" / "sae_weights.safetensors")
    weights["b_dec"][0] += 1e-3
    save_file(weights, copy / "sae-1" / "sae_weights.safetensors")
    assert open_submission(copy).hash != mine.hash


def test_older_submissions_keep_their_hash() -> None:
    method = read_method({"format": "pca", "rank": 3})
    assert submission_hash(method, {}) == "e4a7845b0418d56473be4add187a294494017319e98af37fe3d5e7c2ac890503"


def test_a_baseline_is_named_with_its_files() -> None:
    found = open_submission("feature-circuit")
    assert set(found.files) == {
        f"baselines/{name}/{file}"
        for name in ("topk-sae-32", "topk-sae-32-resid-8")
        for file in ("submission.toml", "weights/cfg.json", "weights/sae_weights.safetensors")
    }
    assert found.method.get("thresholds") is None


def test_a_record_of_an_sae_that_has_changed_is_refused(
    stored: StoredRecord, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "r.json"
    write_record(stored.record, stored.values, record)
    other = submission(tmp_path / "other")
    weights = load_file(other / "sae-0" / "sae_weights.safetensors")
    weights["W_dec"] *= 1.01
    save_file(weights, other / "sae-0" / "sae_weights.safetensors")
    monkeypatch.setattr(rerun_module, "open_task", lambda name, **arguments: open_task(place, **arguments))
    with pytest.raises(
        RecordError, match=r"the record is of a submission features with hash \w+…; .* here has"
    ):
        rerun_module.rerun(record, submission=other)


# forged records


@pytest.mark.slow
def test_what_is_forged_is_found(
    stored: StoredRecord, place: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, values = stored
    costs = record.complexity.circuits
    assert costs is not None

    def with_size(**changed: Any) -> Record:
        size = costs["headline"].model_copy(update=changed)
        complexity = record.complexity.model_copy(update={"circuits": {**costs, "headline": size}})
        return record.model_copy(update={"complexity": complexity})

    assert list(plausibility.check_cost(record)) == []
    assert list(consistency.check_measurement(record, values)) == []
    for changed, what in (
        ({"nodes": 3}, "bits"),
        ({"errors": 10_000}, "errors"),
        ({"errors": None}, "has None edges and None errors"),
        ({"edges": 5}, "has 5 edges"),
    ):
        assert any(what in fault for fault in plausibility.check_cost(with_size(**changed)))
    lacking = values.loc[~values["rung"].str.startswith("errors-kept")]
    assert any("lacks errors-kept" in fault for fault in consistency.check_measurement(record, lacking))
    # Answers moved without the summaries.
    moved = values.copy()
    moved.loc[moved["rung"] == "zero@~headline", "answer"] *= 0.5
    assert list(consistency.check_summaries(record, moved))
    # And with them: only the model can tell.
    from remainder.record.summary import summarise

    metrics = summarise(moved, seed=record.measurement.seed)
    assert metrics != record.metrics
    forged = make_like(record, moved)
    path = tmp_path / "forged.json"
    write_record(forged, moved, path)
    monkeypatch.setattr(rerun_module, "open_task", lambda name, **arguments: open_task(place, **arguments))
    verdict = rerun_module.rerun(path, submission=folder)
    assert {fault.split(" at ")[0] for fault in verdict.faults} == {"answer"}


def make_like(record: Record, values: Any) -> Record:
    """A record of other values that agrees with itself."""
    from remainder.record.store import make_record

    fields = {
        name: getattr(record, name)
        for name in ("protocol", "task", "submission", "tier", "model", "corpus", "complexity", "checks")
    }
    more = {name: getattr(record, name) for name in ("calibration", "measurement", "provenance", "warnings")}
    assert values_to_csv(values)
    return make_record(values, **fields, **more)


def test_nodes_are_counted_from_the_weights() -> None:
    folder = project_root() / "leaderboard/archive/1/results/smollm2-135m/ioi/1/feature-circuit"
    (path,) = folder.glob("*.json")
    record = read_record(path).record
    assert list(origin.check_submission(record)) == []
    fit = record.calibration.model_copy(update={"dimension": 4611})
    faults = [each.text for each in origin.check_submission(record.model_copy(update={"calibration": fit}))]
    assert any(fault.startswith("calibration.dimension: 4611") for fault in faults)
    cost = record.complexity.model_copy(update={"features": 156_741})
    (fault,) = origin.check_submission(record.model_copy(update={"complexity": cost}))
    assert fault.text == "complexity.features: 156741, no multiple of 4610 nodes at a position"
    files = {
        name: digest for name, digest in record.submission.files.items() if "resid-8/weights/sae" not in name
    }
    less = record.submission.model_copy(update={"files": files})
    faults = [each.text for each in origin.check_submission(record.model_copy(update={"submission": less}))]
    assert any(
        "lacks baselines/topk-sae-32-resid-8/weights/sae_weights.safetensors" in each for each in faults
    )


def test_records_of_features_and_of_edges_share_a_task(stored: StoredRecord) -> None:
    content = stored.record.model_dump(mode="json")
    mine = origin.peer_of(content)
    assert not {place for place in mine.shared if "features" in place or "dimension" in place}
    assert any(place.startswith("measurement.behaviour") for place in mine.shared)


# what is refused


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            'hook_in = "blocks.2.hook_out"',
            'hook_in = "blocks.1.hook_out"',
            "sites: blocks.1.hook_out is named twice",
        ),
        (
            'hook_in = "blocks.2.hook_out"',
            'task = "smollm2-135m/resid-8"',
            "sites: the model of smollm2-135m/resid-8 is",
        ),
        ('hook_in = "blocks.2.hook_out"', 'task = "smollm2-135m/ioi"', "scores circuits and names no site"),
        ('hook_in = "blocks.2.hook_out"', "", "name the site by `task`, or by `hook_in`"),
        ("[0.0003, 0.03, 0.1, 100.0]", "[0.1, 0.03]", "`thresholds` ascend, none twice"),
        ("[0.0003, 0.03, 0.1, 100.0]", "[0.1, nan]", "`thresholds` are finite"),
        ("[0.0003, 0.03, 0.1, 100.0]", "[100.0]", "no node has a score beyond 100 nats; the largest is"),
        ('"sae-1"', '"sae-2"', "method.sites: there is no sae-2"),
        ('"sae-1"', '"../sae-1"', "submission: it must lie in the submission's folder"),
        ('"sae-1"', '"."', "method.sites: . is a feature-circuit"),
        ('"sae-1"', '"baselines/eap-ig"', "method.sites: baselines/eap-ig is a circuit"),
        ('"sae-1"', '"baselines/pca-32"', "format pca is fitted to a text"),
        ('"sae-1"', '"baselines/gpt2-res-jb"', "is a submission that lies on a hub"),
        ("steps = 2", "share = 0.5", "`share` is not a setting of format feature-attribution"),
        (
            'kind = "feature-circuit"',
            'kind = "circuit"',
            "kind: format feature-attribution makes a feature-circuit, and `kind` says circuit",
        ),
        (SITES, "", "format feature-attribution needs `sites`: at least one "),
    ],
)
def test_a_submission_that_does_not_fit_is_refused(
    old: str, new: str, what: str, task: PromptTask, tmp_path: Path
) -> None:
    submission(tmp_path)
    text = (tmp_path / "submission.toml").read_text()
    assert old in text
    (tmp_path / "submission.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(RemainderError, match=re.escape(what)) as caught:
        found_in(tmp_path, task)
    assert caught.value.fix


def test_an_sae_of_another_width_or_site_is_refused(task: PromptTask, tmp_path: Path) -> None:
    submission(tmp_path / "wide", width=tiny.WIDTH + 2)
    with pytest.raises(InterpretationError, match="18"):
        found_in(tmp_path / "wide", task)
    swapped = SITES.replace("sae-0", "sae-x").replace("sae-1", "sae-0").replace("sae-x", "sae-1")
    submission(tmp_path / "swapped", sites=swapped)
    with pytest.raises(InterpretationError, match=r"blocks\.2\.hook_out"):
        found_in(tmp_path / "swapped", task)


def test_scores_that_do_not_fit_are_refused(task: PromptTask, found: FoundFeatures, tmp_path: Path) -> None:
    submission(tmp_path, SCORES)
    assert found.circuits.scores is not None
    right = {
        f"{template}/{site}": part.float().contiguous()
        for template, sites in found.circuits.scores.items()
        for site, part in sites.items()
    }
    first = next(iter(right))

    def without(name: str) -> dict[str, Tensor]:
        return {key: part for key, part in right.items() if key != name}

    for tensors, what in (
        (right | {first: right[first][:, :-1].contiguous()}, rf"{first} has shape .*expected finite floats"),
        (right | {first: right[first] * torch.nan}, "values that are not finite"),
        (without(first), f"lacks {first}"),
        (right | {"other/blocks.1.hook_out": right[first].clone()}, "has other/blocks.1.hook_out"),
        (
            {key: part * 0 for key, part in right.items()},
            "no node has a score beyond 0.03 nats; the largest is 0",
        ),
    ):
        save_file(tensors, tmp_path / "scores.safetensors")
        with pytest.raises(InterpretationError, match=what):
            found_in(tmp_path, task)
    (tmp_path / "scores.safetensors").unlink()
    with pytest.raises(InterpretationError, match=r"method.path: there is no file .*scores.safetensors"):
        found_in(tmp_path, task)


def test_a_graph_that_does_not_fit_is_refused(task: PromptTask, tmp_path: Path) -> None:
    submission(tmp_path, 'format = "feature-graph"\npath = "graphs"\n')
    (tmp_path / "graphs").mkdir()
    lengths = {group.template: group.tokens.shape[1] for group in task.prompts("evaluation")}
    for changed, what in (
        ({"model": "gpt2"}, "it was made for the model gpt2; the task's is tiny"),
        ({"number": LATENTS}, f"names feature {LATENTS} of block 2; its transcoder has {LATENTS}"),
        ({"positions": 30}, "prompt of 30 tokens"),
    ):
        for template, length in lengths.items():
            arguments: dict[str, Any] = {"positions": length, **changed}
            write_graph(tmp_path / "graphs" / f"{template}.json", **arguments)
        with pytest.raises(InterpretationError, match=what):
            found_in(tmp_path, task)


def test_a_model_without_hooks_has_no_features(folder: Path) -> None:
    loaded = open_task("tracr/reverse-circuit", device="cpu")
    with pytest.raises((TaskError, InterpretationError), match="hook"):
        open_submission(folder).circuits(loaded, 8)  # type: ignore[arg-type]


def test_a_hook_that_the_model_has_not_is_named(task: PromptTask, tmp_path: Path) -> None:
    submission(tmp_path, sites=SITES.replace("blocks.2.hook_out", "blocks.2.hook_ot"))
    config = tmp_path / "sae-1" / "cfg.json"
    config.write_text(config.read_text().replace("blocks.2.hook_out", ""))
    with pytest.raises(TaskError, match=r"the model has no hook 'blocks\.2\.hook_ot'"):
        found_in(tmp_path, task)
