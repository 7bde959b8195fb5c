"""Whether a file tells where and on what it was made: a fact that stands in check, table and record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from format_files import (
    MLP,
    RESIDUAL,
    SITE,
    WIDTH,
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

from remainder import evaluate
from remainder.errors import InterpretationError
from remainder.formats import dictionary_learning, gemma_scope, saelens
from remainder.formats.context import context_warnings
from remainder.formats.places import Loaded, MisfitError
from remainder.publish.check import check, render
from remainder.report.tables import render as render_table
from remainder.submission.objects import object_submission
from remainder.submission.open import baselines_for
from remainder.task.spec import Site, list_tasks, load_task

W = random_weights()
LINEAR = {
    "encoder.weight": W["W_enc"].T.contiguous(),
    "encoder.bias": W["b_enc"],
    "decoder.weight": W["W_dec"].T.contiguous(),
    "bias": W["b_dec"],
}
TOML = """name = "mine"
kind = "reconstruction"
title = "Mine"
authors = ["A"]
licence = "MIT"

[method]
format = "{format}"
path = "{path}"
"""


def without_hook(folder: Path, kind: str = "TopKSAE", **settings: Any) -> Path:
    settings = {"k": 3} if kind == "TopKSAE" else settings
    make_sae(kind, metadata={}, **settings).save_model(str(folder))
    return folder


def without_module(folder: Path) -> Path:
    return write_dictionary_learning(folder, "AutoEncoder", LINEAR, submodule_name=None, layer=-1)


def arrays(folder: Path) -> Path:
    """As one SAE or transcoder of Gemma Scope."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.numpy() for name, value in without_skip(W).items()}
    np.savez(folder / "params.npz", **stored, threshold=np.abs(stored["b_enc"]))
    return folder


UNTOLD = {
    "saelens": (without_hook, saelens, "cfg.json does not tell its place (no hook_name)"),
    "dictionary-learning": (without_module, dictionary_learning, "config.json does not tell its place"),
    "gemma-scope": (arrays, gemma_scope, "params.npz does not tell its place (no repository of Gemma Scope"),
}
ANY_SITE = Site(hook_in="blocks.7.hook_mlp_out", hook_out="blocks.7.hook_mlp_out", width=WIDTH)


@pytest.mark.parametrize("format", UNTOLD)
@pytest.mark.parametrize("site", [SITE, ANY_SITE, MLP])
def test_a_reader_says_that_the_place_is_not_told(tmp_path: Path, format: str, site: Site) -> None:
    write, reader, words = UNTOLD[format]
    loaded: Loaded = reader.load(write(tmp_path / "x"), task_at(site))  # type: ignore[attr-defined]
    assert not loaded.stated
    (warning,) = loaded.warnings
    assert warning.startswith(words)
    assert site.hook_out in warning
    assert str(tmp_path) not in warning


@pytest.mark.parametrize("format", UNTOLD)
def test_weights_alone_are_refused_if_nothing_tells_their_place(tmp_path: Path, format: str) -> None:
    folder = UNTOLD[format][0](tmp_path / "x")
    for site in (SITE, ANY_SITE):
        with pytest.raises(
            MisfitError, match=f"not known whether that is the task's site {site.hook_out}"
        ) as e:
            built(folder, site)
        assert 'tasks = ["smollm2-135m/resid-15"]' in (e.value.fix or "")
        assert "hook_name in cfg.json" in (e.value.fix or "")


@pytest.mark.parametrize("format", UNTOLD)
def test_a_submission_vouches_for_it_and_the_warning_stays(tmp_path: Path, format: str) -> None:
    UNTOLD[format][0](tmp_path / "weights")
    (tmp_path / "submission.toml").write_text(TOML.format(format=format, path="weights"))
    adapted = built(tmp_path, ANY_SITE)
    assert len(adapted.warnings) == 1
    assert UNTOLD[format][2] in adapted.warnings[0]


def test_a_transcoder_without_hooks_reads_what_the_task_reads(tmp_path: Path) -> None:
    sae = make_sae("Transcoder", metadata={}, d_out=WIDTH, apply_b_dec_to_input=False)
    sae.save_model(str(tmp_path))
    loaded = saelens.load(tmp_path, task_at(MLP))
    assert (loaded.reads, loaded.stated, len(loaded.warnings)) == ("in", False, 1)


def test_an_old_layer_tells_the_place() -> None:
    sae = object_submission(make_sae("StandardSAE", metadata={"hook_layer": 0}))
    assert sae.build(task_at()).warnings == ()
    with pytest.raises(MisfitError, match="trained at"):
        sae.build(task_at(ANY_SITE))


def test_an_sae_of_one_head_is_refused() -> None:
    sae = make_sae("StandardSAE", metadata={"hook_name": RESIDUAL, "hook_head_index": 3})
    with pytest.raises(InterpretationError, match=r"hook_head_index is 3; it can be null: one head of a"):
        object_submission(sae).build(task_at())


