"""What a file is is told by what stands in it: wherever its fields stand, whatever its ending and size."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circuit_files import PLAIN, WRITTEN, put
from format_files import (
    random_weights,
    without_skip,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from safetensors.torch import save_file
from tests.formats import test_attribution_graph as graphs

from remainder.circuit.circuit import Circuit
from remainder.errors import InterpretationError
from remainder.formats import attribution_graph, eap_ig, outline
from remainder.formats.recognition import look
from remainder.submission.open import open_submission

CONTENT = WRITTEN["plain"].json()
LATE = {name: CONTENT[name] for name in ("edges", "nodes", "cfg")}
HUGE = {"comment": "x{" * 200_000, "more": [{"a": i} for i in range(20_000)]}


def named(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def tensors() -> dict[str, Any]:
    return WRITTEN["plain"].pt(CONTENT)


def refused(path: Path) -> tuple[str, str]:
    """What was found, and what is to be done."""
    with pytest.raises(InterpretationError) as caught:
        open_submission(path)
    assert caught.value.fix
    assert caught.value.what.count(str(path)) == 1
    return caught.value.what.replace(f"{path} ", ""), caught.value.fix


# -------------------------------------------------------------------------------- what is a circuit

WRITERS: dict[str, Callable[[Path], Any]] = {
    "cfg first": lambda path: path.write_text(json.dumps(CONTENT)),
    "cfg last": lambda path: path.write_text(json.dumps(LATE)),
    "in lines": lambda path: path.write_text(json.dumps(LATE, indent=4)),
    "with a mark": lambda path: path.write_bytes(json.dumps(LATE).encode("utf-8-sig")),
    "other ends of lines": lambda path: path.write_text("\r\n" + json.dumps(LATE, indent=1)),
    "tensors": lambda path: torch.save(tensors(), path),
}
ENDINGS = (".json", ".JSON", ".Json", ".pt", ".PT", ".pth", ".txt", "", ".bin", ".ckpt")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("written", WRITERS)
def test_a_circuit_is_one_whatever_its_ending(tmp_path: Path, written: str, ending: str) -> None:
    path = tmp_path / f"mine{ending}"
    WRITERS[written](path)
    submission = open_submission(path)
    assert (submission.method.format, submission.name, submission.kind) == ("eap-ig", "mine", "circuit")
    assert set(submission.files) == {path.name}
    found, _ = eap_ig.load(path, PLAIN)
    expected, _ = eap_ig.load(put(tmp_path / "plain" / "circuit.json", CONTENT), PLAIN)
    np.testing.assert_array_equal(found.scores, expected.scores)  # type: ignore[union-attr]


def test_fields_are_found_behind_megabytes_and_only_where_they_mean_something(tmp_path: Path) -> None:
    path = named(tmp_path / "a.json", json.dumps({**HUGE, **LATE}))
    assert path.stat().st_size > 500_000
    assert look(path).format == "eap-ig"
    with pytest.raises(InterpretationError, match="it has comment, more; expected cfg, edges, nodes"):
        eap_ig.load(path, PLAIN)
    inner = {"graph": CONTENT, "notes": 'a "cfg": {} in a text, "nodes", "edges"', "list": [CONTENT]}
    what, _ = refused(named(tmp_path / "b.json", json.dumps(inner)))
    assert what.startswith("is JSON with the fields graph, notes, list; looked for: cfg, nodes and edges")


@pytest.mark.parametrize("place", ["first", "last", "only some"])
def test_a_graph_is_one_wherever_its_metadata_stand(tmp_path: Path, place: str) -> None:
    whole = dict(graphs.SMALL)
    names = {
        "first": ["metadata", "qParams", "nodes", "links"],
        "last": ["links", "nodes", "qParams", "metadata"],
        "only some": ["links", "nodes", "metadata"],
    }[place]
    path = named(
        tmp_path / "g.JSON", json.dumps({"note": "y" * 100_000} | {name: whole[name] for name in names})
    )
    assert attribution_graph.found_in(path)
    assert not eap_ig.found_in(path)
    what, fix = refused(path)
    assert what == "is a circuit-tracer graph, which names features and does not hold them"
    assert 'path = "g.JSON"' in fix
    assert len(attribution_graph.load(path, graphs.MODEL, graphs.LAYERS).nodes) == len(whole["nodes"])


@pytest.mark.parametrize("piece", [5, 7, 64, 1000, 1 << 20])
def test_an_outline_is_that_of_the_parsed_file(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random JSON with quotes, braces and backslashes in its texts, cut into pieces at every place."""
    monkeypatch.setattr(outline, "_PIECE", piece)
    monkeypatch.setattr(outline, "_LONGEST", max(piece, 100))
    generator = np.random.default_rng(piece)
    letters = ["a", "{", "}", "[", "]", '"', "\\", ":", ",", "é", "\n", " "]

    def text() -> str:
        return "".join(generator.choice(letters, generator.integers(0, 30)))

    def value(depth: int) -> Any:
        kind = generator.integers(0, 6 if depth < 4 else 4)
        if kind == 4:
            return [value(depth + 1) for _ in range(generator.integers(0, 4))]
        if kind == 5:
            return {text(): value(depth + 1) for _ in range(generator.integers(0, 4))}
        return [text(), -2.5e9, None, True][kind]

    for number in range(60):
        content = {f"{number}{text()}": value(1) for number in range(generator.integers(0, 6))}
        written = json.dumps(content, ensure_ascii=bool(number % 2), indent=[None, 1][number % 2])
        path = named(tmp_path / "a.json", written.encode(["utf-8", "utf-8-sig"][number % 2]))
        seen = outline.outline(path, lambda fields: False)
        first = {"str": '"', "dict": "{", "list": "[", "float": "-", "NoneType": "n", "bool": "t"}
        assert {json.loads(f'"{name}"'): letter for name, letter in seen.fields.items()} == {
            name: first[type(part).__name__] for name, part in content.items()
        }
        assert (seen.kind, seen.is_whole, seen.goes_on) == ("{", True, False)
        named(path, written.rstrip()[:-1])
        assert not outline.outline(path, lambda fields: False).is_whole


