"""Settings that change what is computed: each is computed, the codes written out here, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
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
    write_dictionary_learning,
)
from known_files import (
    HIDDEN,
    LAYER_NORMED,
    LINEAR,
    Custom,
    W,
    write_old,
    write_saelens,
    write_sparse,
    write_traced,
)
from safetensors.torch import load_file, save_file

from remainder.errors import InterpretationError
from remainder.formats import saelens
from remainder.interpretation.protocol import Adapted
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.task.spec import Site

# -------------------------------------------------------------------------------- activations


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


# -------------------------------------------------------------------------------- how the model was loaded

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
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs")
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
                return object_submission(sae).build(task)
            return object_submission(Custom(sae, {"d_in": WIDTH, **metadata})).build(task)
        return open_submission(folder).build(task, never)

    if taken:
        assert read().warnings == ()
    elif next(iter(options)) == "rope_scaling" and where == "bench":
        with pytest.raises(InterpretationError, match="rope_scaling"):
            read()
    else:
        with pytest.raises(InterpretationError, match=next(iter(options))):
            read()


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


# -------------------------------------------------------------------------------- two places for one value


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
                InterpretationError, match=r"group_sizes is .*; expected sizes that add up to 12"
            ):
                built(folder)


def test_a_tensor_that_nobody_knows_beside_the_weights_is_refused(tmp_path: Path) -> None:
    state = {**LINEAR, "bias": W["b_dec"], "scale": torch.ones(LATENTS)}
    with pytest.raises(InterpretationError, match=r"holds .*scale; expected"):
        built(write_dictionary_learning(tmp_path, "AutoEncoder", state))
    folder = write_sparse(tmp_path / "s")
    save_file({**load_file(folder / "sae.safetensors"), "scale": torch.ones(3)}, folder / "sae.safetensors")
    with pytest.raises(InterpretationError, match=r"holds .*scale; expected"):
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
        object_submission(Custom(sae, {"d_in": WIDTH, "d_sae": 13})).build(task_at())
    unfolded = make_sae("StandardSAE", normalize_activations="expected_average_only_in")
    with pytest.raises(InterpretationError, match="its weights are for rescaled activations"):
        object_submission(unfolded).build(task_at())


def test_what_nobody_knows_of_an_object_is_told() -> None:
    cfg = {"d_in": WIDTH, "hook_name": SITE.hook_in, "invented": 1, "activation_fn_str": "topk", "lr": 3}
    thing = Custom(make_sae("StandardSAE"), cfg)
    (warning,) = object_submission(thing, "mine").build(task_at()).warnings
    assert "mine has the field invented, which is not known: the object is asked to" in warning
    ignored = object_submission(thing, "mine", ["invented"])
    assert ignored.build(task_at()).warnings == (
        "The field invented of mine was ignored as asked; what it changes is not computed.",
    )
    assert ignored.hash != object_submission(thing, "mine").hash
    with pytest.raises(InterpretationError, match=r"mine: ignore_fields .* names absent"):
        object_submission(thing, "mine", ["absent"]).build(task_at())


def test_of_a_release_the_config_counts_and_not_what_its_class_keeps() -> None:
    """As sae-lens's reader gives it; the class drops what it does not know."""
    sae = make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in})
    said = {"architecture": "standard", "d_in": WIDTH, "d_sae": LATENTS, "hook_name": SITE.hook_in}
    with pytest.raises(InterpretationError, match=r"release: the field invented \(1\) is not known"):
        saelens.load_object(sae, task_at(), "release", None, {**said, "invented": 1})
    saelens.load_object(sae, task_at(), "release", None, {**said, "jump_relu_threshold": 0.1})
    loaded = saelens.load_object(sae, task_at(), "release", None, {**said, "activation_fn": "tanh-relu"})
    expected = torch.tanh(torch.relu((X - sae.b_dec) @ sae.W_enc + sae.b_enc))
    torch.testing.assert_close(loaded.interpretation.encode(X), expected, rtol=1e-5, atol=1e-5)
