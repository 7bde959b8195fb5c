"""What TransformerLens' bridge and transformers raise is a message with the architecture's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, WIDTH

from remainder.base.messages import message_of
from remainder.errors import AssetError, MeasurementError, TaskError
from remainder.loading.fetch import load_bridge, quiet
from remainder.model.architecture import Stage
from remainder.model.bridge import BridgeRunner
from remainder.model.bridge_errors import architecture_of, by_token, of_the_bridge, of_the_file
from remainder.model.graph import BridgeCircuitModel
from remainder.model.sites import BridgeSiteModel
from remainder.task.spec import ModelSpec, Site

SPEC = ModelSpec(name="tiny", licence="MIT")
TOKENS = tiny.tokens(2)[:, :7]
ENDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
GPT = {**ENDS, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}
LLAMA = {
    **ENDS,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
OPT = {**LLAMA, "ffn_dim": 32, "word_embed_proj_dim": WIDTH}
XGLM = {**ENDS, "d_model": WIDTH, "ffn_dim": 32, "num_layers": 3, "attention_heads": 4, "pad_token_id": 2}
SPLITTING = "splitting the inputs of its heads failed: NotImplementedError: use_split_qkv_input"
NOT_A_SUM = "what heads and MLPs write does not add up to what later ones read"
FIRED = "hook blocks.0.hook_mlp_in fired 0 times in one pass"

CONFIGS: dict[str, Callable[[], Any]] = {
    "GPTJForCausalLM": lambda: transformers.GPTJConfig(**GPT, rotary_dim=4),
    "OPTForCausalLM": lambda: transformers.OPTConfig(**OPT),
    "GPTNeoForCausalLM": lambda: transformers.GPTNeoConfig(
        **ENDS, hidden_size=WIDTH, num_layers=3, num_heads=4, attention_types=[[["global"], 3]]
    ),
    "XGLMForCausalLM": lambda: transformers.XGLMConfig(**XGLM),
    "BertLMHeadModel": lambda: transformers.BertConfig(**LLAMA, is_decoder=True),
    "BloomForCausalLM": lambda: transformers.BloomConfig(**ENDS, hidden_size=WIDTH, n_layer=3, n_head=4),
    "FalconForCausalLM": lambda: transformers.FalconConfig(
        **ENDS, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4
    ),
    "PhiForCausalLM": lambda: transformers.PhiConfig(**LLAMA),
    "CohereForCausalLM": lambda: transformers.CohereConfig(**LLAMA),
    "MptForCausalLM": lambda: transformers.MptConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_heads=4, n_layers=3, max_seq_len=64
    ),
    "CodeGenForCausalLM": lambda: transformers.CodeGenConfig(**GPT, rotary_dim=4),
    "Gemma2ForCausalLM": lambda: transformers.Gemma2Config(**GROUPED, head_dim=4, sliding_window=8),
    "Olmo2ForCausalLM": lambda: transformers.Olmo2Config(**GROUPED),
    "MambaForCausalLM": lambda: transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=3, state_size=4
    ),
    "OpenAIGPTLMHeadModel": lambda: transformers.OpenAIGPTConfig(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64
    ),
    "GraniteForCausalLM": lambda: transformers.GraniteConfig(**GROUPED),
    "Phi3ForCausalLM": lambda: transformers.Phi3Config(**GROUPED),
    "GPTBigCodeForCausalLM": lambda: transformers.GPTBigCodeConfig(**GPT),
    "HeliumForCausalLM": lambda: transformers.HeliumConfig(**LLAMA),
}
REFUSED = {
    **dict.fromkeys(
        ("GPTJForCausalLM", "OPTForCausalLM", "GPTNeoForCausalLM", "XGLMForCausalLM", "BertLMHeadModel"),
        SPLITTING,
    ),
    **dict.fromkeys(("BloomForCausalLM", "FalconForCausalLM", "PhiForCausalLM", "CohereForCausalLM"), FIRED),
    **dict.fromkeys(("Gemma2ForCausalLM", "Olmo2ForCausalLM"), NOT_A_SUM),
    "MptForCausalLM": "hook blocks.0.attn.hook_q_input fired 0 times in one pass",
    "CodeGenForCausalLM": "hook blocks.0.attn.hook_q_input fired 0 times in one pass",
    "MambaForCausalLM": "the model has no hook blocks.0.attn.hook_q_input, which circuits need",
    "OpenAIGPTLMHeadModel": "hook blocks.2.hook_out fired 0 times in one pass",
}
TAKEN = ("GraniteForCausalLM", "Phi3ForCausalLM", "GPTBigCodeForCausalLM")


@pytest.fixture(scope="module")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A bridged tiny model of an architecture, made once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            torch.manual_seed(0)
            with quiet():
                model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
            assert type(model).__name__ == name
            for weight in model.parameters():
                if weight.ndim > 1:
                    torch.nn.init.normal_(weight, std=0.3)
            folder = tiny.save_model(model.eval(), tmp_path_factory.mktemp(name))
            made[name] = load_bridge(SPEC, folder=folder)
        return made[name]

    return get


# ------------------------------------------------------------------------------------- circuits


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_without_a_graph_is_named(bridges: Callable[[str], Any], name: str) -> None:
    with pytest.raises(TaskError) as raised:
        BridgeCircuitModel(bridges(name), TOKENS)
    assert raised.value.what.startswith(f"{name}: ")
    assert REFUSED[name] in raised.value.what
    assert raised.value.fix is not None
    # The model itself is sound, and its switches are as they were.
    bridge = bridges(name)
    assert not bridge.cfg.use_split_qkv_input
    assert torch.isfinite(bridge(TOKENS, return_type="logits")).all()


@pytest.mark.parametrize("name", TAKEN)
def test_other_architectures_have_one(bridges: Callable[[str], Any], name: str) -> None:
    assert BridgeCircuitModel(bridges(name), TOKENS).graph.architecture.layers == 3


class Raising:
    """A tap that fails on its own."""

    def read(self, stage: Stage, stream: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a mistake of the tap")

    def write(self, stage: Stage, values: torch.Tensor) -> None:
        return None


def test_our_own_mistakes_are_not_told_as_the_librarys(bridges: Callable[[str], Any]) -> None:
    model = BridgeCircuitModel(bridges("Phi3ForCausalLM"), TOKENS)
    with pytest.raises(ZeroDivisionError, match="a mistake of the tap"):
        model.run(TOKENS, Raising())

    def edit(value: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a mistake of the edit")

    with pytest.raises(ZeroDivisionError, match="a mistake of the edit"):
        BridgeSiteModel(bridges("Phi3ForCausalLM")).run(TOKENS, [("blocks.1.hook_mlp_out", edit)])


def test_what_the_library_raises_keeps_its_cause(bridges: Callable[[str], Any]) -> None:
    model = BridgeCircuitModel(bridges("Phi3ForCausalLM"), TOKENS)
    with pytest.raises(TaskError, match=r"^Phi3ForCausalLM: a pass failed: IndexError: ") as raised:
        model.run(torch.full((1, 5), VOCABULARY + 1))
    assert isinstance(raised.value.__cause__, IndexError)
    with pytest.raises(NotImplementedError) as cause:
        bridges("GPTJForCausalLM").set_use_split_qkv_input(True)
    with pytest.raises(TaskError) as told:
        BridgeCircuitModel(bridges("GPTJForCausalLM"), TOKENS)
    assert str(told.value.__cause__) == str(cause.value)


def test_a_bridge_of_no_attention_heads_is_named() -> None:
    class Config:
        architecture = "NobodyForCausalLM"
        n_layers, n_heads, d_model = 2, -1, 16

    class Bridge:
        cfg = Config()

    with pytest.raises(TaskError, match=r"^NobodyForCausalLM: the config .* has n_heads = -1; circuits need"):
        BridgeCircuitModel(Bridge(), TOKENS)
    assert architecture_of(object()) == "object"


def test_running_out_of_memory_is_left_to_who_can_help_it() -> None:
    with pytest.raises(torch.OutOfMemoryError), of_the_bridge("a pass", "GPT2LMHeadModel"):
        raise torch.OutOfMemoryError("CUDA out of memory")


# ------------------------------------------------------------------------------------- sites


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale:UserWarning")
def test_a_hook_of_tokens_in_one_row_is_read_and_spliced(bridges: Callable[[str], Any]) -> None:
    """OPT runs its MLP on [docs · positions, width]: an IndexError at this hook."""
    bridge, name = bridges("OPTForCausalLM"), "blocks.1.ln2.hook_normalized"
    _, cache = bridge.run_with_cache(TOKENS)
    assert cache[name].ndim == 2
    site = Site(hook_in=name, hook_out=name, width=WIDTH)
    runner = BridgeRunner(bridge, site, TOKENS[:1])
    with torch.inference_mode():
        prefix = runner.prefix(TOKENS)
        torch.testing.assert_close(prefix.x_out.flatten(0, 1), cache[name])
        new = torch.randn(prefix.x_out.shape, generator=torch.Generator().manual_seed(1))
        found = torch.stack([runner.logits(rows) for rows in runner.suffix(TOKENS, prefix, new)])
        expected = bridge.run_with_hooks(
            TOKENS, fwd_hooks=[(name, lambda value, hook: new.flatten(0, 1))], return_type="logits"
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        model = BridgeSiteModel(bridge)
        torch.testing.assert_close(
            model.run(TOKENS, [(name, lambda value: new)]), expected, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(model.activation(TOKENS, [], name), prefix.x_out)


def test_a_hook_without_a_value_for_each_token_is_refused() -> None:
    for shape in ((3, 2), (7, 2, 4), (2, 8, 4), (14,)):
        with pytest.raises(TaskError, match=r"X: hook h gives shape .* for 2 × 7 tokens; expected \[docs"):
            by_token("h", torch.ones(shape), TOKENS, "X")
    assert by_token("h", torch.ones(2, 7, 3, 4), TOKENS, "X").shape == (2, 7, 12)


@pytest.mark.parametrize(
    "name", ["OpenAIGPTLMHeadModel", "GPTJForCausalLM", "BloomForCausalLM", "FalconForCausalLM"]
)
def test_sites_of_models_whose_blocks_give_lists_or_tuples(bridges: Callable[[str], Any], name: str) -> None:
    for hook in ("blocks.1.hook_mlp_out", "blocks.2.attn.hook_z"):
        runner = BridgeRunner(bridges(name), Site(hook_in=hook, hook_out=hook, width=WIDTH), TOKENS[:1])
        with torch.inference_mode():
            prefix = runner.prefix(TOKENS)
            found = torch.stack([runner.logits(rows) for rows in runner.suffix(TOKENS, prefix, prefix.x_out)])
            torch.testing.assert_close(found, runner.full_logits(TOKENS), rtol=1e-5, atol=1e-5)
        assert runner.mode.startswith("blocks after the site only")


def test_a_hook_that_is_switched_off_is_named(bridges: Callable[[str], Any]) -> None:
    with pytest.raises(TaskError, match=r"^BloomForCausalLM: hook blocks.1.hook_mlp_in is switched off: "):
        BridgeSiteModel(bridges("BloomForCausalLM")).run(
            TOKENS, [("blocks.1.hook_mlp_in", lambda value: value)]
        )


def test_tokens_that_the_model_does_not_have_are_told(bridges: Callable[[str], Any]) -> None:
    hook = "blocks.1.hook_resid_pre"
    runner = BridgeRunner(
        bridges("GPTJForCausalLM"), Site(hook_in=hook, hook_out=hook, width=WIDTH), TOKENS[:1]
    )
    with pytest.raises(
        TaskError, match=r"GPTJForCausalLM: a pass with a hook at .*hook_resid_pre failed: IndexE"
    ):
        runner.prefix(torch.full((1, 5), VOCABULARY))
    hook, opt = "blocks.1.mlp.hook_out", bridges("OPTForCausalLM")
    with pytest.raises(MeasurementError, match="exists but did not fire"):
        BridgeRunner(opt, Site(hook_in=hook, hook_out=hook, width=WIDTH), TOKENS[:1])


# ------------------------------------------------------------------------------------- loading


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changed: Any) -> None:
    content = {**json.loads((folder / "config.json").read_text()), **changed}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


UP = "model.layers.2.mlp.up_proj.weight"
NOBODY = {"model_type": "nobody", "architectures": ["NobodyForCausalLM"]}
BROKEN: dict[str, tuple[Callable[[Path], Any], type[Exception], str, str]] = {
    "no such weight": (
        lambda f: change_weights(f, lambda w: w.pop(UP)),
        TaskError,
        rf"^LlamaForCausalLM: the folder of the model tiny lacks {UP}, by its config.json",
        "from one place",
    ),
    "a weight of another shape": (
        lambda f: change_weights(f, lambda w: w.update({UP: torch.ones(3, 3)})),
        TaskError,
        rf"^LlamaForCausalLM: the folder of the model tiny has another shape of {UP} \(3, 3\)",
        "from one place",
    ),
    "more layers than weights": (
        lambda f: change_config(f, num_hidden_layers=6),
        TaskError,
        "lacks model.layers.4.input_layernorm.weight, .* and 15 more, by its config",
        "from one place",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        AssetError,
        "holds no weights in safetensors files",
        "as safetensors",
    ),
    "half of the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        AssetError,
        "model.safetensors is no whole safetensors file",
        "again",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), AssetError, "config.json does not exist", "path"),
    "half a config": (
        lambda f: (f / "config.json").write_text('{"model_type": '),
        AssetError,
        "config.json is not valid JSON",
        "correct it",
    ),
    "a config of something else": (
        lambda f: (f / "config.json").write_text("{}"),
        AssetError,
        "config.json names neither `architectures` nor `model_type`",
        "config.json of transformers",
    ),
    "an unknown type": (
        lambda f: change_config(f, **NOBODY),
        TaskError,
        r"^NobodyForCausalLM: loading the model tiny by transformers failed: ValueError: .*type `nobody`",
        "choose",
    ),
    "code of its own": (
        lambda f: change_config(f, **NOBODY, auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}),
        TaskError,
        r"^NobodyForCausalLM: loading the model tiny by transformers failed: .*trust_remote_code",
        "code of models is never run",
    ),
    "quantised": (
        lambda f: change_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        TaskError,
        "^LlamaForCausalLM: loading the model tiny by transformers failed: ImportError: Loading a GPTQ",
        "unquantised",
    ),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")],
        AssetError,
        "^the tokenizer in .* cannot be loaded: ",
        "AutoTokenizer.from_pretrained(MODEL).save_pretrained(",
    ),
    "half a tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"version": '),
        AssetError,
        "^the tokenizer in .* cannot be loaded: JSONDecodeError",
        "save_pretrained",
    ),
    "another tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        AssetError,
        "^the tokenizer in .* cannot be loaded: KeyError: there is no 'added_tokens'",
        "save_pretrained",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_cannot_be_loaded_is_told_by_what_is_wrong(tmp_path: Path, name: str) -> None:
    spoil, error, message, fix = BROKEN[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny.model_folder("llama"), folder)
    load_bridge(SPEC, folder=folder)
    spoil(folder)
    with pytest.raises(error, match=message) as raised:
        load_bridge(SPEC, folder=folder)
    assert fix in raised.value.fix


def test_an_architecture_that_the_bridge_does_not_know_is_named(bridges: Callable[[str], Any]) -> None:
    with pytest.raises(
        TaskError, match=r"^HeliumForCausalLM: loading the model tiny into TransformerL"
    ) as raised:
        bridges("HeliumForCausalLM")
    assert "Model type: helium" in raised.value.what  # the end of a long message is kept
    assert raised.value.fix == "choose a model that TransformerLens' bridge supports"


def test_a_gguf_file_that_transformers_cannot_read_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(
            AssetError, match=r"^some\.gguf cannot be converted by transformers: ValueError: GGUF model"
        ),
        of_the_file(tmp_path / "some.gguf"),
    ):
        raise ValueError("GGUF model with architecture nobody is not supported yet.")


# ------------------------------------------------------------------------------------- messages


def test_a_message_is_told_whole_and_on_one_line() -> None:
    problem = RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for W_dec:\n\tshape [3].")
    assert message_of(problem) == "Error(s) in loading state_dict for X: size mismatch for W_dec: shape [3]."
    assert message_of(KeyError("k")) == "there is no 'k'"
    assert message_of(ValueError()) == "ValueError"
    long = message_of(ValueError(" ".join(f"word{number}" for number in range(500))))
    assert long.startswith("word0 word1 ")
    assert long.endswith("word499")
    assert len(long) < 410