def test_a_long_text_is_not_held(tmp_path: Path) -> None:
    """A string of many pieces, with an escaped quote at every place where a piece may end."""
    for tail in ("\\\\", '\\"', "x", '\\\\\\"'):
        path = named(tmp_path / "a.json", b'{"long": "' + (tail * (3 << 20)).encode() + b'", "cfg": {}}')
        assert look(path).format == "eap-ig"


def test_what_is_no_json_is_not_read_and_json_stops_where_it_is_known(tmp_path: Path) -> None:
    """Files of 5 GB without a byte on the disk: reading one through would take seconds."""
    path = named(tmp_path / "zeros.json", b"")
    os.truncate(path, 5_000_000_000)
    begin = time.perf_counter()
    what, _ = refused(path)
    assert what.startswith("is of no kind that is known (5.0 GB)")
    path = named(tmp_path / "large.json", json.dumps({"cfg": CONTENT["cfg"]}))
    os.truncate(path, 900_000_000)
    assert look(path).format == "eap-ig"
    os.truncate(path, 1_000_000_001)
    what, _ = refused(path)
    assert what == "is JSON of 1.0 GB; at most 1,000 MB are read"
    assert time.perf_counter() - begin < 2


def test_a_file_that_was_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = named(tmp_path / "a.json", json.dumps(CONTENT))
    assert look(path).format == "eap-ig"
    named(path, "[1]")
    assert look(path).format is None


# ----------------------------------------------------------------------------- what is something else


def pickled(content: Any) -> bytes:
    return pickle.dumps(content)


