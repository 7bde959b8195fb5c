"""Fields of files: one that nobody knows is never passed over in silence, and one that is known moves something.

For every reader: an invented field, at the top and where the reader computes from; each line of each table taken
out; each heeded field with another value. Where SAELens, circuit-tracer or dictionary_learning compute with a
field, the expected codes are written out here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from format_files import (
    LATENTS,
    MASK,
    MLP,
    SITE,
    WIDTH,
    K,
    X,
    built,
    make_sae,
    never,
    random_weights,
    task_at,
    without_skip,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from remainder import checking
from remainder.errors import InterpretationError
from remainder.formats import (
    circuit_tracer,
    dictionary_learning,
    eap_ig_files,
    field_page,
    gemma_scope,
    model_loading,
    saelens,
    saelens_fields,
    sparsify,
)
from remainder.formats.known import Ignore, Settings, Table, heeded, lines_of, plain
from remainder.interpretation import Adapted
from remainder.method import Method, submission_hash
from remainder.objects import object_submission
from remainder.paths import project_root
from remainder.submission import open_submission
from remainder.task import Site, load_task

W = without_skip(random_weights())
HIDDEN = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
LINEAR = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"], "decoder.weight": W["W_dec"].T}
LAYER_NORMED = load_task("gpt2/resid-8").model


# ------------------------------------------------------------------------------------- files of each reader


def write_saelens(folder: Path, **changed: Any) -> Path:
    """A folder as SAELens 6 saves it."""
    make_sae("TopKSAE", k=K, metadata={"hook_name": SITE.hook_in}).save_model(str(folder))
    return edit(folder / "cfg.json", changed)


def write_old(folder: Path, **changed: Any) -> Path:
    """A flat config, as SAELens 3 saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in W.items()}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "context_size": 128,
        "model_name": "HuggingFaceTB/SmolLM2-135M",
        "hook_name": SITE.hook_in,
        "hook_layer": 1,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "text",
        "dataset_trust_remote_code": True,
        "dtype": "torch.float32",
        "device": "cpu",
        "sae_lens_training_version": "3.12.0",
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return edit(folder / "cfg.json", changed)


