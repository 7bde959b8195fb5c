"""Gemma Scope: a folder with `params.npz`, the JumpReLU SAE of one place at one width and sparsity.

1. Arrays: W_enc [d_in d_sae], W_dec [d_sae d_in], b_enc [d_sae], threshold [d_sae], b_dec [d_in].
2. h = x W_enc + b_enc; codes = ReLU(h) where h is above its threshold; x̂ = codes W_dec + b_dec.
3. The place is in no file, but in the path: a repository `gemma-scope-MODEL-pt-res`, `-mlp` or `-att`, and in
   it `layer_N/width_…/average_l0_…`; N of `res` is the block that the residual stream leaves.

Source: https://arxiv.org/abs/2408.05147, section 2.2, and https://huggingface.co/google/gemma-scope.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.files import present
from remainder.formats.coder import JumpReLU, make_coder
from remainder.formats.known import Ignore, Settings, Table, heeded, plain
from remainder.formats.places import Loaded, check_width, reads_at
from remainder.formats.tensors import require_weights
from remainder.interpretation import Reads
from remainder.task import Task

__all__ = ["FIELDS", "WEIGHTS", "files", "found_in", "load"]

WEIGHTS = "params.npz"

FIELDS = Table(
    {
        "W_enc": heeded("the encoder, [d_in, d_sae]", plain),
        "W_dec": heeded("the decoder, [d_sae, d_in]", plain),
        "b_enc": heeded("its bias", plain),
        "threshold": heeded("of each latent, for JumpReLU", plain),
        "b_dec": heeded("the decoder's bias; it is not subtracted before encoding", plain),
    }
)
"""The arrays of params.npz."""

_SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_in"),
    "b_enc": ("d_sae",),
    "threshold": ("d_sae",),
    "b_dec": ("d_in",),
}
_HOOKS = {"res": "blocks.{}.hook_resid_post", "mlp": "blocks.{}.hook_mlp_out", "att": "blocks.{}.attn.hook_z"}


def found_in(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return present(path / WEIGHTS)


def files(path: Path) -> list[Path]:
    """What can move a number."""
    return [path / WEIGHTS]


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The SAE in a folder, for the task's site.

    Args:
        path: of the folder.
        task: whose site it must be of.
        ignore: arrays to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = path / WEIGHTS
    hook = _hook(path)
    reads: Reads = "in" if task.site.is_reconstruction else "out"
    if hook is not None:
        reads = reads_at((hook, hook), task.site, where)
    arrays = _read(where, ignore)
    check_width(arrays["W_enc"].shape[0], task.site, where)
    threshold = arrays.pop("threshold")
    return Loaded(make_coder(arrays, JumpReLU(threshold), centred=False), reads)


def _read(where: Path, ignore: Ignore | None) -> dict[str, Tensor]:
    require_weights(where)
    try:
        # Without pickles: an array of objects is refused, and nothing of it executed.
        with where.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,
        AttributeError,
        MemoryError,
        zipfile.BadZipFile,
    ) as problem:
        raise InterpretationError(
            f"{where} is no readable file of arrays: {problem}",
            fix="fetch it again; it may be truncated, and arrays of objects are never loaded",
        ) from problem
    if missing := sorted(_SHAPES.keys() - arrays.keys()):
        raise InterpretationError(
            f"{where} holds {', '.join(sorted(arrays)) or 'nothing'}; {', '.join(missing)} is missing",
            fix="give the folder of one SAE of Gemma Scope",
        )
    arrays = Settings(arrays, FIELDS, where, ignore).all()
    sizes = dict(zip(("d_in", "d_sae"), arrays["W_enc"].shape, strict=False))
    for name, axes in _SHAPES.items():
        array = arrays[name]
        if array.shape != tuple(sizes.get(axis, -1) for axis in axes):
            raise InterpretationError(
                f"{where}: {name} has shape {array.shape}, and W_enc {arrays['W_enc'].shape}",
                fix=f"{name} must be [{', '.join(axes)}], and W_enc [d_in, d_sae]",
            )
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise InterpretationError(
                f"{where}: {name} ({array.dtype}) holds what is no finite number", fix="fetch it again"
            )
    return {name: torch.from_numpy(arrays[name].astype(np.float32, copy=False)) for name in _SHAPES}


def _hook(path: Path) -> str | None:
    """The hook that a path in Gemma Scope's repositories means, if it is one."""
    text = path.absolute().as_posix()
    kind = re.findall(r"gemma-scope-[\w.]+-[pi]t-(res|mlp|att)\b", text)
    layer = re.findall(r"\blayer_(\d+)\b", text)
    return _HOOKS[kind[-1]].format(layer[-1]) if kind and layer else None
