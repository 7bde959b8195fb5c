"""Errors of TransformerLens' bridge and transformers, turned into ours, which name the model's architecture.

`of_the_bridge` encloses calls into these libraries and nothing else. An exception of our own hooks or of our
own lines during such a call is our error, or the user's, and passes through.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from remainder.base.files import parse_json, read_text
from remainder.base.messages import comes_from_within, message_of
from remainder.errors import AssetError, RemainderError, TaskError

__all__ = [
    "architecture_in",
    "architecture_of",
    "by_token",
    "of_the_bridge",
    "of_the_file",
    "of_the_tokenizer",
    "require_finite",
]

_PACKAGE = "transformer_lens"
_OURS = Path(__file__).parent.parent
_ADVICE = (
    (r"Could not determine supported architecture", "choose a model that TransformerLens' bridge supports"),
    (r"trust_remote_code", "choose a model that transformers itself can load; code of models is never run"),
    (
        r"bitsandbytes|quantiz|GPTQ|AWQ|compressed.tensors",
        "give the model unquantised: load it, dequantise it, and save_pretrained",
    ),
)


def architecture_of(bridge: Any) -> str:
    """The name of a bridged model's architecture, such as `GPTJForCausalLM`."""
    config = getattr(bridge, "cfg", None)
    return str(getattr(config, "architecture", None) or type(bridge).__name__)


def architecture_in(folder: Path) -> str:
    """The architecture of a model in a folder, as its config.json names it.

    Raises:
        AssetError: if there is no such file, or it is not the config of a model.
    """
    path = folder / "config.json"
    config = parse_json(read_text(path, "JSON", error=AssetError), path, nan=True, error=AssetError)
    named = config.get("architectures") if isinstance(config, dict) else None
    if isinstance(named, list) and named:
        return str(named[0])
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise AssetError(
            f"{path} names neither `architectures` nor `model_type`",
            fix="put the config.json of transformers there that belongs to the weights",
        )
    return str(config["model_type"])


@contextmanager
def of_the_bridge(doing: str, architecture: str, fix: str | None = None) -> Iterator[None]:
    """A context that turns any exception of the library into one message with the architecture's name.

    Args:
        doing: the action, as a clause that `failed` can follow.
        architecture: name of the model's architecture.
        fix: an imperative sentence that says what to do; default: chosen by the library's message.

    Raises:
        TaskError: from what the library raised.
    """
    try:
        yield
    except (RemainderError, torch.OutOfMemoryError):
        raise
    except Exception as problem:  # the library may raise anything; its exceptions are not documented
        if _is_ours(problem):
            raise
        raise TaskError(
            f"{architecture}: {doing} failed: {type(problem).__name__}: {message_of(problem)}",
            fix=fix or _advice(problem),
        ) from problem


def of_the_tokenizer(folder: Path) -> AbstractContextManager[None]:
    """A context that turns any exception of loading a tokenizer into one message with its folder.

    Raises:
        AssetError: from what the library raised.
    """
    fix = (
        "put the model's own tokenizer there: AutoTokenizer.from_pretrained(MODEL)"
        f".save_pretrained({str(folder)!r})"
    )
    # Raised by transformers, tokenizers, sentencepiece or the JSON reader.
    return _as_asset_error(f"the tokenizer in {folder} cannot be loaded", fix, RemainderError)


def of_the_file(path: Path) -> AbstractContextManager[None]:
    """A context that turns any exception of converting a GGUF file into one message with its name.

    Raises:
        AssetError: from what the library raised.
    """
    fix = (
        "install transformers and gguf as in constraints.txt, then `remainder fetch --force`; or give the "
        "model as a folder of transformers"
    )
    # Errors of the operating system are reported by the caller.
    return _as_asset_error(f"{path.name} cannot be converted by transformers", fix, RemainderError, OSError)


@contextmanager
def _as_asset_error(what: str, fix: str, *passed: type[Exception]) -> Iterator[None]:
    """A context that turns any exception but the `passed` ones into an AssetError."""
    try:
        yield
    except passed:
        raise
    except Exception as problem:  # the libraries raise anything on such files
        raise AssetError(f"{what}: {type(problem).__name__}: {message_of(problem)}", fix=fix) from problem


def require_finite(logits: Shaped[Tensor, "*shape"], model: Any, name: str) -> None:
    """Raise TaskError if a model's own logits are NaN or infinite, naming a weight that is."""
    if torch.isfinite(logits).all():
        return
    weights = (key for key, weight in model.named_parameters() if not torch.isfinite(weight).all())
    found = next(weights, None)
    raise TaskError(
        f"the model {name} itself gives NaN or infinite logits"
        + ("" if found is None else f": its weight {found} holds such values"),
        fix="check how it was trained or saved; load it in float32 if it was in half precision",
    )


def _advice(problem: Exception) -> str:
    """A remedy for a model that cannot be loaded, chosen by the library's message."""
    for pattern, advice in _ADVICE:
        if re.search(pattern, str(problem), re.IGNORECASE):
            return advice
    return "check the model's files, or choose one that TransformerLens' bridge supports"


def _is_ours(problem: Exception) -> bool:
    """Whether our own lines raised the exception, rather than a library that they called."""
    frames = traceback.extract_tb(problem.__traceback__)
    last_is_ours = bool(frames) and Path(frames[-1].filename).is_relative_to(_OURS)
    return last_is_ours or comes_from_within(problem, _PACKAGE)


def by_token(
    name: str, value: Shaped[Tensor, "*shape"], tokens: Shaped[Tensor, "docs pos *item"], architecture: str
) -> Shaped[Tensor, "docs pos d"]:
    """A hook's value as [docs, positions, width]; some models (OPT) run their MLP on tokens in one long row.

    Raises:
        TaskError: if it has another shape.
    """
    docs, positions = tokens.shape[:2]
    if value.ndim >= 3 and tuple(value.shape[:2]) == (docs, positions):
        return value.flatten(2)
    if value.ndim == 2 and len(value) == docs * positions:
        return value.reshape(docs, positions, -1)
    raise TaskError(
        f"{architecture}: hook {name} gives shape {tuple(value.shape)} for {docs} × {positions} tokens; "
        "expected [docs, positions, width]",
        fix="choose a hook that has a value for every token",
    )
