"""One model, however it is held: one score, which is that of a plain loop; and the object stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hub_files import random_sae
from model_objects import Wrapped, bridged, hooked, of_transformers
from transformers import AutoModel, AutoTokenizer

import remainder
from remainder import evaluate
from remainder.errors import AssetError, InterpretationError, MeasurementError, TaskError
from remainder.loading.adapt import GivenModel, given_model
from remainder.loading.hooks import find_site
from remainder.loading.site import LanguageTask, open_on
from remainder.model import device
from remainder.model.bridge import weights_hash
from remainder.task.spec import Tier

KINDS: dict[str, Callable[[str], Any]] = {
    "folder": tiny.model_folder,
    "transformers": of_transformers,
    "bridge": bridged,
    "hooked": hooked,
    "nnsight": lambda architecture: Wrapped(of_transformers(architecture)),
}
PLACES = {
    "gpt2": ("transformer.h.1", "transformer.h.2.mlp", "transformer.h.2.attn"),
    "llama": ("model.layers.1", "model.layers.2.mlp", "model.layers.2.self_attn"),
}
CASES = [(architecture, place) for architecture, places in PLACES.items() for place in places]
SPECIAL = {0, tiny.BOS, tiny.EOS}
TIER = Tier(evaluation_windows=4, calibration_windows=4, fit_windows=4, pairs=1, dtype="float32")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def opened(given: GivenModel, place: str, window: int = tiny.WINDOW) -> LanguageTask:
    plain = tiny.make_task()
    assert plain.corpus is not None
    task = tiny.make_task(
        model=given.spec,
        site=find_site(given, place),
        corpus=plain.corpus.model_copy(update={"window": window}),
        tiers={"quick": TIER},
    )
    return open_on(task, given, tiny.make_corpus(task), torch.device("cpu"), batch_size=3)


def score(loaded: LanguageTask) -> dict[str, float]:
    """Nats per token of the clean model, spliced, and of the KL."""
    values = evaluate(loaded, tiny.Shrink(), name="shrink", tier="quick", rungs=("raw",)).values
    sums = values.groupby("rung")[["loss", "kl", "tokens"]].sum()
    found = sums[["loss", "kl"]].div(sums["tokens"], axis=0)
    return {"clean": found.loc["clean", "loss"], **found.loc["raw"].to_dict()}


def plain_loop(architecture: str, place: str, loaded: LanguageTask) -> dict[str, float]:
    """The same with a model of transformers and forward hooks alone, a window at a time."""
    model, shrink = of_transformers(architecture), tiny.Shrink()
    sums, tokens = dict.fromkeys(("clean", "loss", "kl"), 0.0), 0
    for row in loaded.corpus.windows("evaluation").first(TIER.evaluation_windows).inputs:
        ids = torch.from_numpy(row)
        spliced = torch.tensor([int(token) not in SPECIAL for token in ids])

        def splice(module: Any, args: Any, output: Any, spliced: torch.Tensor = spliced) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            new = torch.where(spliced[:, None], shrink.decode(shrink.encode(x)), x)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        with torch.inference_mode():
            clean = model(ids[None]).logits[0].double().log_softmax(-1)
            handle = model.get_submodule(place).register_forward_hook(splice)
            changed = model(ids[None]).logits[0].double().log_softmax(-1)
            handle.remove()
        for t in range(len(ids) - 1):
            if spliced[t] and int(ids[t + 1]) not in SPECIAL:
                sums["clean"] -= float(clean[t, ids[t + 1]])
                sums["loss"] -= float(changed[t, ids[t + 1]])
                sums["kl"] += float((clean[t].exp() * (clean[t] - changed[t])).sum())
                tokens += 1
    return {name: total / tokens for name, total in sums.items()}


@pytest.mark.parametrize(("architecture", "place"), CASES)
def test_all_kinds_give_the_score_of_a_plain_loop(
    architecture: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: dict[str, float] = {}
    for kind, made in KINDS.items():
        monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / kind))  # none measures another's activations
        loaded = opened(given_model(made(architecture)), place)
        expected = expected or plain_loop(architecture, place, loaded)
        found = score(loaded)
        assert found == pytest.approx(expected, abs=1e-5), kind
    assert expected["kl"] > 0.005  # what is spliced matters


@pytest.mark.parametrize("window", [5, 17, 64])
def test_windows_of_any_length_up_to_the_context(window: int) -> None:
    model = given_model(of_transformers("gpt2"))
    loaded = opened(model, "transformer.h.1", window)
    assert model.context == 64
    assert score(loaded) == pytest.approx(plain_loop("gpt2", "transformer.h.1", loaded), abs=1e-5)


@pytest.mark.parametrize("architecture", PLACES)
def test_object_bridge_and_folder_have_one_hash(architecture: str) -> None:
    stored = weights_hash(tiny.model_folder(architecture))
    model = of_transformers(architecture)
    for thing in (model, bridged(architecture), Wrapped(model)):
        given = given_model(thing)
        assert (given.spec.weights_sha256, given.spec.name) == (stored, architecture)
        assert (given.pinned.source, given.folder) == (f"object:{architecture}", None)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert given_model(model).spec.weights_sha256 != stored


def test_processed_weights_are_another_model() -> None:
    model = bridged("gpt2")
    model.enable_compatibility_mode()
    given = given_model(model)
    assert given.spec.weights_sha256 != weights_hash(tiny.model_folder("gpt2"))
    ids = tiny.tokens(2)
    with torch.inference_mode():
        expected = model(ids)
        torch.testing.assert_close(given.bridge()(ids), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["transformers", "bridge", "hooked"])
def test_the_object_stays_as_it_is(kind: str) -> None:
    model = KINDS[kind]("gpt2").train()
    inner = model.original_model if kind == "bridge" else model
    for weight in inner.parameters():
        weight.requires_grad_(True)
    before = {name: (type(part), part.training) for name, part in inner.named_modules()}
    weights = {name: weight.detach().clone() for name, weight in inner.named_parameters()}
    score(opened(given_model(model), "blocks.2.hook_resid_pre"))
    assert {name: (type(part), part.training) for name, part in inner.named_modules()} == before
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in inner.modules())
    for name, weight in inner.named_parameters():
        assert weight.requires_grad
        assert torch.equal(weight, weights[name])


def test_weights_are_shared_not_doubled() -> None:
    model = of_transformers("llama")
    found = given_model(model).bridge()
    assert found.embed.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("kind", ["transformers", "hooked"])
def test_another_precision_is_measured_in_the_asked_one(kind: str) -> None:
    model = KINDS[kind]("gpt2").to(torch.bfloat16)
    given = given_model(model)
    assert {weight.dtype for weight in given.bridge().parameters()} == {torch.float32}
    assert {weight.dtype for weight in given.bridge("bfloat16").parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert score(opened(given, "blocks.2.hook_resid_pre"))["clean"] > 0


def test_outputs_noted_by_transformers_do_not_hinder() -> None:
    """It leaves hooks of its own on a model that was once asked for hidden states."""
    model = of_transformers("llama")
    model(tiny.tokens(1), output_hidden_states=True)
    assert any(part._forward_hooks for part in model.modules())
    given_model(model).bridge()


def test_a_forward_of_nnsight_is_known_by_its_code() -> None:
    """Before 0.8 it is a function that goes by the name of what it wraps, and leads back to the original."""
    model = of_transformers("llama")
    for part in model.modules():
        scope = {"__name__": "nnsight.intervention.interleaver", "plain": part.forward}
        exec("def forward(*args, **settings): return plain(*args, **settings)", scope)
        scope["forward"].__module__ = type(part).__module__
        part.forward = scope["forward"]
    assert find_site(given_model(model), "layers.1").hook_out == "blocks.1.hook_resid_post"


def test_nnsight_is_not_called_while_measuring() -> None:
    wrapper = Wrapped(of_transformers("llama"))
    score(opened(given_model(wrapper), "layers.1"))
    assert wrapper.calls == []
    with torch.inference_mode():
        wrapper._module(tiny.tokens(1))
    assert "LlamaMLP" in wrapper.calls


def left_on(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: 2 * output)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a hook of a module": (lambda: changed(left_on), "has a hook on a LlamaMLP", "remove"),
    "a hook of TransformerLens": (
        lambda: with_hook(bridged("gpt2")),
        "has a hook at blocks.1.hook_out",
        "reset_hooks",
    ),
    "weights elsewhere": (lambda: changed(lambda model: model.to("meta")), "are not loaded", "dispatch"),
    "several places": (
        lambda: changed(lambda model: model.lm_head.to("meta")),
        r"several places \(cpu, meta\), and models over several devices are not supported",
        "device_map",
    ),
    "no unembedding": (
        lambda: AutoModel.from_pretrained(tiny.model_folder("gpt2")),
        "has no unembedding",
        "AutoModelForCausalLM",
    ),
    "another module": (
        lambda: torch.nn.Linear(2, 2),
        "Linear is no model that is known",
        "HookedTransformer",
    ),
    "no module": (object, "builtins.object is no model", "a folder or an id"),
}


def changed(change: Callable[[Any], object]) -> Any:
    model = of_transformers("llama")
    change(model)
    return model


def with_hook(bridge: Any) -> Any:
    bridge.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda value, hook: value)
    return bridge


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_at_once(case: str) -> None:
    made, message, fix = REFUSED[case]
    with pytest.raises(TaskError, match=message) as raised:
        given_model(made())
    assert fix in (raised.value.fix or "")


def test_a_model_that_the_bridge_would_compute_otherwise() -> None:
    """The bridge takes the weights of a joint matrix apart, and does not call its module."""
    model = of_transformers("gpt2")
    joint = model.transformer.h[1].attn.c_attn
    plain = joint.forward
    joint.forward = lambda x: 3 * plain(x)
    given = given_model(model)
    with pytest.raises(MeasurementError, match="gives other logits than by itself"):
        given.bridge()


def test_an_object_too_large_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "free_memory", lambda: 1000.0)
    given = given_model(of_transformers("llama"))
    given.bridge()  # its weights are there already
    with pytest.raises(AssetError, match="weights of llama in bfloat16 take"):
        given.bridge("bfloat16")


def test_the_tokenizer_is_the_given_one_or_that_where_the_model_came_from() -> None:
    model, given = of_transformers("llama"), AutoTokenizer.from_pretrained(tiny.model_folder("llama"))
    assert given_model(model, tokenizer=given).tokenizer is given
    assert len(given_model(model).tokenizer) == len(given)
    assert given_model(Wrapped(model, given)).tokenizer is given
    model.name_or_path = ""
    alone = given_model(model)
    assert (alone.has_tokenizer, alone.spec.name) == (False, "LlamaForCausalLM")
    with pytest.raises(TaskError, match="came without a tokenizer"):
        _ = alone.tokenizer
    with pytest.raises(TaskError, match="which has its own"):
        given_model(tiny.model_folder(), tokenizer=given)


def test_hooked_transformer_has_no_hook_that_is_surely_a_module() -> None:
    given = given_model(hooked("llama"))
    with pytest.raises(TaskError, match=r"no hook that is surely the module .*down_proj"):
        find_site(given, "model.layers.1.mlp.down_proj")
    with pytest.raises(TaskError, match=r"no hook 'blocks.9.hook_resid_pre'"):
        find_site(given, "blocks.9.hook_resid_pre")


def test_one_line_scores_an_object_as_it_does_a_folder() -> None:
    """A tokenizer is found where the model came from, and token ids need none."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(3, tiny.VOCABULARY, 60) for _ in range(30)]
    model, shrink = of_transformers("llama"), tiny.Shrink()
    alone = of_transformers("llama")
    alone.name_or_path = ""
    settings: dict[str, Any] = {"hook": "model.layers.1", "rungs": ("raw",), "name": "shrink"}
    texts = [" ".join(f"w{i}" for i in row) for row in ids]
    folder = remainder.score(shrink, model=tiny.model_folder("llama"), text=texts, **settings)
    held = remainder.score(shrink, model=model, text=texts, **settings)
    bare = remainder.score(shrink, model=alone, text=ids, bos=tiny.BOS, compat=True, **settings)
    losses = [each.values.set_index(["document", "window", "rung"])["loss"] for each in (folder, held)]
    assert losses[1].to_numpy() == pytest.approx(losses[0].to_numpy(), abs=1e-5)
    assert (bare.values["tokens"] > 0).all()
    assert held.record.model.source == "object:llama"
    assert held.record.model.sha256 == folder.record.model.sha256


def test_the_name_of_an_object_counts_if_others_know_it() -> None:
    model, sae = of_transformers("llama"), random_sae()
    sae.cfg.metadata.model_name = "pythia-70m"
    settings: dict[str, Any] = {"name": "sae", "tier": "quick", "rungs": ("raw",)}
    evaluate(opened(given_model(model), tiny.SITE), sae, **settings)  # `llama` is the name of a folder
    model.name_or_path = "EleutherAI/pythia-160m"
    with pytest.raises(InterpretationError, match="made for the model pythia-70m; the task's is"):
        evaluate(opened(given_model(model), tiny.SITE), sae, **settings)


def test_an_sae_of_another_width_names_both() -> None:
    loaded = opened(given_model(of_transformers("llama")), "model.layers.1.mlp.gate_proj")
    with pytest.raises(InterpretationError, match=r"16.*width 32"):
        evaluate(loaded, random_sae(hook=loaded.task.site.hook_in), name="sae", tier="quick")
