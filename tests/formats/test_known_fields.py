"""Fields of files: one that nobody knows is never passed over in silence, and one that is known counts.

For every reader: an invented field, at the top and where it computes from; each line of each table taken out;
each heeded field with another value; and the page that lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
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
    task_at,
    write_circuit_tracer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from known_files import (
    INVENTED,
    READERS,
    W,
    edit,
    without,
    write_learned,
    write_saelens,
)

from remainder.base.paths import project_root
from remainder.errors import InterpretationError
from remainder.formats import (
    circuit_tracer,
    dictionary_learning,
    eap_ig_fields,
    field_page,
    gemma_scope,
    model_loading,
    saelens_fields,
    sparsify,
)
from remainder.formats.known import Ignore, Settings, Table, heeded, lines_of, plain
from remainder.publish import check as checking
from remainder.submission.method import read_method, submission_hash
from remainder.submission.open import open_submission
from remainder.task.spec import Site, load_task


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


# -------------------------------------------------------------------------------- a line taken out

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
def test_without_its_line_a_field_is_refused(table: str, name: str) -> None:
    lines, look = TABLES[table]
    look({name: None})
    with (
        without(lines.lines, name),
        pytest.raises(InterpretationError, match=rf"the field {name} \(None\) is not known"),
    ):
        look({name: None})


@pytest.mark.parametrize("reader", READERS)
def test_every_field_of_an_ordinary_file_is_refused_without_its_line(tmp_path: Path, reader: str) -> None:
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
        with (
            without(own, name),
            pytest.raises(InterpretationError, match=rf"the field {name} \(.*\) is not known"),
        ):
            built(folder, about.site)
        taken += 1
    assert taken >= (2 if reader == "dictionary-learning" else 4)


# -------------------------------------------------------------------------------- each heeded field counts


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
        "embed_skip": True,
        "gram_lookup": True,
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


# -------------------------------------------------------------------------------- settings and the page


def test_fields_to_ignore_enter_the_hash_only_if_there_are_any() -> None:
    bare = read_method({"format": "saelens", "path": "weights"})
    ignoring = read_method({**bare.model_dump(exclude_unset=True), "ignore_fields": ["a"]})
    assert submission_hash(bare, {}) != submission_hash(ignoring, {})
    assert "ignore_fields" not in json.dumps(bare.model_dump(exclude_unset=True))
    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="`ignore_fields` names fields"):
            read_method({"format": "saelens", "path": ".", "ignore_fields": names})
    with pytest.raises(ValueError, match="`ignore_fields` is not a setting of format pca; it has `rank`"):
        read_method({"format": "pca", "rank": 2, "ignore_fields": ["a"]})


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
    with pytest.raises(
        InterpretationError, match="`ignore_fields` is not a setting of format mean; it has none"
    ) as raised:
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
    assert {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"} <= eap_ig_fields.CFG.lines.keys()
    assert eap_ig_fields.CFG.rest is None
    assert eap_ig_fields.ENTRY.lines.keys() == {"in_graph", "score"}


BASELINES = sorted(path.parent.name for path in (project_root() / "baselines").glob("*/weights"))


@pytest.mark.parametrize("name", BASELINES)
def test_a_bundled_baseline_has_no_field_that_is_not_known(name: str) -> None:
    submission = open_submission(name)
    if submission.kind == "reconstruction" and submission.method.format == "saelens":
        assert submission.build(load_task(submission.tasks[0]), never).warnings == ()
