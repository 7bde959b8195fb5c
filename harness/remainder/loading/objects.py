"""A model that somebody holds in memory, as one to measure on.

Kinds of object are known by the names of their classes, so that no library is imported that was not used:

1. `PreTrainedModel` of transformers is copied (`remainder.model.copied`) and put behind TransformerLens'
   bridge; what the bridge computes is compared with the model itself.
2. `TransformerBridge` and `HookedTransformer` are copied, and run on their own hooks as they are: one whose
   norms are folded in or whose weights are centred has other activations than the model of transformers, and
   is measured with those.
3. What holds a model of these kinds in `_module` or `_model` (nnsight's `LanguageModel`, nnterp's
   `StandardizedTransformer`) stands for that model. Edits made by `model.edit()` are not part of it. Tried
   with nnsight 0.7.0 and 0.8.1, and with nnterp 1.3.0 on the former; neither is a dependency, and tests have
   a stand-in.

The hash is that of the folder which `save_pretrained` would write, where that is exact: for a model of
transformers, and for a bridge whose weights were not processed. Otherwise it is over the object's own
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remainder.base.files import brief
from remainder.errors import MeasurementError, TaskError
from remainder.loading.adapt import UNKNOWN, GivenModel
from remainder.loading.fetch import is_empty, quiet
from remainder.model.bridge import DTYPES, hooked_pass, tensors_hash
from remainder.model.bridge_errors import of_the_bridge, require_finite
from remainder.model.copied import copy_of, parts_of
from remainder.model.device import require_room
from remainder.record.schema import Pinned
from remainder.task.spec import ModelSpec

__all__ = ["ModelObject", "model_object"]

_TOKENS = 8
_INSIDE = "._original_component"


class Kind(NamedTuple):
    """Kinds of object that are models; `_KINDS` has all."""

    cls: str
    """Name of the class, or of one that it inherits from."""
    inner: Callable[[Any], Any]
    """The model of transformers inside, or what stands for it."""
    tensors: Callable[[Any], Mapping[str, Tensor]]
    """The weights that tell which model it is, by name."""
    behind_hooks: Callable[[Any, str], Any]
    """The copy of the object behind TransformerLens' hooks."""


@dataclass
class ModelObject(GivenModel):
    """A model in memory, which lies nowhere."""

    module: Any = field(repr=False)
    kind: Kind = field(repr=False)
    with_tokenizer: Any = field(default=None, repr=False)

    @property
    def pinned(self) -> Pinned:
        """The name of the model, and the hash of its weights when it was given."""
        assert self.spec.weights_sha256 is not None
        return Pinned(source=self.spec.source, sha256=self.spec.weights_sha256)

    @property
    def config(self) -> Any:
        """The config of transformers, or that of a HookedTransformer."""
        inner = self.kind.inner(self.module)
        config = inner.config if hasattr(inner, "config") else inner.cfg
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was given, or lies where the model came from."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers.

        Raises:
            TaskError: none was given, and none lies where the model came from.
        """
        if self._tokenizer is None:
            raise TaskError(
                f"the model {self.spec.name} came without a tokenizer, and none lies where it came from",
                fix="give it: tokenizer=AutoTokenizer.from_pretrained(…), or give token ids as the text",
            )
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        if self.with_tokenizer is not None:
            return self.with_tokenizer
        # TransformerLens changes the special tokens of a tokenizer that it is given, so the file goes first.
        own = getattr(self.module, "tokenizer", None)
        origin = getattr(own, "name_or_path", None) or _origin(self.kind.inner(self.module))
        stored = _stored_tokenizer(origin) if origin else None
        return own if stored is None or (own is not None and len(own) != len(stored)) else stored

    def _open(self, dtype: str, device: torch.device) -> Any:
        size = sum(weight.numel() for part in parts_of(self.module) for weight in part._parameters.values()
                   if weight is not None)  # fmt: skip
        kept = next(self.module.parameters())
        if (kept.dtype, kept.device) != (DTYPES[dtype], device):
            require_room(size * DTYPES[dtype].itemsize, f"the weights of {self.spec.name} in {dtype}", device)
        copied = copy_of(self.module, self.spec.name, DTYPES[dtype], device)
        with quiet():
            return self.kind.behind_hooks(copied, self.spec.name)


def model_object(model: object, tokenizer: object | None) -> ModelObject:
    """The model that an object is or holds.

    Raises:
        TaskError: it is none of the kinds that are known, has no unembedding, or its weights are not loaded.
    """
    held = model
    if not isinstance(model, nn.Module):
        held = next((vars(model)[name] for name in ("_module", "_model") if name in _fields(model)), model)
        tokenizer = tokenizer or _fields(model).get("tokenizer")
    names = [cls.__name__ for cls in type(held).__mro__]
    kind = next((kind for kind in _KINDS if kind.cls in names), None)
    if kind is None or not isinstance(held, nn.Module):
        merge = "merge the adapter: model.merge_and_unload(); else " if "PeftModel" in names else ""
        raise TaskError(
            f"{type(held).__module__}.{type(held).__name__} is no model that is known here",
            fix=f"{merge}give a model of transformers, a TransformerBridge, a HookedTransformer, a model of "
            "nnsight, a folder or an id of the hub",
        )
    if tokenizer is not None and not hasattr(tokenizer, "all_special_ids"):
        raise TaskError(
            f"the tokenizer is {brief(tokenizer)}",
            fix="give a tokenizer of transformers: AutoTokenizer.from_pretrained(…)",
        )
    inner, name = kind.inner(held), _name(kind.inner(held))
    if hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is None:
        raise TaskError(
            f"the model {name} ({type(inner).__name__}) has no unembedding, so it has no loss",
            fix="load it with AutoModelForCausalLM",
        )
    copy_of(held, name, next(held.parameters()).dtype, next(held.parameters()).device)  # refused now or never
    found = tensors_hash(sorted(kind.tensors(held).items()))
    spec = ModelSpec(name=name, licence=UNKNOWN, given="object", weights_sha256=found)
    return ModelObject(spec, held, kind, tokenizer)


def _fields(model: object) -> dict[str, Any]:
    return getattr(model, "__dict__", {})


def _origin(inner: Any) -> str | None:
    """The id or folder that a model says it was loaded from."""
    config = inner.config if hasattr(inner, "config") else inner.cfg
    found = getattr(inner, "name_or_path", None) or getattr(config, "model_name", None)
    return found if isinstance(found, str) and found.strip("./") else None


def _name(inner: Any) -> str:
    """The name that a model has from where it was loaded, without the folders on the way there."""
    origin = _origin(inner)
    if origin is None:
        return type(inner).__name__
    is_id = origin.count("/") <= 1 and not origin.startswith((".", "/", "~")) and not Path(origin).exists()
    return origin if is_id else Path(origin).name


def _stored_tokenizer(origin: str) -> Any | None:
    """The tokenizer in a folder, or of a model that the hub's cache has; None, if there is none."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # what transformers raises where it finds none
        return None
    return None if is_empty(found) else found