def told_of_all_formats(tmp_path: Path) -> dict[str, tuple[Path, Site]]:
    weights = without_skip(W)
    make_sae("TopKSAE", metadata={"hook_name": RESIDUAL, "context_size": 128}, k=3).save_model(
        str(tmp_path / "saelens")
    )
    trained = write_dictionary_learning(tmp_path / "dictionary", "AutoEncoder", LINEAR)
    return {
        "saelens": (tmp_path / "saelens", SITE),
        "dictionary-learning": (trained, SITE),
        "sparsify": (write_sparsify(tmp_path / "layers.0", W), SITE),
        "circuit-tracer": (write_circuit_tracer(tmp_path / "set", {1: weights}), MLP),
        "gemma-scope": (arrays(tmp_path / "gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_76"), MLP),
    }


def test_ordinary_files_of_each_library_get_no_warning(tmp_path: Path) -> None:
    for format, (folder, site) in told_of_all_formats(tmp_path).items():
        assert built(folder, site).warnings == (), format


def test_no_bundled_baseline_gets_a_warning() -> None:
    seen = 0
    for task in map(load_task, list_tasks()):
        if task.circuit is not None:
            continue
        for baseline in baselines_for(task):
            if baseline.method.get("path") is None or baseline.is_on_hub:
                continue
            adapted = baseline.build(task, never)
            assert (adapted.warnings, adapted.aliases) == ((), ()), (task.id, baseline.name)
            seen += 1
    assert seen >= 25


# ----------------------------------------------------------------------------------------- notebooks


class Plain:
    """No file, and nothing that could tell a place."""

    def encode(self, x: Any) -> Any:
        return x

    def decode(self, codes: Any) -> Any:
        return codes


def test_an_object_without_a_config_gets_no_warning() -> None:
    assert object_submission(Plain()).build(task_at()).warnings == ()


def test_an_sae_of_a_notebook_that_names_no_hook_gets_one() -> None:
    adapted = object_submission(make_sae("TopKSAE", metadata={}, k=3), "mine").build(task_at(ANY_SITE))
    assert adapted.warnings[0].startswith("mine does not tell its place (no hook_name)")
    named = make_sae("TopKSAE", metadata={"hook_name": RESIDUAL}, k=3)
    assert object_submission(named).build(task_at()).warnings == ()


# ------------------------------------------------------------------------- in check, table and record


@pytest.fixture
def task_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tiny.write_task(tmp_path / "tasks")


def test_the_warning_stands_in_check(task_folder: Path, tmp_path: Path) -> None:
    sae = make_sae("TopKSAE", metadata={"context_size": 64}, d_in=tiny.WIDTH, k=3)
    sae.save_model(str(tmp_path / "mine" / "weights"))
    (tmp_path / "mine" / "submission.toml").write_text(TOML.format(format="saelens", path="weights"))
    found = check(str(tmp_path / "mine"), str(task_folder))
    assert found.passed
    assert "does not tell its place" in found.warnings[0]
    assert "contexts of 64 tokens (context_size); the task's windows have 24" in found.warnings[1]
    assert "! cfg.json does not tell its place" in render(found)


def test_the_warning_stands_in_record_and_table() -> None:
    sae = make_sae("TopKSAE", metadata={"prepend_bos": False}, d_in=tiny.WIDTH, k=3)
    record = evaluate(tiny.make_loaded(), sae, tier="quick", name="mine").record
    assert "mine does not tell its place" in record.warnings[0]
    assert "without a token that begins a context" in record.warnings[1]
    assert "does not tell its place" in " ".join(render_table([record]).split())


# ------------------------------------------------------------------------------- what it was trained on

WINDOW = 128
DIFFERENT = [
    (
        {"context_size": 1024},
        "contexts of 1024 tokens (context_size); the task's windows have 128, so that it ",
    ),
    ({"context_size": 1024}, "scored at only the first positions of what it saw"),
    ({"context_size": 64}, "scored at later positions than it saw"),
    ({"prepend_bos": False}, "(prepend_bos is false); every window of the task begins with token 1"),
    ({"seqpos_slice": [5, -5]}, "seqpos_slice is [5, -5]"),
    ({"seqpos_slice": (64,)}, "seqpos_slice is [64]"),
    ({"seqpos_slice": [0, None, 2]}, "seqpos_slice is [0, None, 2]"),
    ({"seqpos_slice": [1, None]}, "seqpos_slice is [1, None]"),
]
SAME: list[dict[str, Any]] = [
    {},
    {"context_size": WINDOW, "prepend_bos": True},
    {"context_size": -1},
    {"context_size": None, "prepend_bos": None, "seqpos_slice": None},
    {"seqpos_slice": [None]},
    {"seqpos_slice": [0, None]},
    {"seqpos_slice": (None, None, 1)},
]
WRONG: list[dict[str, Any]] = [
    {"context_size": "128"},
    {"context_size": 0},
    {"context_size": 12.5},
    {"context_size": True},
    {"prepend_bos": "yes"},
    {"prepend_bos": 0},
    {"seqpos_slice": 5},
    {"seqpos_slice": "all"},
    {"seqpos_slice": []},
    {"seqpos_slice": [1, 2, 3, 4]},
    {"seqpos_slice": [True]},
    {"seqpos_slice": [0.5]},
]