def write_learned(folder: Path, **changed: Any) -> Path:
    state = {**LINEAR, "b_dec": W["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    write_dictionary_learning(folder, "AutoEncoderTopK", state)
    return edit(folder / "config.json", changed)


def write_sparse(folder: Path, **changed: Any) -> Path:
    return edit(write_sparsify(folder / "layers.0", random_weights()) / "cfg.json", changed)


def write_traced(folder: Path, **changed: Any) -> Path:
    write_circuit_tracer(folder, {1: W})
    content = nested(yaml.safe_load((folder / "config.yaml").read_text()), changed)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def write_scope(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in W.items()} | {"threshold": np.ones(LATENTS, np.float32)}
    np.savez(folder / "params.npz", **arrays, **changed)
    return folder


def nested(content: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """With these fields, of blocks if there are dots in a name; `...` takes one out."""
    for name, value in changed.items():
        *blocks, last = name.split(".")
        place = content
        for part in blocks:
            place[part] = place.get(part) or {}
            place = place[part]
        if value is ...:
            place.pop(last, None)
        else:
            place[last] = value
    return content


def edit(path: Path, changed: dict[str, Any]) -> Path:
    path.write_text(json.dumps(nested(json.loads(path.read_text()), changed)))
    return path.parent


class Reader(NamedTuple):
    write: Callable[..., Path]
    site: Site
    module: Any
    invented: tuple[str, ...]
    """Places where nobody knows a field."""


READERS = {
    "saelens": Reader(
        write_saelens, SITE, saelens, ("invented", "metadata.model_from_pretrained_kwargs.invented")
    ),
    "saelens, old": Reader(
        write_old,
        SITE,
        saelens,
        ("invented", "activation_fn_kwargs.invented", "model_from_pretrained_kwargs.invented"),
    ),
    "dictionary-learning": Reader(write_learned, SITE, dictionary_learning, ("invented",)),
    "sparsify": Reader(write_sparse, SITE, sparsify, ("invented",)),
    "circuit-tracer": Reader(write_traced, MLP, circuit_tracer, ("invented",)),
    "gemma-scope": Reader(write_scope, SITE, gemma_scope, ("invented",)),
}
INVENTED = [(reader, name) for reader, about in READERS.items() for name in about.invented]


@pytest.mark.parametrize("reader", READERS)
def test_an_ordinary_file_is_read_without_a_word(tmp_path: Path, reader: str) -> None:
    about = READERS[reader]
    assert built(about.write(tmp_path), about.site).warnings == ()


@pytest.mark.parametrize(("reader", "name"), INVENTED)
@pytest.mark.parametrize("value", [True, 3, "tanh", None])
def test_an_invented_field_is_refused_by_name(tmp_path: Path, reader: str, name: str, value: Any) -> None:
    about = READERS[reader]
    if reader == "gemma-scope":
        value = np.ones(3, np.float32)
    folder = about.write(tmp_path, **{name: value})
    with pytest.raises(InterpretationError, match=rf"the field {name} \(.*\) is not known") as raised:
        built(folder, about.site)
    assert f"--ignore-field {name}" in str(raised.value.fix)


@pytest.mark.parametrize(("reader", "name"), INVENTED)
def test_an_ignored_field_stands_in_the_warnings_and_in_the_hash(
    tmp_path: Path, reader: str, name: str
) -> None:
    about = READERS[reader]
    value = np.ones(3, np.float32) if reader == "gemma-scope" else 3
    folder = about.write(tmp_path, **{name: value})
    submission = open_submission(folder, [name])
    adapted = submission.build(task_at(about.site), never)
    assert [warning for warning in adapted.warnings if f"The field {name} of " in warning]
    plainly = built(about.write(tmp_path / "plain"), about.site)
    torch.testing.assert_close(adapted.reconstruct(X, MASK), plainly.reconstruct(X, MASK), rtol=0, atol=0)
    assert submission.hash != open_submission(folder).hash


@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_no_file_has_cannot_be_ignored(tmp_path: Path, reader: str) -> None:
    about = READERS[reader]
    with pytest.raises(InterpretationError, match="names absent, a field that none of its files has"):
        open_submission(about.write(tmp_path), ["absent"]).build(task_at(about.site), never)


@pytest.mark.parametrize(
    ("reader", "name"),
    [("saelens", "k"), ("sparsify", "k"), ("dictionary-learning", "trainer.k"), ("gemma-scope", "b_enc"),
     ("circuit-tracer", "feature_input_hook"), ("saelens", "metadata.hook_name"), ("sparsify", "multi_topk")],
)  # fmt: skip
def test_what_is_computed_with_or_harmless_cannot_be_ignored(tmp_path: Path, reader: str, name: str) -> None:
    about = READERS[reader]
    with pytest.raises(InterpretationError, match=rf"{name} is (heeded|harmless): .*; it cannot be ignored"):
        open_submission(about.write(tmp_path), [name]).build(task_at(about.site), never)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12), st.sampled_from([None, 0, "x", [1], {"a": 2}]))
def test_no_name_is_passed_over_by_a_table_without_a_rest(name: str, value: Any) -> None:
    table = Table({"known": heeded("computed with", plain)})
    if name == "known":
        assert Settings({name: value}, table, "here")["known"] == value
        return
    with pytest.raises(InterpretationError, match="is not known"):
        Settings({name: value}, table, "here")
    assert name not in Settings({name: value}, table, "here", Ignore(frozenset({name}))).content


def test_in_a_describing_block_an_invented_field_is_told_or_harmless(tmp_path: Path) -> None:
    folder = write_learned(tmp_path / "a", **{"trainer.invented": 1})
    assert any("trainer.invented, which is not known" in said for said in built(folder).warnings)
    assert built(write_saelens(tmp_path / "b", **{"metadata.invented": 1})).warnings == ()
    assert built(write_learned(tmp_path / "c", **{"buffer.invented": 1, "logger": {"a": 1}})).warnings == ()


def test_an_entry_of_a_list_of_transcoders_is_looked_at(tmp_path: Path) -> None:
    listed = [{"id": "a", "layer": 1, "filepath": "layer_1.safetensors", "invented": 2}]
    folder = write_circuit_tracer(tmp_path, {1: W}, listed)
    name = "transcoders[0].invented"
    with pytest.raises(InterpretationError, match=r"the field transcoders\[0\]\.invented \(2\) is not known"):
        built(folder, MLP)
    adapted = open_submission(folder, [name]).build(task_at(MLP), never)
    assert adapted.warnings[0].startswith(f"The field {name} of config.yaml was ignored")


# ------------------------------------------------------------------------------------- a line taken out

TABLES: dict[str, tuple[Table, Callable[[dict[str, Any]], Any]]] = {
    "sparsify": (sparsify.FIELDS, lambda c: Settings(c, sparsify.FIELDS, "f")),
    "circuit-tracer": (circuit_tracer.FIELDS, lambda c: Settings(c, circuit_tracer.FIELDS, "f")),
    "circuit-tracer, entry": (circuit_tracer.ENTRY, lambda c: Settings(c, circuit_tracer.ENTRY, "f")),
    "dictionary-learning": (
        dictionary_learning.FIELDS,
        lambda c: Settings(c, dictionary_learning.FIELDS, "f"),
    ),
    "gemma-scope": (gemma_scope.FIELDS, lambda c: Settings(c, gemma_scope.FIELDS, "f")),
    "options": (model_loading.OPTIONS, lambda c: Settings(c, model_loading.OPTIONS, "f")),
    "saelens": (
        Table(saelens_fields.COMMON),
        lambda c: Settings(c, saelens_fields.table_of({"architecture": "standard"}), "f"),
    ),
    **{
        architecture: (
            Table(own),
            lambda c, a=architecture: Settings(c, saelens_fields.table_of({"architecture": a}), "f"),
        )
        for architecture, own in saelens_fields.ARCHITECTURES.items()
    },
}
LINES = [(table, name) for table, (lines, _) in TABLES.items() for name in lines.lines]


@pytest.mark.parametrize(("table", "name"), LINES)
def test_without_its_line_a_field_is_refused(monkeypatch: pytest.MonkeyPatch, table: str, name: str) -> None:
    lines, look = TABLES[table]
    look({name: None})
    monkeypatch.delitem(lines.lines, name)
    with pytest.raises(InterpretationError, match=rf"the field {name} \(None\) is not known"):
        look({name: None})


@pytest.mark.parametrize("reader", READERS)
def test_every_field_of_an_ordinary_file_is_refused_without_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """The readers themselves go by their tables, and by nothing else."""
    about = READERS[reader]
    folder = about.write(tmp_path)
    if reader == "circuit-tracer":
        held, lines = yaml.safe_load((folder / "config.yaml").read_text()), circuit_tracer.FIELDS.lines
    elif reader == "gemma-scope":
        held, lines = dict(np.load(folder / "params.npz")), gemma_scope.FIELDS.lines
    else:
        path = next(folder.glob("c*g.json"))
        held = json.loads(path.read_text())
        lines = {
            "dictionary-learning": dictionary_learning.FIELDS.lines,
            "sparsify": sparsify.FIELDS.lines,
        }.get(reader, saelens_fields.COMMON)
    taken = 0
    for name in held:
        own = saelens_fields.ARCHITECTURES["topk"] if reader == "saelens" and name not in lines else lines
        with monkeypatch.context() as patch:
            patch.delitem(own, name)
            with pytest.raises(InterpretationError, match=rf"the field {name} \(.*\) is not known"):
                built(folder, about.site)
        taken += 1
    assert taken >= 5 or reader == "dictionary-learning"


# ------------------------------------------------------------------------------------- each heeded field counts


def outcome(folder: Path, site: Site, **changed: Any) -> Any:
    """What comes of a file: why it is refused, or what it reads, rebuilds and warns of."""
    try:
        adapted = built(folder, site, **changed)
    except InterpretationError as problem:
        return problem.what
    return adapted.reads, adapted.warnings, adapted.reconstruct(X, MASK)[1].sum().item()


OTHER: dict[str, dict[str, Any]] = {
    "saelens": {
        "architecture": "gated",
        "d_in": WIDTH + 1,
        "d_sae": LATENTS + 1,
        "apply_b_dec_to_input": False,
        "normalize_activations": "layer_norm",
        "reshape_activations": "odd",
        "activation_fn_str": "tanh-relu",
        "activation_fn": "leaky_relu",
        "activation_fn_kwargs.k": K + 1,
        "activation_fn_kwargs.signed": True,
        "finetuning_scaling_factor": 3,
        "metadata.hook_name": "blocks.3.hook_resid_pre",
        "hook_name": "blocks.3.hook_resid_pre",
        "hook_name_out": 3,
        "hook_point": 3,
        "hook_head_index": 2,
        "hook_point_head_index": 2,
        "hook_head_index_out": 2,
        "model_name": "gpt2",
        "model_class_name": "HookedMamba",
        "model_from_pretrained_kwargs.revision": "step1000",
        "model_kwargs": {"stop_at_layer": 2},
        "k": K + 1,
        "rescale_acts_by_decoder_norm": True,
    },
    "dictionary-learning": {
        "trainer.dict_class": "AutoEncoder",
        "trainer.activation_dim": WIDTH + 1,
        "trainer.dict_size": LATENTS + 1,
        "trainer.k": K + 1,
        "trainer.layer": 3,
        "trainer.submodule_name": "mlp_out_layer_0",
        "trainer.lm_name": "gpt2",
        "trainer.group_sizes": [4, 4],
        "buffer.io": "in",
    },
    "sparsify": {
        "d_in": WIDTH + 1,
        "num_latents": LATENTS + 1,
        "expansion_factor": 2,  # with num_latents: 0, which the test adds
        "k": K + 1,
        "activation": "groupmax",
        "signed": True,
        "skip_connection": True,
        "transcode": True,
    },
    "circuit-tracer": {
        "model_name": "gpt2",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_attn_out",
        "transcoders": ["layer_0.safetensors"],
        "activation": "topk",
        "k": K,
    },
}
OF_PLACE_ALONE = {"hook_layer", "hook_point_layer", "prepend_bos", "context_size", "seqpos_slice"}
"""Heeded where no hook is named, or compared with the task's windows; see the tests of places."""
CHANGES = [(reader, name) for reader, names in OTHER.items() for name in names]


@pytest.mark.parametrize(("reader", "name"), CHANGES)
def test_another_value_of_a_heeded_field_is_refused_or_moves_something(
    tmp_path: Path, reader: str, name: str
) -> None:
    about = READERS[reader]
    value = OTHER[reader][name]
    more = {"num_latents": 0} if name == "expansion_factor" else {}
    before = outcome(about.write(tmp_path / "before"), about.site)
    after = outcome(about.write(tmp_path / "after", **{name: value}, **more), about.site)
    assert not isinstance(before, str), before
    assert after != before
    if name == "activation":  # topk needs its k
        with_k = outcome(about.write(tmp_path / "k", activation="topk", k=K), about.site)
        assert with_k != before if reader == "circuit-tracer" else after != before


def test_there_is_an_example_of_every_heeded_field() -> None:
    """So that none is heeded in name alone."""
    for reader, lines in (
        ("saelens", saelens_fields.COMMON | saelens_fields.ARCHITECTURES["topk"]),
        ("dictionary-learning", dictionary_learning.FIELDS.lines),
        ("sparsify", sparsify.FIELDS.lines),
        ("circuit-tracer", circuit_tracer.FIELDS.lines),
    ):
        tops = {name.split(".")[0] for name in OTHER[reader]}
        wanted = {name for name, line in lines.items() if line.how == "heeded"}
        assert wanted - tops <= OF_PLACE_ALONE | {"sae_lens_version"}, reader
    trainer = dictionary_learning.FIELDS.lines["trainer"].within
    assert trainer is not None
    named = {name.partition(".")[2] for name in OTHER["dictionary-learning"]}
    assert {name for name, line in trainer.lines.items() if line.how == "heeded"} <= named


OF_ARCHITECTURE = [
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "kval_topk", 5),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "n_heads", 1),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "n_attn_layers", 2),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "bottleneck_factor", 3),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "sae_diff_type", "relu"),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "sae_diff_type", "odd"),
    ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "tied_weights", False),
    (
        "TemporalSAE",
        {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K, "activation_normalization_factor": 0.3,
         "normalize_activations": "constant_scalar_rescale"},
        "activation_normalization_factor",
        0.5,
    ),
    ("MatchingPursuitSAE", {"max_iterations": 3}, "max_iterations", 1),
    ("MatchingPursuitSAE", {"max_iterations": 3}, "residual_threshold", 100.0),
    ("AbsTopKSAE", {"k": K}, "k", 5),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "made", "name", "value"), OF_ARCHITECTURE)
