"""Siblings of cases from the field: objects of numpy, graphs of floats, cut files, followed advice."""

from __future__ import annotations

import bz2
import copy
import gzip
import json
import lzma
import shutil
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from circuit_files import PLAIN, WRITTEN, put
from format_files import (
    MASK,
    SITE,
    WIDTH,
    X,
    built,
    make_sae,
    random_weights,
    task_at,
    without_skip,
    write_circuit_tracer,
)
from tests.formats import test_attribution_graph as graphs
from tests.submission.test_feature_circuits import place, submission, task
from tests.submission.test_graphs import graphs_in
from torch import Tensor

from remainder.circuit.feature_graph import FeatureGraph
from remainder.circuit.ranking import Ranking
from remainder.errors import InterpretationError
from remainder.formats import attribution_graph, eap_ig, eap_ig_files, mib
from remainder.loading.prompts import PromptTask
from remainder.submission.feature_circuits import FoundFeatures
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission

__all__ = ["place", "task"]  # fixtures; the second is made of the first

W = without_skip(random_weights())
CONTENT = WRITTEN["plain"].json()
TEXT = json.dumps(CONTENT)


def checked(thing: Any) -> Any:
    return object_submission(thing, "mine").build(task_at(SITE))


def rebuilt(thing: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = checked(thing).reconstruct(X, MASK)[1]
    return found


def expected() -> Tensor:
    return torch.relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]) @ W["W_dec"] + W["b_dec"]


# ------------------------------------------------------------------------------------- objects


class OfNumpy:
    """Its weights are arrays of numpy, of which it makes tensors when it computes."""

    def __init__(self, dtype: Any, cfg: Any = None) -> None:
        self.parts = {name: value.numpy().astype(dtype) for name, value in W.items()}
        self.cfg = cfg

    def encode(self, x: Tensor) -> Tensor:
        w = {name: torch.from_numpy(value) for name, value in self.parts.items()}
        return torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ torch.from_numpy(self.parts["W_dec"]) + torch.from_numpy(self.parts["b_dec"])


class NumpyAlone(OfNumpy):
    """Computes in numpy."""

    def encode(self, x: Tensor) -> Tensor:
        w = self.parts
        codes = np.maximum((x.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
        return torch.from_numpy(codes)

    def decode(self, codes: Tensor) -> Tensor:
        return torch.from_numpy(codes.numpy() @ self.parts["W_dec"] + self.parts["b_dec"])


@pytest.mark.parametrize("kind", [OfNumpy, NumpyAlone])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_numpy_are_cast_on_a_copy(kind: type[OfNumpy], dtype: Any) -> None:
    thing = kind(dtype)
    before = {name: value.copy() for name, value in thing.parts.items()}
    torch.testing.assert_close(rebuilt(thing), expected(), rtol=0, atol=3e-2 if dtype is np.float16 else 1e-4)
    for name, value in thing.parts.items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, before[name])


def test_arrays_of_float64_that_are_in_nobodys_way_cost_no_copy() -> None:
    thing = OfNumpy(np.float32)
    thing.parts["histogram"] = np.ones(3)
    assert checked(thing).inner is thing
    sae = make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in})
    sae.notes = np.ones(3)
    assert checked(sae).inner is sae


PLACED = {"d_in": WIDTH, "hook_name": SITE.hook_in}
WITHIN: dict[str, Any] = {
    "a slice that is all": {"seqpos_slice": (np.int64(0), None)},
    "options": {"model_from_pretrained_kwargs": {"center_writing_weights": np.bool_(False)}},
    "options of a namespace": {
        "model_from_pretrained_kwargs": types.SimpleNamespace(fold_ln=np.bool_(True), revision=None)
    },
    "options in metadata": {
        "metadata": types.SimpleNamespace(
            context_size=np.int32(128),
            model_from_pretrained_kwargs=types.SimpleNamespace(center_writing_weights=torch.tensor(False)),
        )
    },
    "no options": {"model_from_pretrained_kwargs": {}},
}