@pytest.mark.parametrize(("metadata", "words"), DIFFERENT)
def test_what_differs_from_the_tasks_text_is_told(
    tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    sae = make_sae("StandardSAE", metadata={"hook_name": RESIDUAL, **metadata})
    sae.save_model(str(tmp_path))
    for adapted in (built(tmp_path), object_submission(sae).build(task_at())):
        (warning,) = adapted.warnings
        assert words in warning
        assert warning.endswith(".")


@pytest.mark.parametrize("fields", SAME)
def test_what_does_not_differ_is_not_told(fields: dict[str, Any]) -> None:
    assert context_warnings(fields, task_at(), "cfg.json") == ()


@pytest.mark.parametrize("fields", WRONG)
def test_what_no_library_writes_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InterpretationError, match=rf"cfg\.json: {next(iter(fields))} is .*; expected"):
        context_warnings(fields, task_at(), "cfg.json")


def test_a_task_without_a_text_has_nothing_to_compare_with() -> None:
    fields = {"context_size": 12, "prepend_bos": False, "seqpos_slice": [1]}
    assert context_warnings(fields, load_task("tiny/digits"), "cfg.json") == ()


def test_the_buffer_of_dictionary_learning_tells_its_context(tmp_path: Path) -> None:
    folder = write_dictionary_learning(tmp_path, "AutoEncoder", LINEAR)
    content = json.loads((folder / "config.json").read_text())
    content["buffer"]["ctx_len"] = 2048
    (folder / "config.json").write_text(json.dumps(content))
    assert "contexts of 2048 tokens (buffer.ctx_len)" in built(folder).warnings[0]


# ----------------------------------------------------------------------------------------- Gemma Scope

NORMALISED = Site(hook_in="blocks.1.ln2.hook_normalized", hook_out="blocks.1.hook_mlp_out", width=WIDTH)
SITES = (SITE, MLP, ANY_SITE, NORMALISED)
TRANSCODER = "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_76"


@pytest.mark.parametrize(
    "path",
    [
        TRANSCODER,
        f"models--google--{TRANSCODER.replace('/layer', '/snapshots/0a1b/layer')}",
        f"google/{TRANSCODER}",
    ],
)
def test_a_transcoder_by_its_path_reads_the_normalised_input(tmp_path: Path, path: str) -> None:
    folder = arrays(tmp_path / path)
    assert built(folder, NORMALISED).reads == "in"
    for site in (SITE, MLP, ANY_SITE):
        with pytest.raises(MisfitError, match=r"trained to read blocks\.1\.ln2\.hook_normalized and rebuild"):
            built(folder, site)


@pytest.mark.parametrize(
    "path",
    [
        "gemma-scope-2b-pt-transcoders/width_16k",
        "gemma-scope-2-1b-pt/transcoder/layer_13_width_16k_l0_small",
        "gemma-scope-2-1b-pt/transcoder_all/layer_13_width_16k_l0_small_affine",
        "gemma-scope-2-270m-it/skip-transcoder/layer_1",
        "gemma-scope-2-1b-pt/crosscoder/layer_13_17_22",
        "gemma-scope-2-4b-it/clt/width_262k_l0_medium",
        "my-gemma-transcoders/layer_1",
        "crosscoders/layer_1",
        "CLT/layer_1",
    ],
)
def test_no_other_transcoder_is_read_as_an_sae(tmp_path: Path, path: str) -> None:
    folder = arrays(tmp_path / "x" / path)
    for site in SITES:
        with pytest.raises(MisfitError, match="by its path it is a transcoder or crosscoder"):
            gemma_scope.load(folder, task_at(site))


@pytest.mark.parametrize(
    ("path", "site", "reads"),
    [
        ("gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_76", SITE, "in"),
        ("gemma-scope-9b-it-res/layer_0/width_16k/canonical", SITE, "in"),
        ("gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_76", MLP, "out"),
        ("transcoders/gemma-scope-2b-pt-mlp/layer_1/width_16k/average_l0_76", MLP, "out"),
    ],
)
def test_an_sae_is_one_wherever_its_repository_lies(
    tmp_path: Path, path: str, site: Site, reads: str
) -> None:
    adapted = built(arrays(tmp_path / path), site)
    assert (adapted.reads, adapted.warnings) == (reads, ())


def test_an_sae_of_the_embedding_is_of_no_block(tmp_path: Path) -> None:
    folder = arrays(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6")
    with pytest.raises(MisfitError, match="trained at hook_embed"):
        built(folder)
    embedding = Site(hook_in="hook_embed", hook_out="hook_embed", width=WIDTH)
    assert built(folder, embedding).warnings == ()


def test_a_link_is_judged_by_its_own_path_and_then_by_the_others(tmp_path: Path) -> None:
    store, link = arrays(tmp_path / TRANSCODER), tmp_path / "mine"
    link.symlink_to(store)
    with pytest.raises(MisfitError, match="trained to read"):
        built(link)
    other = tmp_path / "gemma-scope-2b-pt-mlp" / "layer_1"
    other.parent.mkdir()
    other.symlink_to(arrays(tmp_path / "store-17"))
    assert built(other, MLP).reads == "out"