def test_a_field_of_one_architecture_counts_there_and_is_refused_elsewhere(
    tmp_path: Path, kind: str, made: dict[str, Any], name: str, value: Any
) -> None:
    make_sae(kind, metadata={"hook_name": SITE.hook_in}, **made).save_model(str(tmp_path / "a"))
    before = outcome(tmp_path / "a", SITE)
    assert not isinstance(before, str), before
    assert outcome(edit(tmp_path / "a" / "cfg.json", {name: value}), SITE) != before
    make_sae("GatedSAE", metadata={"hook_name": SITE.hook_in}).save_model(str(tmp_path / "b"))
    with pytest.raises(InterpretationError, match=rf"the field {name} \(.*\) is not known"):
        built(edit(tmp_path / "b" / "cfg.json", {name: value}))


@pytest.mark.parametrize(
    ("kind", "made", "name"),
    [
        ("TopKSAE", {"k": K}, "k"),
        ("AbsTopKSAE", {"k": K}, "k"),
        ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "n_heads"),
        ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "kval_topk"),
        ("MatchingPursuitSAE", {"max_iterations": 3}, "max_iterations"),
    ],
)
def test_a_default_of_a_class_of_sae_lens_is_not_filled_in(
    tmp_path: Path, kind: str, made: dict[str, Any], name: str
) -> None:
    make_sae(kind, metadata={"hook_name": SITE.hook_in}, **made).save_model(str(tmp_path))
    with pytest.raises(InterpretationError, match=f"{name} is missing, which the architecture"):
        built(edit(tmp_path / "cfg.json", {name: ...}))