def legacy(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return stream.getvalue()


def torch_file(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


GRAPH_PT = {
    "input_string": "x",
    "adjacency_matrix": torch.zeros(3, 3),
    "active_features": torch.zeros(2, 3).long(),
    "input_tokens": torch.zeros(3).long(),
    "cfg": {"n_layers": 8},
    "scan": "gemma-2-2b",
}


class Config:
    """Of circuit-tracer's files, which hold an object."""


TEXT = json.dumps(CONTENT)
OTHERS: dict[str, tuple[bytes | str, str, str]] = {
    "UTF-16": (TEXT.encode("utf-16"), "text in UTF-16: byte 1 is not UTF-8", "save it as UTF-8"),
    "UTF-16 bare": (TEXT.encode("utf-16-le"), "text in UTF-16: byte 2 is not UTF-8", "save it as UTF-8"),
    "UTF-16 BE": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "byte 1 is not UTF-8", "save it as UTF-8"),
    "UTF-16 BE bare": (TEXT.encode("utf-16-be"), "UTF-16: byte 1 is not UTF-8", "save it as UTF-8"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32: byte 1 is not UTF-8", "save it as UTF-8"),
    "UTF-32 bare": (TEXT.encode("utf-32-le"), "UTF-32: byte 2 is not UTF-8", "save it as UTF-8"),
    "gzip": (gzip.compress(TEXT.encode()), "is compressed (gzip)", "unpack it: gunzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "is compressed (bzip2)", "unpack it"),
    "xz": (lzma.compress(TEXT.encode()), "is compressed (xz)", "unpack it"),
    "zip": (archive(circuit=b"{}"), "is a zip archive", "unpack it"),
    "pickle": (pickled({"cfg": 1}), "is a pickle, and these are never loaded", "to_json"),
    "old torch": (legacy({"cfg": 1}), "is a pickle, and these are never loaded", "to_json"),
    "graph.pt": (
        torch_file(GRAPH_PT),
        "is a graph as circuit-tracer's to_pt writes it",
        "create_graph_files",
    ),
    "graph.pt with an object": (
        torch_file(GRAPH_PT | {"cfg": Config()}),
        "is a graph as circuit-tracer's to_pt writes it",
        "create_graph_files",
    ),
    "other tensors": (
        torch_file({"x": torch.zeros(2)}),
        "holds no circuit (edges_in_graph)",
        "to_json or to_pt",
    ),
    "cut archive": (torch_file({"x": torch.zeros(2)})[:-30], "torch.save or numpy.savez did not", "copy it"),
    "nothing": (b"", "is empty", "copy it again"),
    "white": (b" \n", "is empty", "copy it again"),
    "web page": ("<!DOCTYPE html><html>", "is a web page or XML", "download the file itself"),
    "words": ("a note", "is text that is no JSON; looked for: cfg, nodes", "to_json"),
    "bytes": (bytes(range(128, 256)), "is of no kind that is known (128 bytes)", "to_json"),
    "numpy": (b"\x93NUMPY\x01\x00", "is a numpy array", "to_json"),
    "LFS": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a pointer of Git LFS",
        "git lfs pull",
    ),
    "a list": (json.dumps([CONTENT]), "is a list in JSON, not an object with named fields", "to_json"),
    "lines": (
        '{"a": 1}\n{"a": 2}\n',
        "is several objects of JSON one after the other (JSON Lines)",
        "to_json",
    ),
    "an empty object": ("{}", "is JSON with no fields; looked for", "to_json"),
    "other JSON": ('{"a": 1, "b": 2}', "is JSON with the fields a, b; looked for: cfg, nodes", "to_json"),
    "bad JSON": ("{'cfg': 1}", "is not valid JSON (10 bytes): Expecting property name", "correct it"),
    "cut JSON": ('{"a": [1, 2', "is not valid JSON (11 bytes): Expecting", "it may be truncated"),
    "a record": (
        json.dumps({"schema_version": 4, "protocol": "1", "task": {}, "metrics": {}}),
        "is the record of a run, not what was scored in it",
        "give the folder or the name of the submission",
    ),
    "a notebook": (
        json.dumps({"cells": [], "metadata": {"a": 1}, "nbformat": 4, "nbformat_minor": 5}),
        "is a notebook",
        "remainder.evaluate(task, thing)",
    ),
    "config of a model": (
        json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}),
        "is the config of a model of transformers",
        "the folder of an SAE",
    ),
    "index": (
        json.dumps({"metadata": {"total_size": 1}, "weight_map": {}}),
        "is a list of the safetensors files of a model",
        "the folder of an SAE",
    ),
    "feature of Neuronpedia": (
        json.dumps({"modelId": "gpt2-small", "layer": "6-res-jb", "index": "650", "activations": []}),
        "is the page of one feature on Neuronpedia",
        "hub:OWNER/REPO:SAE_ID",
    ),
    "feature of the frontend": (
        json.dumps({"index": 7, "examples_quantiles": [], "top_logits": []}),
        "is the page of one feature for circuit-tracer's frontend",
        "give the transcoders",
    ),
    "list of graphs": (
        json.dumps({"graphs": [{"slug": "a"}]}),
        "is circuit-tracer's list of graphs",
        "name a graph",
    ),
    "SAEBench": (json.dumps({"eval_type_id": "core"}), "is a result of SAEBench", "give the SAE"),
}
NAMES = ("file.json", "file.pt", "FILE.JSON", "file.json.gz", "file")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_something_else_is_told(tmp_path: Path, kind: str, name: str) -> None:
    content, found, fix = OTHERS[kind]
    path = named(tmp_path / name, content)
    what, mend = refused(path)
    assert found in what
    assert fix in mend
    assert str(tmp_path) not in mend  # no advice to give the folder, which could not be read
    for load in (
        lambda: eap_ig.load(path, PLAIN),
        lambda: attribution_graph.load(path, graphs.MODEL, graphs.LAYERS),
    ):
        with pytest.raises(InterpretationError) as caught:
            load()
        assert caught.value.what.count(str(path)) == 1
        assert caught.value.fix