@pytest.mark.parametrize("name", WITHIN)
def test_settings_within_others_are_read_as_what_they_are(name: str) -> None:
    adapted = checked(OfNumpy(np.float32, {**PLACED, **WITHIN[name]}))
    assert adapted.warnings == ()
    assert adapted.aliases == ()


@pytest.mark.parametrize("slice_", [np.array([0, 5]), [np.int64(0), np.int64(5)], (torch.tensor(0), 5)])
def test_positions_of_numpy_are_told(slice_: Any) -> None:
    (told,) = checked(OfNumpy(np.float32, {**PLACED, "seqpos_slice": slice_})).warnings
    assert "at some positions of a context only (seqpos_slice is [0, 5])" in told


def test_settings_that_hold_themselves_end() -> None:
    config: dict[str, Any] = dict(PLACED)
    config["train_batch_size"] = [config, {"again": config}]
    torch.testing.assert_close(rebuilt(OfNumpy(np.float32, config)), expected())


# ------------------------------------------------------------------------------------- checkpoints

TRAINED = {"BatchTopK": {"k": 3}, "MatryoshkaBatchTopK": {"k": 3, "matryoshka_widths": [6, 12]}}


@pytest.mark.parametrize("kind", TRAINED)
def test_a_checkpoint_of_training_alone_says_how_it_is_saved(tmp_path: Path, kind: str) -> None:
    sae = make_sae(f"{kind}TrainingSAE", metadata={"hook_name": SITE.hook_in}, **TRAINED[kind])
    sae.save_model(tmp_path / "checkpoint")
    with pytest.raises(
        InterpretationError, match="a checkpoint of training; SAELens saves it as jumprelu"
    ) as e:
        built(tmp_path / "checkpoint")
    assert "TrainingSAE.load_from_disk(FOLDER).save_inference_model(OTHER_FOLDER)" in (e.value.fix or "")
    sae_lens.TrainingSAE.load_from_disk(tmp_path / "checkpoint").save_inference_model(tmp_path / "saved")
    adapted = built(tmp_path / "saved")
    assert adapted.warnings == ()
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.reconstruct(X)[1], sae_lens.SAE.load_from_disk(tmp_path / "saved")(X)
        )


def test_a_checkpoint_of_jumprelu_is_read(tmp_path: Path) -> None:
    sae = make_sae("JumpReLUTrainingSAE", metadata={"hook_name": SITE.hook_in})
    sae.save_model(tmp_path)
    adapted = built(tmp_path)
    assert adapted.warnings == checked(sae).warnings == ()
    with torch.no_grad():
        torch.testing.assert_close(adapted.reconstruct(X)[1], sae.decode(sae.encode(X)))


def test_a_scaler_with_a_field_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    settings = {"normalize_activations": "expected_average_only_in"}
    make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in}, **settings).save_model(tmp_path)
    scaler = tmp_path / "activation_scaler.json"
    scaler.write_text(json.dumps({"scaling_factor": 0.25, "has_whitening": False}))
    assert built(tmp_path).warnings == ()
    scaler.write_text(json.dumps({"scaling_factor": 0.25, "mode": "sqrt"}))
    with pytest.raises(
        InterpretationError, match=r"activation_scaler.json: the field mode \('sqrt'\) is not k"
    ):
        built(tmp_path)


# ------------------------------------------------------------------------------------- graphs


def loaded(folder: Path, change: Callable[[dict[str, Any]], Any]) -> FeatureGraph:
    content = copy.deepcopy(graphs.SMALL)
    change(content)
    return graphs.load(folder, content)


def as_floats(content: dict[str, Any]) -> None:
    for node in content["nodes"]:
        node["ctx_idx"], node["feature"] = float(node["ctx_idx"]), float(node["feature"])
        node["layer"] = float(node["layer"]) if node["layer"].isdecimal() else node["layer"]