def _without_ties(tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The tensors that are saved: a weight that is another one's own memory is saved once."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    kept = dict(tensors)
    for name, source in ties.items():
        if name in kept and source in kept and kept[name].data_ptr() == kept[source].data_ptr():
            del kept[name]
    return kept


def _of_transformers(model: Any) -> Mapping[str, Tensor]:
    return _without_ties(model.state_dict(), model)


def _of_bridge(bridge: Any) -> Mapping[str, Tensor]:
    """The tensors of the model behind a bridge by their own names, or by the bridge's if it changed them."""
    inner = bridge.original_model
    if not (bridge._weights_processed or bridge.compatibility_mode) and hasattr(inner, "config"):
        with quiet(), torch.device("meta"):
            expected = type(inner)(inner.config)
        names = {name.replace(_INSIDE, ""): tensor for name, tensor in inner.state_dict().items()}
        shapes = {name: tensor.shape for name, tensor in expected.state_dict().items()}
        if all(name in names and names[name].shape == shape for name, shape in shapes.items()):
            return _without_ties({name: names[name] for name in shapes}, expected)
    found: Mapping[str, Tensor] = bridge.state_dict()
    return found


def _bridged(model: Any, name: str) -> Any:
    """A copy of a model of transformers behind the bridge, if that computes what the model computes.

    Raises:
        TaskError: TransformerLens' bridge does not know its architecture.
        MeasurementError: it computes something else.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    architecture, device = type(model).__name__, next(model.parameters()).device
    tokens = torch.arange(_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
    with of_the_bridge(f"a pass of the model {name}", architecture), torch.inference_mode():
        expected = model(tokens, use_cache=False).logits
    require_finite(expected, model, name)
    with of_the_bridge(f"putting the model {name} behind TransformerLens' bridge", architecture):
        known = determine_architecture_from_hf_config(model.config)  # type: ignore[no-untyped-call]
        # Without a tokenizer: given one, TransformerLens may ask the hub for another.
        bridge = build_bridge_from_module(model, known, hf_config=model.config, model_name=name)
    with torch.inference_mode(), of_the_bridge(f"a pass of the model {name}", architecture):
        found = hooked_pass(bridge, {}, tokens, [])
    # In bfloat16 another order of sums is another result; in float32 every model is opened first.
    if found.dtype == torch.float32 and not _close(found, expected):
        raise MeasurementError(
            f"{architecture}: behind TransformerLens' bridge the model {name} gives other logits than by "
            "itself",
            fix="check whether modules of it were replaced; a model as transformers loads it gives the same",
        )
    return bridge


def _close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def _as_it_is(model: Any, name: str) -> Any:
    return model


def _itself(model: Any) -> Any:
    return model


_KINDS = (
    Kind("TransformerBridge", lambda bridge: bridge.original_model, _of_bridge, _as_it_is),
    Kind("HookedTransformer", _itself, lambda model: model.state_dict(), _as_it_is),
    Kind("PreTrainedModel", _itself, _of_transformers, _bridged),
)