# ------------------------------------------------------------------------------------- activations


def codes(folder: Path, site: Site = SITE) -> torch.Tensor:
    return built(folder, site).encode(X)


@pytest.mark.parametrize("named", ["activation_fn_str", "activation_fn"])
def test_tanh_relu_of_an_old_config_is_computed(tmp_path: Path, named: str) -> None:
    folder = write_old(tmp_path, **{"activation_fn_str": ..., named: "tanh-relu"})
    torch.testing.assert_close(codes(folder), HIDDEN.relu().tanh(), rtol=1e-5, atol=1e-5)
    expected = HIDDEN.relu().tanh() @ W["W_dec"] + W["b_dec"]
    torch.testing.assert_close(built(folder).reconstruct(X, MASK)[1], expected, rtol=1e-5, atol=1e-5)


def test_tanh_relu_of_normalised_activations_is_computed(tmp_path: Path) -> None:
    folder = write_old(tmp_path, activation_fn_str="tanh-relu", normalize_activations="layer_norm")
    mean, scale = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
    hidden = ((X - mean) / (scale + 1e-5) - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
    expected = (hidden.relu().tanh() @ W["W_dec"] + W["b_dec"]) * scale + mean
    torch.testing.assert_close(built(folder).reconstruct(X, MASK)[1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_of_an_old_config_is_computed(tmp_path: Path, k: int) -> None:
    folder = write_old(tmp_path, activation_fn_str="topk", activation_fn_kwargs={"k": k})
    values, places = HIDDEN.relu().topk(k)
    torch.testing.assert_close(codes(folder), torch.zeros_like(HIDDEN).scatter(-1, places, values))


WRONG_OLD: dict[str, tuple[dict[str, Any], str]] = {
    "leaky": ({"activation_fn_str": "leaky_relu"}, "activation_fn_str is 'leaky_relu'; computed are"),
    "gelu": ({"activation_fn": "gelu", "activation_fn_str": ...}, "activation_fn is 'gelu'; computed are"),
    "topk without k": ({"activation_fn_str": "topk"}, "activation_fn_str is topk, and .* has no k"),
    "two": ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'; activation_fn_str is relu"),
    "k of relu": ({"activation_fn_kwargs.k": 3}, r"activation_fn_kwargs\.k is 3; it is of topk"),
    "two k": (
        {"activation_fn_str": "topk", "activation_fn_kwargs.k": 3, "k": 4},
        r"activation_fn_kwargs\.k is 3; k is 4",
    ),
    "signed": (
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3, "signed": True}},
        r"activation_fn_kwargs\.signed is True; it can be false",
    ),
    "topk of 6": (
        {"activation_fn_str": "topk", "activation_fn_kwargs.k": 3, "sae_lens_version": "6.1.0"},
        "activation_fn_str is 'topk'; from version 6 on",
    ),
    "gated tanh": ({"architecture": "gated", "activation_fn_str": "tanh-relu"}, "'tanh-relu'; computed are"),
    "k": ({"k": 3}, r"the field k \(3\) is not known"),
    "one head": ({"hook_head_index": 0}, "hook_head_index is 0; it can be null"),
    "no word": ({"activation_fn_str": 3}, "activation_fn_str is 3; expected text"),
    "relu topk": ({"architecture": "topk", "k": 3}, "activation_fn_str is 'relu'; architecture is topk"),
}


@pytest.mark.parametrize("name", WRONG_OLD)
def test_what_an_old_config_asks_for_and_is_not_computed_is_refused(tmp_path: Path, name: str) -> None:
    changed, message = WRONG_OLD[name]
    with pytest.raises(InterpretationError, match=message):
        built(write_old(tmp_path, **changed))


def test_a_refused_activation_can_be_ignored_and_then_it_is_said(tmp_path: Path) -> None:
    folder = write_old(tmp_path, activation_fn_str="leaky_relu")
    adapted = open_submission(folder, ["activation_fn_str"]).build(task_at(), never)
    torch.testing.assert_close(adapted.encode(X), HIDDEN.relu())
    assert adapted.warnings == (
        "The field activation_fn_str of cfg.json was ignored as asked; what it changes is not computed.",
    )


@pytest.mark.parametrize("scaled", [True, False])
def test_scaling_as_a_truth_value_is_read_as_sae_lens_does(tmp_path: Path, scaled: bool) -> None:
    folder = write_old(tmp_path, normalize_activations=scaled)
    if scaled:
        with pytest.raises(InterpretationError, match="normalize_activations is expected_average_only_in"):
            built(folder)
    else:
        torch.testing.assert_close(codes(folder), HIDDEN.relu())


@pytest.mark.parametrize("k", [1, 3, 6, 9])
def test_circuit_tracer_keeps_the_largest_of_whatever_sign(tmp_path: Path, k: int) -> None:
    """Its `TopK` multiplies by a gate, without a ReLU; with few latents above zero some are below."""
    hidden = X @ W["W_enc"] + W["b_enc"]
    values, places = hidden.topk(k)
    expected = torch.zeros_like(hidden).scatter(-1, places, values)
    found = codes(write_traced(tmp_path, activation="topk", k=k), MLP)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


WRONG_TRACED: dict[str, tuple[dict[str, Any], str]] = {
    "gelu": ({"activation": "gelu"}, "activation is 'gelu'; known are relu, topk, jumprelu"),
    "no k": ({"activation": "topk"}, "k is None; expected a whole number from 1 to 12"),
    "large k": ({"activation": "topk", "k": 13}, "k is 13; expected a whole number from 1 to 12"),
    "k alone": ({"k": 3}, "k is 3; it is of activation: topk"),
    "k of relu": ({"activation": "relu", "k": 3}, "k is 3; it is of activation: topk"),
    "no threshold": ({"activation": "jumprelu"}, "activation is jumprelu, and the weights have no threshold"),
}


@pytest.mark.parametrize("name", WRONG_TRACED)
def test_an_activation_that_is_not_computed_is_refused(tmp_path: Path, name: str) -> None:
    changed, message = WRONG_TRACED[name]
    with pytest.raises(InterpretationError, match=message):
        built(write_traced(tmp_path, **changed), MLP)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_weights_with_a_threshold_are_of_no_other_activation(tmp_path: Path, activation: str) -> None:
    level = {"activation_function.threshold": torch.ones(LATENTS)}
    folder = write_circuit_tracer(tmp_path, {1: {**W, **level}}, activation=activation, k=K)
    if activation == "relu":
        folder = write_circuit_tracer(tmp_path, {1: {**W, **level}}, activation=activation)
    with pytest.raises(
        InterpretationError, match=f"activation is {activation}, and the weights have a thres"
    ):
        built(folder, MLP)


# ------------------------------------------------------------------------------------- how the model was loaded

Z, MLP_IN = "blocks.1.attn.hook_z", "blocks.1.mlp.hook_in"
OPTIONS: list[tuple[str, dict[str, Any], bool]] = [
    (Z, {"fold_value_biases": True}, False),
    (Z, {"fold_value_biases": False}, True),
    ("blocks.1.attn.hook_v", {"fold_value_biases": True}, False),
    ("blocks.1.hook_attn_out", {"fold_value_biases": True}, True),
    (SITE.hook_in, {"fold_value_biases": True}, True),
    (Z, {"refactor_factored_attn_matrices": True}, False),
    ("blocks.1.attn.hook_q", {"refactor_factored_attn_matrices": True}, False),
    (SITE.hook_in, {"refactor_factored_attn_matrices": True}, True),
    (MLP_IN, {"fold_ln": True}, False),
    ("blocks.1.ln2.hook_normalized", {"fold_ln": True}, False),
    ("ln_final.hook_normalized", {"fold_ln": True}, False),
    (SITE.hook_in, {"fold_ln": True}, True),
    (Z, {"fold_ln": True}, True),
    ("blocks.1.hook_mlp_out", {"fold_ln": True}, True),
    (SITE.hook_in, {"center_unembed": True}, True),
    (SITE.hook_in, {"n_ctx": 64, "dtype": "float16", "default_prepend_bos": False}, True),
    (SITE.hook_in, {"revision": "step3000"}, False),
    (SITE.hook_in, {"revision": "main"}, True),
    (SITE.hook_in, {"checkpoint_value": 3000}, False),
    (SITE.hook_in, {"checkpoint_index": 3}, False),
    (SITE.hook_in, {"load_in_4bit": True}, False),
    (SITE.hook_in, {"rope_scaling": {"factor": 2}}, False),
    (SITE.hook_in, {"fold_ln": "yes"}, False),
]


@pytest.mark.parametrize(("hook", "options", "taken"), OPTIONS)
@pytest.mark.parametrize("where", ["metadata", "top", "old", "notebook", "bench"])
@pytest.mark.filterwarnings("ignore:.*model_from_pretrained_kwargs")
def test_options_of_loading_are_refused_where_they_move_the_tensor(
    tmp_path: Path, hook: str, options: dict[str, Any], taken: bool, where: str
) -> None:
    site = Site(hook_in=hook, hook_out=hook, width=WIDTH)
    metadata = {"hook_name": hook, "model_name": "gpt2", "model_from_pretrained_kwargs": options}

    def read() -> Adapted:
        task = task_at(site, model=LAYER_NORMED)
        if where == "old":
            folder = write_old(tmp_path, **metadata)
        elif where == "top":
            folder = write_saelens(tmp_path, **{**metadata, "metadata.hook_name": hook})
        elif where == "metadata":
            folder = write_saelens(tmp_path, metadata={**metadata, "sae_lens_version": "6.5.0"})
        else:
            sae = make_sae("StandardSAE", metadata=metadata)
            if where == "notebook":
                return object_submission(sae).check(task)
            return object_submission(Custom(sae, {"d_in": WIDTH, **metadata})).check(task)
        return open_submission(folder).build(task, never)

    if taken:
        assert read().warnings == ()
    elif next(iter(options)) == "rope_scaling" and where == "bench":
        with pytest.raises(InterpretationError, match="rope_scaling"):
            read()
    else:
        with pytest.raises(InterpretationError, match=next(iter(options))):
            read()


class Custom:
    """A custom SAE of SAEBench."""

    def __init__(self, sae: Any, cfg: dict[str, Any]) -> None:
        self.encode, self.decode, self.cfg = sae.encode, sae.decode, cfg
        self.W_dec = sae.W_dec


def test_a_transcoder_of_a_centred_output_is_read_with_a_warning(tmp_path: Path) -> None:
    metadata = {
        "hook_name": MLP.hook_in,
        "hook_name_out": MLP.hook_out,
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        sae = make_sae("Transcoder", d_out=WIDTH, apply_b_dec_to_input=False, metadata=metadata)
    sae.save_model(str(tmp_path))
    (warning,) = built(tmp_path, MLP, model=LAYER_NORMED).warnings
    assert "less its mean over the width" in warning
    assert built(tmp_path, MLP).warnings == ()  # RMSNorm: nothing was taken out


# ------------------------------------------------------------------------------------- two places for one value


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hook_name": "blocks.2.hook_resid_pre"}, "hook_name is .*, and metadata.hook_name"),
        ({"metadata.k": 5}, "k is 3, and metadata.k 5"),
        ({"metadata.apply_b_dec_to_input": False}, "apply_b_dec_to_input is True, and metadata"),
        ({"metadata.activation_fn_str": "tanh-relu"}, "metadata.activation_fn_str is 'tanh-relu'; SAELens"),
    ],
)
def test_what_the_top_computes_with_is_not_said_otherwise_below(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InterpretationError, match=message):
        built(write_saelens(tmp_path, **changed))


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_counters_beside_the_weights_agree_with_the_config(tmp_path: Path, kind: str) -> None:
    own = W if kind.startswith("M") else {**LINEAR, "b_dec": W["b_dec"]}
    state = {**own, "k": torch.tensor(5), "threshold": torch.tensor(0.7)}
    folder = write_dictionary_learning(tmp_path / "a", kind, state)
    with pytest.raises(InterpretationError, match=r"ae\.pt: k is 5; config\.json says k = 3"):
        built(folder)
    built(write_dictionary_learning(tmp_path / "b", kind, state, k=5))
    if kind.startswith("M"):
        for place in ("state", "config"):
            groups = {"group_sizes": torch.tensor([4, 4])} if place == "state" else {}
            said = {"group_sizes": [4, 4]} if place == "config" else {}
            folder = write_dictionary_learning(tmp_path / place, kind, {**state, **groups}, k=5, **said)
            with pytest.raises(
                InterpretationError, match="group_sizes is .*; expected sizes that add up to 12"
            ):
                built(folder)