def of_the_viewer(content: dict[str, Any]) -> None:
    for node in content["nodes"]:
        node.update(featureId="1_2", nodeId=node["node_id"], sourceLinks=[], targetLinks=[], isFeature=True)
        node.update(tmpClickedSourceLink=None, inputAbsSum=1.5, logitToken=None)
    for link in content["links"]:
        link.update(pctInputColor="#fff", tmpColor="#000")


@pytest.mark.parametrize("change", [as_floats, of_the_viewer])
def test_whole_numbers_may_be_floats_and_the_viewers_fields_be_kept(tmp_path: Path, change: Any) -> None:
    found, expected = loaded(tmp_path, change), loaded(tmp_path, lambda content: None)
    assert found.nodes == expected.nodes
    assert found.notes == ()
    np.testing.assert_array_equal(found.weights, expected.weights)


@pytest.mark.parametrize("layer", [0.5, float("nan"), True, [1]])
def test_a_layer_that_is_no_whole_number_is_refused(tmp_path: Path, layer: Any) -> None:
    with pytest.raises(InterpretationError, match=r"layer of node 0_12_0 is .*; expected str or int"):
        loaded(tmp_path, lambda content: content["nodes"][2].update(layer=layer))


@pytest.mark.parametrize(("place_", "layer"), [(0, -1), (6, 6)])
def test_layers_that_are_numbered_otherwise_are_told(tmp_path: Path, place_: int, layer: int) -> None:
    """Tools with nodes of attention count two layers a block, and write −1 of tokens."""
    with pytest.raises(InterpretationError, match="expected") as caught:
        loaded(tmp_path, lambda content: content["nodes"][place_].update(layer=layer))
    assert "numbered as those of circuit-tracer" in (caught.value.fix or "")


@pytest.mark.parametrize("has_probabilities", [True, False])
def test_each_note_on_a_graph_stands_once_and_names_its_file_once(
    tmp_path: Path, task: PromptTask, has_probabilities: bool
) -> None:
    folder = graphs_in(tmp_path, task, pinnedIds=["7_7_7"])
    for path in (folder / "graphs").iterdir():
        content = json.loads(path.read_text())
        for node in content["nodes"]:
            node["mine"] = 1
            if has_probabilities and node["feature_type"] == "logit":
                node["token_prob"] = 0.5
        path.write_text(json.dumps(content))
    found = open_submission(folder).circuits(task, 8)
    assert isinstance(found, FoundFeatures)
    for name in ("long.json", "short.json"):
        of_file = [note for note in found.notes if name in note]
        assert all(note.count(name) == 1 for note in of_file)
        for words in ("'7_7_7', no node of the graph", "the field nodes.mine, which is not known"):
            assert sum(words in note for note in of_file) == 1
    assert all(".json" in note for note in found.notes)


def test_the_advice_on_a_graph_can_be_followed(tmp_path: Path) -> None:
    folder = submission(tmp_path)
    (folder / "submission.toml").unlink()
    (folder / "graph.json").write_text(json.dumps(graphs.SMALL))
    with pytest.raises(InterpretationError, match="names features and does not hold them") as caught:
        open_submission(folder / "graph.json")
    _, _, described = (caught.value.fix or "").partition("\n\n")
    (folder / "submission.toml").write_text(described.replace("FOLDER_OF_THE_TRANSCODER", "sae-0"))
    found = open_submission(folder)
    assert (found.kind, found.method.format) == ("feature-circuit", "feature-graph")
    assert "graph.json" in found.files


# ------------------------------------------------------------------------------------- what a file is