def test_each_reader_names_what_the_other_one_reads(tmp_path: Path) -> None:
    circuit = put(tmp_path / "c.json", LATE)
    graph = named(tmp_path / "g.json", json.dumps(graphs.SMALL))
    with pytest.raises(InterpretationError, match="is a circuit of heads and MLPs in EAP-IG's layout"):
        attribution_graph.load(circuit, graphs.MODEL, graphs.LAYERS)
    with pytest.raises(InterpretationError, match="is a graph of circuit-tracer, of features"):
        eap_ig.load(graph, PLAIN)


# ------------------------------------------------------------------------------- parts of a folder


def write_sae_lens(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": 8, "d_sae": 12, "architecture": "standard"}))
    save_file(without_skip(random_weights()), folder / "sae_weights.safetensors")


def write_dictionary(folder: Path) -> None:
    weights = {**without_skip(random_weights()), "threshold": torch.ones(12)}
    write_dictionary_learning(folder, "JumpReluAutoEncoder", weights)


FOLDERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "saelens": (write_sae_lens, "cfg.json", "sae_weights.safetensors"),
    "sparsify": (lambda folder: write_sparsify(folder, random_weights()), "cfg.json", "sae.safetensors"),
    "dictionary-learning": (write_dictionary, "config.json", "ae.pt"),
}


@pytest.mark.parametrize("format", FOLDERS)
def test_a_part_leads_to_its_folder_only_if_that_can_be_read(tmp_path: Path, format: str) -> None:
    write, settings, weights = FOLDERS[format]
    for name in (settings, weights):
        folder = tmp_path / name
        write(folder)
        what, fix = refused(folder / name)
        assert what == "is a file; a submission is a folder"
        assert fix == f"give the folder that holds it: {folder}"
        (folder / ({settings, weights} - {name}).pop()).unlink()
        what, fix = refused(folder / name)
        assert "; beside it there is no " in what
        assert fix == f"put that into the same folder, {folder}, and give the folder"
    what, _ = refused(tmp_path / settings / settings)
    assert weights in what
    what, _ = refused(tmp_path / weights / weights)
    assert settings in what