def test_a_tensor_that_nobody_knows_beside_the_weights_is_refused(tmp_path: Path) -> None:
    state = {**LINEAR, "bias": W["b_dec"], "scale": torch.ones(LATENTS)}
    with pytest.raises(InterpretationError, match="holds .*scale; expected"):
        built(write_dictionary_learning(tmp_path, "AutoEncoder", state))
    folder = write_sparse(tmp_path / "s")
    save_file({**load_file(folder / "sae.safetensors"), "scale": torch.ones(3)}, folder / "sae.safetensors")
    with pytest.raises(InterpretationError, match="holds .*scale; expected"):
        built(folder)


def test_a_run_of_sparsify_and_its_modules_agree(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path)
    (tmp_path / "config.json").write_text('{"transcode": true, "lr": 0.1}')
    with pytest.raises(
        InterpretationError, match=r"config\.json: transcode is True; cfg\.json of the module"
    ):
        built(folder)
    (tmp_path / "config.json").write_text('{"transcode": false, "lr": 0.1}')
    assert built(folder).warnings == ()


def test_an_object_and_its_config_agree() -> None:
    sae = make_sae("StandardSAE")
    with pytest.raises(InterpretationError, match="W_dec has 12 latents; cfg says d_sae = 13"):
        object_submission(Custom(sae, {"d_in": WIDTH, "d_sae": 13})).check(task_at())
    unfolded = make_sae("StandardSAE", normalize_activations="expected_average_only_in")
    with pytest.raises(InterpretationError, match="its weights are for rescaled activations"):
        object_submission(unfolded).check(task_at())


