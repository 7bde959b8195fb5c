"""Hook names of one tensor, on real models, and what is refused as made for another place or model."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, model_folder, tokens

from remainder.errors import InterpretationError
from remainder.formats.places import check_model, check_width, reads_at, tensor_of, two_tensors
from remainder.loading.fetch import load_bridge
from remainder.task.spec import ModelSpec, Site

BLOCK = 2
NAMES = (
    "hook_in",
    "hook_out",
    "hook_resid_pre",
    "hook_resid_post",
    "hook_resid_mid",
    "ln2.hook_in",
    "ln2.hook_out",
    "hook_mlp_out",
    "mlp.hook_out",
    "mlp.hook_in",
    "hook_attn_out",
    "attn.hook_out",
    "attn.hook_z",
    "attn.o.hook_in",
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_that_are_taken_for_one_tensor_fire_with_the_same_values(architecture: str) -> None:
    folder = model_folder(architecture)
    spec = ModelSpec(name="tiny", licence="MIT", hub=str(folder))
    bridge = load_bridge(spec, dtype="float32", device=torch.device("cpu"), folder=folder)
    seen: dict[str, torch.Tensor] = {}
    hooks = [f"blocks.{block}.{name}" for block in (BLOCK - 1, BLOCK) for name in NAMES]
    hooks = [name for name in hooks if name in bridge.hook_dict]

    def keep(value: torch.Tensor, hook: object, name: str) -> None:
        seen[name] = value.detach().flatten(2).clone()

    with torch.inference_mode():
        bridge.run_with_hooks(
            tokens(), fwd_hooks=[(name, lambda v, hook, n=name: keep(v, hook, n)) for name in hooks]
        )
    groups = defaultdict(list)
    for name in seen:
        groups[tensor_of(name)].append(name)
    # Both blocks' residual streams (one is shared), MLPs, heads … have two names and more.
    assert sum(len(names) > 1 for names in groups.values()) >= 10
    two = set()
    for first, *others in groups.values():
        for other in others:
            if two_tensors(first, other, spec):
                assert not torch.allclose(seen[first], seen[other], rtol=0.1), (first, other)
                two.add(other)
            else:
                torch.testing.assert_close(seen[first], seen[other], msg=f"{first}, {other}")
    # Gemma 2 normalises again behind attention and MLP: see the module's text.
    assert len(two) == (4 if architecture == "gemma-2" else 0)


def test_other_tensors_keep_their_names() -> None:
    for hook in ("blocks.3.hook_mlp_in", "blocks.3.ln2.hook_normalized", "hidden", "blocks.3.mlp.hook_post"):
        assert tensor_of(hook) == hook


def site(hook_in: str, hook_out: str | None = None) -> Site:
    return Site(hook_in=hook_in, hook_out=hook_out or hook_in, width=8)


MLP = site("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
RESID = site("blocks.3.hook_resid_pre")


@pytest.mark.parametrize(
    ("made", "where", "reads"),
    [
        (("blocks.3.hook_resid_pre",) * 2, RESID, "in"),
        (("blocks.2.hook_resid_post",) * 2, RESID, "in"),
        (("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"), MLP, "in"),
        (("blocks.3.ln2.hook_out", "blocks.3.mlp.hook_out"), MLP, "in"),
        (("blocks.3.hook_mlp_out",) * 2, MLP, "out"),
        (("blocks.3.attn.hook_z",) * 2, site("blocks.3.attn.o.hook_in"), "in"),
    ],
)
def test_which_place_is_read(made: tuple[str, str], where: Site, reads: str) -> None:
    assert reads_at(made, where, "cfg.json") == reads


@pytest.mark.parametrize(
    ("made", "where", "message"),
    [
        (
            ("blocks.4.hook_resid_pre",) * 2,
            RESID,
            r"cfg\.json: it was trained at blocks\.4\.hook_resid_pre; the task's site is blocks\.3",
        ),
        # An SAE of the MLP's input rebuilds that input, not the output.
        (
            ("blocks.3.mlp.hook_in",) * 2,
            MLP,
            r"trained at blocks\.3\.mlp\.hook_in; the task's site reads blocks\.3\.mlp\.hook_in for blocks",
        ),
        (
            ("blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"),
            MLP,
            r"trained to read blocks\.3\.hook_resid_mid and rebuild blocks\.3\.hook_mlp_out",
        ),
        (("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"), MLP, "trained to read"),
        (("blocks.3.mlp.hook_in", "blocks.4.hook_mlp_out"), MLP, "trained to read"),
    ],
)
def test_another_place_is_refused(made: tuple[str, str], where: Site, message: str) -> None:
    with pytest.raises(InterpretationError, match=message) as raised:
        reads_at(made, where, "cfg.json")
    assert "score it at the hook that it was made for" in (raised.value.fix or "")


def test_another_width_is_refused() -> None:
    check_width(8, RESID, "cfg.json")
    with pytest.raises(InterpretationError, match=r"cfg\.json: d_out is None; the task's site .* width 8"):
        check_width(None, RESID, "cfg.json", "d_out")


OURS = ModelSpec(name="SmolLM2-135M-Instruct, dequantised from Q4_1", licence="MIT")
GPT2 = ModelSpec(name="GPT-2 small", licence="MIT", hub="openai-community/gpt2")


@pytest.mark.parametrize(
    ("named", "model"),
    [
        (OURS.name, OURS),
        ("HuggingFaceTB/SmolLM2-135M", OURS),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", OURS),
        ("smollm2-135m-instruct", OURS),
        ("gpt2-small", GPT2),
        ("gpt2", GPT2),
        ("openai-community/gpt2", GPT2),
        # What tells nothing: paths, and words that are no model that others know.
        ("/data/models/mine", OURS),
        ("./gpt2-local", OURS),
        ("models/mine", OURS),
        ("checkpoint-3000", OURS),
        ("", OURS),
        (None, OURS),
        (3, OURS),
    ],
)
def test_names_of_the_same_model_and_of_none(named: object, model: ModelSpec) -> None:
    assert check_model(named, model, "cfg.json") == ()


def test_a_folder_and_an_object_may_be_another_model_and_it_is_told() -> None:
    folder = ModelSpec(name="GPT2", licence="MIT", hub="/models/GPT2")
    thing = ModelSpec(name="my-gpt2", licence="MIT", given="object", weights_sha256="0" * 64)
    for named in ("gpt2", "openai-community/gpt2", "gpt2-small", "/models/other"):
        assert check_model(named, folder, "cfg.json") == ()
    for model in (folder, thing):
        (told,) = check_model("google/gemma-2-2b", model, Path("/here/cfg.json"))
        assert told == (
            f"cfg.json: it was made for the model google/gemma-2-2b, and this one is called {model.name}: "
            "that both are the same is taken on trust."
        )


@pytest.mark.parametrize(
    ("named", "model"),
    [
        ("gpt2", OURS),
        ("gpt2-small", OURS),
        ("EleutherAI/pythia-70m-deduped", OURS),
        ("pythia-70m", OURS),
        ("HuggingFaceTB/SmolLM2-360M", OURS),
        ("distilgpt2", GPT2),
        ("google/gemma-2-2b", GPT2),
        ("gpt2-medium", GPT2),
        ("EleutherAI/pythia-70m", ModelSpec(name="pythia-70m-deduped", licence="Apache-2.0")),
    ],
)
def test_another_model_is_refused(named: str, model: ModelSpec) -> None:
    with pytest.raises(
        InterpretationError, match=rf"cfg\.json: it was made for the model {named}; the task's"
    ):
        check_model(named, model, "cfg.json")


def test_a_folder_that_exists_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someone" / "else").mkdir(parents=True)
    with pytest.raises(InterpretationError):
        check_model("someone/else", OURS, "cfg.json")
    monkeypatch.chdir(tmp_path)
    check_model("someone/else", OURS, "cfg.json")