def test_weights_of_circuit_tracer_lead_to_its_list(tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path, {1: without_skip(random_weights())})
    assert refused(tmp_path / "layer_1.safetensors")[1] == f"give the folder that holds it: {tmp_path}"
    for ending in (".yml", ".YAML"):
        path = (tmp_path / "config.yaml").rename(tmp_path / f"set{ending}")
        assert open_submission(path).method.format == "circuit-tracer"
        assert f"give {path}" in refused(tmp_path / "layer_1.safetensors")[1]
        path.rename(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").unlink()
    what, _ = refused(tmp_path / "layer_1.safetensors")
    assert "is tensors alone (W_dec, W_enc, b_dec, b_enc); beside it there is no" in what
    assert "config.yaml" in what


def test_yaml_of_something_else_is_told(tmp_path: Path) -> None:
    path = named(tmp_path / "train.yaml", "lr: 3\nbatch: 4\n")
    what, _ = refused(path)
    assert what.startswith("is YAML with the fields lr, batch; circuit-tracer's sets of transcoders have")


def test_a_folder_called_like_a_file_is_a_folder(tmp_path: Path) -> None:
    for name in ("x.json", "x.pt", "x.yaml", "x.safetensors"):
        write_sae_lens(tmp_path / name)
        assert open_submission(tmp_path / name).method.format == "saelens"
    (tmp_path / "empty.json").mkdir()
    with pytest.raises(
        InterpretationError, match=r"empty\.json is no submission: there is no submission\.toml"
    ):
        open_submission(tmp_path / "empty.json")
    write_circuit_tracer(tmp_path / "y.yaml", {1: without_skip(random_weights())})
    found = open_submission(tmp_path / "y.yaml")
    assert found.method.format == "circuit-tracer"


def test_a_description_leads_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "submission.toml").write_text("")
    assert refused(tmp_path / "submission.toml")[1] == f"give the folder that holds it: {tmp_path}"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.json.gz", "gzip", "is compressed"),
        ("a.json", "UTF-16", "is text in UTF-16"),
        ("record.json", "a record", "is the record of a run"),
        ("graph.pt", "graph.pt", "is a graph as circuit-tracer's to_pt writes it"),
        ("config.json", "config of a model", "is the config of a model"),
    ],
)
def test_of_a_folder_it_is_told_what_its_files_are(
    tmp_path: Path, name: str, kind: str, message: str
) -> None:
    named(tmp_path / name, OTHERS[kind][0])
    named(tmp_path / "notes.json", "[]")
    with pytest.raises(InterpretationError, match=message) as caught:
        open_submission(tmp_path)
    assert name in caught.value.what


def test_a_folder_of_graphs_is_told_what_belongs_to_it(tmp_path: Path) -> None:
    named(tmp_path / "graph-metadata.json", json.dumps({"graphs": []}))
    named(tmp_path / "late.json", json.dumps(graphs.SMALL))
    with pytest.raises(InterpretationError, match=r"late\.json is a circuit-tracer graph") as caught:
        open_submission(tmp_path)
    assert 'format = "feature-graph"' in (caught.value.fix or "")


def test_a_submission_that_names_something_else_is_told(tmp_path: Path) -> None:
    described = (
        'name = "mine"\nkind = "circuit"\ntitle = "t"\nauthors = ["a"]\nlicence = "MIT"\n'
        '[method]\nformat = "eap-ig"\npath = "{}"\n'
    )
    for kind, name in (
        ("gzip", "c.json.gz"),
        ("graph.pt", "c.pt"),
        ("UTF-16", "c.json"),
        ("a record", "r.json"),
    ):
        (tmp_path / "submission.toml").write_text(described.format(name))
        named(tmp_path / name, OTHERS[kind][0])
        with pytest.raises(InterpretationError) as caught:
            open_submission(tmp_path)
        assert OTHERS[kind][1] in caught.value.what
    eap_ig.save(tmp_path / "c.json", Circuit.full(PLAIN))
    (tmp_path / "C.PT.JSON").write_bytes((tmp_path / "c.json").read_bytes())
    (tmp_path / "submission.toml").write_text(described.format("C.PT.JSON"))
    assert set(open_submission(tmp_path).files) == {"C.PT.JSON"}