def test_what_nobody_knows_of_an_object_is_told() -> None:
    cfg = {"d_in": WIDTH, "invented": 1, "activation_fn_str": "topk", "lr": 3}
    thing = Custom(make_sae("StandardSAE"), cfg)
    (warning,) = object_submission(thing, "mine").check(task_at()).warnings
    assert "mine has the field invented, which is not known: the object is asked to" in warning
    ignored = object_submission(thing, "mine", ["invented"])
    assert ignored.check(task_at()).warnings == (
        "The field invented of mine was ignored as asked; what it changes is not computed.",
    )
    assert ignored.hash != object_submission(thing, "mine").hash
    with pytest.raises(InterpretationError, match="mine: ignore_fields .* names absent"):
        object_submission(thing, "mine", ["absent"]).check(task_at())


def test_of_a_release_the_config_counts_and_not_what_its_class_keeps() -> None:
    """As sae-lens's reader gives it; the class drops what it does not know."""
    sae = make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in})
    said = {"architecture": "standard", "d_in": WIDTH, "d_sae": LATENTS, "hook_name": SITE.hook_in}
    with pytest.raises(InterpretationError, match=r"release: the field invented \(1\) is not known"):
        saelens.load_object(sae, task_at(), "release", None, {**said, "invented": 1})
    loaded = saelens.load_object(sae, task_at(), "release", None, {**said, "activation_fn": "tanh-relu"})
    expected = torch.tanh(torch.relu((X - sae.b_dec) @ sae.W_enc + sae.b_enc))
    torch.testing.assert_close(loaded.thing.encode(X), expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------- peers' own forward


@pytest.mark.parametrize("norm_factor", [None, 3.7])
@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE"])
def test_a_dictionary_trained_on_scaled_activations_is_stored_for_plain_ones(
    tmp_path: Path, kind: str, norm_factor: float | None
) -> None:
    """x / s was trained on; biases and threshold are stored times s. So x̂ = s · D(E(x / s))."""
    s = 1.0 if norm_factor is None else norm_factor
    name = "bias" if kind == "AutoEncoder" else "b_dec"
    state = {**LINEAR, "encoder.bias": W["b_enc"] * s, name: W["b_dec"] * s}
    state |= {} if kind == "AutoEncoder" else {"k": torch.tensor(K), "threshold": torch.tensor(0.7 * s)}
    hidden = ((X / s - W["b_dec"]) @ W["W_enc"] + W["b_enc"]).relu()
    if kind == "AutoEncoderTopK":
        values, places = hidden.topk(K)
        hidden = torch.zeros_like(hidden).scatter(-1, places, values)
    elif kind == "BatchTopKSAE":
        hidden = hidden * (hidden > 0.7)
    expected = s * (hidden @ W["W_dec"] + W["b_dec"])
    folder = write_dictionary_learning(tmp_path, kind, state, norm_factor=norm_factor)
    adapted = built(folder)
    assert adapted.warnings == ()
    torch.testing.assert_close(adapted.reconstruct(X, MASK)[1], expected, rtol=1e-5, atol=1e-5)


TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "StandardTrainer": ("AutoEncoder", {"l1_penalty": 0.1, "resample_steps": None}),
    "StandardTrainerAprilUpdate": ("AutoEncoder", {"l1_penalty": 0.1}),
    "PAnnealTrainer": ("AutoEncoder", {"sparsity_function": "Lp", "p_start": 1, "p_end": 0.2, "anneal_start": 9,
                                       "sparsity_queue_length": 10, "n_sparsity_updates": 10,
                                       "sparsity_penalty": 0.1}),
    "GatedAnnealTrainer": ("GatedAutoEncoder", {"sparsity_function": "Lp", "p_start": 1, "p_end": 0}),
    "GatedSAETrainer": ("GatedAutoEncoder", {"l1_penalty": 0.1}),
    "TopKTrainer": ("AutoEncoderTopK", {"auxk_alpha": 0.03, "threshold_beta": 0.999, "k": K}),
    "BatchTopKTrainer": ("BatchTopKSAE", {"auxk_alpha": 0.03, "top_k_aux": 4, "k": K}),
    "MatryoshkaBatchTopKTrainer": ("MatryoshkaBatchTopKSAE", {"group_fractions": [0.5, 0.5], "k": K,
                                   "group_weights": [0.5, 0.5], "group_sizes": [6, 6]}),
    "JumpReluTrainer": ("JumpReluAutoEncoder", {"bandwidth": 0.001, "target_l0": 20.0}),
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_the_nine_trainers_write_is_known(tmp_path: Path, trainer: str) -> None:
    kind, own = TRAINERS[trainer]
    level = torch.rand(LATENTS)
    states: dict[str, dict[str, torch.Tensor]] = {
        "AutoEncoder": {**LINEAR, "bias": W["b_dec"]},
        "GatedAutoEncoder": {
            "encoder.weight": LINEAR["encoder.weight"],
            "decoder.weight": LINEAR["decoder.weight"],
            "decoder_bias": W["b_dec"],
            **{name: level for name in ("r_mag", "mag_bias", "gate_bias")},
        },
        "AutoEncoderTopK": {
            **LINEAR,
            "b_dec": W["b_dec"],
            "k": torch.tensor(K),
            "threshold": torch.tensor(-1.0),
        },
        "BatchTopKSAE": {**LINEAR, "b_dec": W["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.5)},
        "MatryoshkaBatchTopKSAE": {
            **W,
            "k": torch.tensor(K),
            "threshold": torch.tensor(0.5),
            "group_sizes": torch.tensor([6, 6]),
        },
        "JumpReluAutoEncoder": {**W, "threshold": level},
    }
    common = {
        "trainer_class": trainer,
        "lr": 1e-3,
        "steps": 100,
        "seed": 0,
        "device": "cuda:0",
        "wandb_name": trainer,
        "warmup_steps": 10,
        "decay_start": 80,
        "sparsity_warmup_steps": 10,
    }
    folder = write_dictionary_learning(tmp_path, kind, states[kind], **{**common, **own})
    buffer = {"d_submodule": WIDTH, "io": "out", "n_ctxs": 10, "ctx_len": 128, "refresh_batch_size": 4}
    edit(folder / "config.json", {"buffer": {**buffer, "out_batch_size": 8, "device": "cpu"}})
    adapted = built(folder)
    assert adapted.warnings == ()
    biased = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    x = X - W["b_dec"] if biased else X
    hidden = x @ W["W_enc"] + W["b_enc"]
    expected = {
        "AutoEncoder": lambda: hidden.relu(),
        "GatedAutoEncoder": lambda: (
            (x @ W["W_enc"] * level.exp() + level).relu() * (x @ W["W_enc"] + level > 0)
        ),
        "AutoEncoderTopK": lambda: torch.zeros_like(hidden).scatter(
            -1, hidden.relu().topk(K).indices, hidden.relu().topk(K).values
        ),
        "BatchTopKSAE": lambda: hidden.relu() * (hidden.relu() > 0.5),
        "MatryoshkaBatchTopKSAE": lambda: hidden.relu() * (hidden.relu() > 0.5),
        "JumpReluAutoEncoder": lambda: (hidden * (hidden > level)).relu(),
    }[kind]()
    found = adapted.reconstruct(X, MASK)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected @ W["W_dec"] + W["b_dec"], rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------- settings and the page


def test_fields_to_ignore_enter_the_hash_only_if_there_are_any() -> None:
    bare = Method.model_validate({"format": "saelens", "path": "weights"})
    ignoring = Method.model_validate({**bare.model_dump(exclude_unset=True), "ignore_fields": ["a"]})
    assert submission_hash(bare, {}) != submission_hash(ignoring, {})
    assert "ignore_fields" not in json.dumps(bare.model_dump(exclude_unset=True))
    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="`ignore_fields` names fields"):
            Method.model_validate({"format": "saelens", "ignore_fields": names})
    with pytest.raises(ValueError, match="not of format pca"):
        Method.model_validate({"format": "pca", "rank": 2, "ignore_fields": ["a"]})


def test_a_submission_names_fields_to_ignore(tmp_path: Path) -> None:
    write_saelens(tmp_path / "weights", invented=1)
    (tmp_path / "submission.toml").write_text(
        'name = "mine"\nkind = "reconstruction"\ntitle = "t"\nauthors = ["a"]\nlicence = "MIT"\n'
        '[method]\nformat = "saelens"\npath = "weights"\nignore_fields = ["invented"]\n'
    )
    found = open_submission(tmp_path)
    assert "invented" in found.build(task_at(), never).warnings[0]
    assert open_submission(tmp_path, ["invented"]).hash == found.hash


def test_a_reference_has_no_fields() -> None:
    with pytest.raises(InterpretationError, match="not of format") as raised:
        open_submission("mean-only", ["a"])
    assert "--ignore-field" in str(raised.value.fix)


def test_check_says_what_was_ignored_and_how_to_score_it(tmp_path: Path) -> None:
    found = checking.Checked(str(tmp_path), task="a/b", ignored=("x.y",))
    found.ok("found", "all")
    assert f"--with {tmp_path} --ignore-field x.y" in checking.render(found, width=400)


def test_the_page_lists_what_the_tables_have() -> None:
    page = (project_root() / field_page.PAGE).read_text(encoding="utf-8")
    assert field_page.page_with(page, field_page.render()) == page, "python -m remainder.formats.field_page"
    for section in field_page.SECTIONS:
        for name, _ in lines_of(section.table):
            assert f"`{name.rpartition('.')[2]}`" in page


def test_fields_of_cfg_of_a_circuit_are_known_by_name() -> None:
    assert {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"} <= eap_ig_files.CFG.lines.keys()
    assert eap_ig_files.CFG.rest is None
    assert eap_ig_files.ENTRY.lines.keys() == {"in_graph", "score"}