def same(path: Path, other: Path) -> None:
    """Two files hold the same circuit."""
    found, expected = eap_ig_files.read(path, PLAIN), eap_ig_files.read(other, PLAIN)
    np.testing.assert_array_equal(found.kept, expected.kept)
    assert expected.scores is not None
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("blanks", ["\n" * 600, " " * 70_000, "\r\n\t" * 5_000])
def test_blanks_before_json_are_no_empty_file(tmp_path: Path, blanks: str) -> None:
    path = tmp_path / "circuit.json"
    path.write_text(blanks + TEXT)
    assert open_submission(path).method.format == "eap-ig"
    same(path, put(tmp_path / "plain.json", CONTENT))
    path.write_text(blanks)
    with pytest.raises(InterpretationError, match="is empty"):
        open_submission(path)


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_circuit_or_a_graph_that_is_called_yaml_is_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"circuit.{ending}"
    path.write_text(TEXT)
    assert open_submission(path).method.format == "eap-ig"
    path.write_text(json.dumps(graphs.SMALL))
    with pytest.raises(InterpretationError, match="is a circuit-tracer graph"):
        open_submission(path)
    listed = write_circuit_tracer(tmp_path / "set", {1: W}) / "config.yaml"
    assert open_submission(listed).method.format == "circuit-tracer"


PACKERS = {"gunzip": gzip.compress, "bunzip2": bz2.compress, "unxz": lzma.compress}


@pytest.mark.parametrize("name", ["circuit.json", "circuit.json.gz"])
@pytest.mark.parametrize("tool", PACKERS)
def test_the_advice_on_a_packed_file_works_whatever_it_is_called(
    tmp_path: Path, tool: str, name: str
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    path = tmp_path / name
    path.write_bytes(PACKERS[tool](TEXT.encode()))
    with pytest.raises(InterpretationError, match="is compressed") as caught:
        open_submission(path)
    command = (caught.value.fix or "").partition("unpack it: ")[2]
    assert command.startswith(tool)
    command = command.replace("FILE", name).replace("UNPACKED", "unpacked.json")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    same(tmp_path / "unpacked.json", put(tmp_path / "plain.json", CONTENT))


def test_scores_of_nodes_that_are_none_are_none(tmp_path: Path) -> None:
    written = WRITTEN["plain"].pt(CONTENT)
    path = tmp_path / "circuit.pt"
    torch.save(written, path)
    expected = eap_ig.load(path, PLAIN, importances=True).circuits
    nothing = {"nodes_scores": None, "neurons_in_graph": None, "neurons_scores": None}
    torch.save(written | nothing, path)
    found = eap_ig.load(path, PLAIN, importances=True).circuits
    assert isinstance(found, Ranking)
    assert isinstance(expected, Ranking)
    np.testing.assert_array_equal(found.scores, expected.scores)
    torch.save(written | {"neurons_in_graph": torch.ones(3)}, path)
    with pytest.raises(InterpretationError, match="circuits of single neurons are not measured"):
        eap_ig.load(path, PLAIN)


CUT: dict[str, tuple[str, bytes]] = {
    "empty": ("b.json", b""),
    "cut before it can be told": ("b.json", json.dumps({"nodes": CONTENT["nodes"]}).encode()[:60]),
    "half an archive": ("b.pt", b"PK\x03\x04" + bytes(50)),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_damaged_file_among_mibs_circuits_is_not_left_out(tmp_path: Path, kind: str) -> None:
    """Without it the others would be measured at other sizes."""
    for name in ("a.json", "c.json"):
        put(tmp_path / name, CONTENT)
    name, data = CUT[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InterpretationError, match=name.replace(".", r"\.")):
        mib.load(tmp_path, PLAIN, task_at(SITE))


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("n.ipynb", json.dumps({"nbformat": 4, "cells": []}).encode(), "is a notebook"),
        ("c.zip", b"PK\x05\x06" + bytes(18), "no submission"),
        ("c.tgz", gzip.compress(b"x", mtime=0), r"is compressed \(gzip\)"),
        ("c.pkl", b"\x80\x04K\x01.", "is a pickle"),
    ],
)
def test_of_a_folder_its_packed_files_are_told_too(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InterpretationError, match=told):
        open_submission(tmp_path)
    assert attribution_graph.found_in(tmp_path / name) is False
