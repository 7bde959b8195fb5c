"""Anyone's model, however it is given, as a model to measure on.

`given_model` takes a folder, an id of the Hugging Face hub, or a model in memory, and gives a `GivenModel`:
what a task says of the model, its tokenizer, and the model itself behind hooks, in the precision and on the
device that measuring asks for.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from remainder.base.cache import Progress
from remainder.base.resolve import resolve
from remainder.errors import AssetError, TaskError
from remainder.loading.fetch import load_bridge, load_tokenizer, local_model, pinned_model
from remainder.model.bridge import weights_hash
from remainder.model.bridge_errors import architecture_in, of_the_bridge
from remainder.record.schema import Pinned
from remainder.task.spec import ModelSpec

__all__ = ["GivenModel", "StoredModel", "given_model", "require_stored"]

UNKNOWN = "unknown"
"""The licence of a model that states none."""

_SAYS_NOTHING = re.compile(
    r"_.*|transformers_version|(torch_)?dtype|architectures|use_cache|return_dict|output_\w+|\w+_token_id"
    r"|\w*(dropout|_pdrop)|init\w*|summary_\w+|id2label|label2id|problem_type|task_specific_params"
    r"|pretraining_tp|quantization_config|device|n_devices|model_name|tokenizer\w*|default_\w+|seed"
    r"|use_(attn_result|split_qkv_input|hook_mlp_in|attn_in|hook_tokens)|from_checkpoint|checkpoint\w*"
)
"""Words of a config that change nothing of what a model computes when it is measured."""

_CONTEXTS = ("max_position_embeddings", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")


@dataclass
class GivenModel(ABC):
    """A language model that tasks are measured on; what was opened once is kept."""

    spec: ModelSpec
    _opened: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False)

    @property
    @abstractmethod
    def pinned(self) -> Pinned:
        """The source of the model, and the hash of its weights."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """The config of transformers, that of the text where a model reads other things as well."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer of transformers.

        Raises:
            RemainderError: there is none.
        """

    @property
    def has_tokenizer(self) -> bool:
        """Whether it has a tokenizer, without which it reads token ids alone."""
        return True

    @property
    def own_tokenizer(self) -> Any | None:
        """The tokenizer, if it has one."""
        return self.tokenizer if self.has_tokenizer else None

    @property
    def folder(self) -> Path | None:
        """The folder in which it lies; None, if it lies nowhere."""
        return None

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids; None, if its config does not tell."""
        found = (getattr(self.config, name, None) for name in ("vocab_size", "d_vocab"))
        return next((value for value in found if isinstance(value, int)), None)

    @property
    def context(self) -> int | None:
        """Tokens of the longest window, by its config; None, if that names no limit."""
        found = (getattr(self.config, name, None) for name in _CONTEXTS)
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    @property
    def config_hash(self) -> str:
        """SHA-256 over what the config says of the forward pass, where it departs from its class's defaults.

        The same weights with another base of the rotary embedding, say, are another model.
        """
        config = self.config
        stated, defaults = dict(config.to_dict()), {}
        if hasattr(config, "has_no_defaults_at_init") and not config.has_no_defaults_at_init:
            defaults = type(config)().to_dict()  # so that what a later version adds moves no hash
        kept = {
            name: value
            for name, value in stated.items()
            if not _SAYS_NOTHING.fullmatch(name) and (name not in defaults or defaults[name] != value)
        }
        kept["model_type"] = getattr(config, "model_type", type(config).__name__)
        text = json.dumps(kept, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def bridge(self, dtype: str = "float32", device: torch.device | str = "cpu") -> Any:
        """The model behind the hooks of TransformerLens, in evaluation mode, with weights in `dtype`.

        Raises:
            TaskError: TransformerLens does not know its architecture.
            AssetError: the device has too little memory for it.
        """
        key = dtype, str(device)
        if key not in self._opened:
            # Tensors made in inference mode could not take part in a graph, and loss gradients need one.
            with torch.inference_mode(False):
                self._opened[key] = self._open(dtype, torch.device(device))
        return self._opened[key]

    @abstractmethod
    def _open(self, dtype: str, device: torch.device) -> Any: ...


@dataclass
class StoredModel(GivenModel):
    """A model whose files lie in a folder of this machine."""

    place: Path

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.place

    @cached_property
    def pinned(self) -> Pinned:
        """The source of the model, and the hash of its weights; checked, if the task pins one.

        Raises:
            AssetError: weights or config are others than those that the task pins.
        """
        found = pinned_model(self.spec, self.place)
        if self.spec.config_sha256 not in (None, self.config_hash):
            raise AssetError(
                f"{self.place / 'config.json'} is not the one that the task was made with: it computes "
                "something else with the same weights",
                fix="put that one back, or make the task again with this model",
            )
        return found

    @cached_property
    def config(self) -> Any:
        """The config of transformers."""
        from transformers import AutoConfig

        with of_the_bridge(f"reading the config of the model {self.spec.name}", architecture_in(self.place)):
            return AutoConfig.from_pretrained(self.place, trust_remote_code=False).get_text_config()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers.

        Raises:
            AssetError: there is none, or it cannot be loaded.
        """
        return load_tokenizer(self.place)

    def _open(self, dtype: str, device: torch.device) -> Any:
        return load_bridge(self.spec, dtype=dtype, device=device, folder=self.place)


def given_model(
    model: str | Path | object, *, tokenizer: object | None = None, progress: Progress | None = None
) -> GivenModel:
    """The model that somebody names or holds, made ready to be loaded.

    Args:
        model: a folder in the format of transformers with weights in safetensors, or an id of the Hugging
            Face hub: `OWNER/NAME`, or `OWNER/NAME@REVISION`, with `hub:` before it or not. A folder goes
            before an id of the same name. Or a model in memory; see `remainder.loading.objects`.
        tokenizer: of a model in memory; default: its own, or that which lies where it was loaded from.

    Raises:
        AssetError: there is no such folder or id, it holds no model, or the hub does not give it.
        TaskError: the object is no model that is known, or is in a state that cannot be measured.
    """
    if not isinstance(model, (str, Path)):
        return _with_config(resolve("remainder.loading.objects:model_object")(model, tokenizer))
    if tokenizer is not None:
        raise TaskError(
            f"a tokenizer was given along with {model}, which has its own",
            fix="leave it out, or give the model as an object",
        )
    name = str(model)
    if isinstance(model, Path) or (not name.startswith("hub:") and Path(name).expanduser().is_dir()):
        return _with_config(_in_folder(Path(name).expanduser()))
    return _with_config(_on_hub(name, progress))


def _with_config(given: GivenModel) -> GivenModel:
    given.spec = given.spec.model_copy(update={"config_sha256": given.config_hash})
    return given


def _in_folder(folder: Path) -> StoredModel:
    if not (folder / "config.json").is_file():
        lacks = "holds no config.json of transformers" if folder.is_dir() else "is no folder"
        raise AssetError(
            f"{folder} {lacks}",
            fix="name a folder that save_pretrained wrote, or an id of the hub such as OWNER/NAME",
        )
    spec = ModelSpec(
        name=folder.absolute().name,
        licence=_licence(folder),
        hub=str(folder.absolute()),
        weights_sha256=weights_hash(folder),
    )
    return StoredModel(spec, folder.absolute())


def _on_hub(name: str, progress: Progress | None) -> StoredModel:
    repo, _, revision = name.removeprefix("hub:").partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or repo.startswith("."):
        raise AssetError(
            f"{name!r} is neither a folder here nor the id of a model on the hub",
            fix="name a folder that save_pretrained wrote, or an id such as OWNER/NAME@REVISION",
        )
    wanted = ModelSpec(name=repo, licence=UNKNOWN, hub=repo, revision=revision or None)
    try:
        folder = local_model(wanted, progress=progress)
    except AssetError as problem:
        raise AssetError(f"{problem.what} (and there is no folder {repo} here)", fix=problem.fix) from problem
    found = {
        "revision": folder.name,  # the folder of a snapshot is named by its commit
        "licence": _licence(folder),
        "weights_sha256": weights_hash(folder),
    }
    return StoredModel(wanted.model_copy(update=found), folder)


def _licence(folder: Path) -> str:
    """The licence that the model card in a folder states."""
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    if not card.is_file():
        return UNKNOWN
    try:
        stated = ModelCard.load(card).data.get("license")
    except ValueError:  # its head is no YAML
        return UNKNOWN
    return stated if isinstance(stated, str) else UNKNOWN


def require_stored(spec: ModelSpec) -> None:
    """Raise TaskError for a model that was an object: no task can open it by itself."""
    if spec.given is not None:
        raise TaskError(
            f"the model {spec.name} of this task was an object in memory, which lies nowhere",
            fix="give the object again, or save it (save_pretrained) and score with that folder as the model",
        )
