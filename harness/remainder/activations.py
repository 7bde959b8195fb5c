"""Clean activations at a task's site, computed once per split and kept on disk.

One prefix pass over the first n windows of a split gives a safetensors file in the cache, keyed by model,
token ids, site and amount, and shared by all interpretations, rungs and draws. Batches are read from it
lazily, so memory does not grow with the split. The cache of activations is bounded: the least recently
used files go first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from remainder.assets import Progress, build_once, verify
from remainder.corpus import Split, Windows
from remainder.errors import AssetError
from remainder.model import Prefix, Runner
from remainder.paths import cache_root
from remainder.residual.moments import Moments
from remainder.task import Task

__all__ = ["Batch", "SiteActivations", "collect_activations", "position_masks", "site_moments"]

_FILE = "activations.safetensors"
_LIMIT = "REMAINDER_ACTIVATIONS_GB"
_DEFAULT_LIMIT = 8.0  # gigabytes


@dataclass(frozen=True)
class Batch:
    """Windows of one split with their clean activations and masks."""

    windows: Windows
    tokens: Tensor  # int64 [docs pos]
    prefix: Prefix
    spliced: Bool[Tensor, "docs pos"]
    """Where the reconstruction is put in: everywhere but at special tokens and attention sinks."""
    scored: Bool[Tensor, "docs pos"]
    """Where a loss counts: spliced, and the next token exists and is not special."""


def position_masks(
    task: Task, tokens: Tensor, x: Float[Tensor, "docs pos d"]
) -> tuple[Bool[Tensor, "docs pos"], Bool[Tensor, "docs pos"]]:
    """Masks (spliced, scored) of a batch; source: protocol 1, section 1."""
    special = torch.isin(tokens, torch.tensor(task.corpus.special_tokens, device=tokens.device))
    spliced = ~special & (x.norm(dim=-1) <= task.positions.sink_norm)
    scored = spliced.clone()
    scored[:, :-1] &= ~special[:, 1:]
    scored[:, -1] = False
    return spliced, scored


@dataclass(frozen=True)
class SiteActivations:
    """Windows of a split and where their activations lie."""

    task: Task
    windows: Windows
    file: Path

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Batches of `size` windows in the fixed order."""
        with safe_open(self.file, framework="pt", device="cpu") as stored:
            names = set(stored.keys())
            for start in range(0, len(self.windows), size):
                rows = slice(start, min(start + size, len(self.windows)))
                part = {name: stored.get_slice(name)[rows].to(device) for name in names}
                prefix = Prefix(
                    part.get("entry", part["x_out"]), part.get("x_in", part["x_out"]), part["x_out"]
                )
                windows = self.windows.take(range(rows.start, rows.stop))
                tokens = torch.from_numpy(windows.tokens).to(device)
                spliced, scored = position_masks(self.task, tokens, prefix.x_out)
                yield Batch(windows, tokens, prefix, spliced, scored)


def collect_activations(
    task: Task,
    runner: Callable[[], Runner],
    windows: Windows,
    split: Split,
    *,
    model_hash: str,
    device: torch.device,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> SiteActivations:
    """Activations of `windows` at the task's site: from the cache, else by a prefix pass.

    `runner` is called only if they are not in the cache, so that no model is loaded in vain.

    Raises:
        AssetError: if the cache cannot be written, or a file of it has been altered.
    """
    text = f"v1|{model_hash}|{task.site.hook_in}|{task.site.hook_out}|{device.type}|"
    digest = hashlib.sha256(text.encode() + windows.tokens.tobytes())
    need, limit = windows.tokens.size * task.site.width * 4, _limit()

    def build(folder: Path) -> None:
        tensors = _prefix_pass(runner(), windows, batch_size, f"activations ({split})", progress)
        _make_room(sum(tensor.nbytes for tensor in tensors.values()), limit)
        save_file(tensors, folder / _FILE)

    folder = build_once("activations", digest.hexdigest()[:24], build, need=need)
    verify(folder)
    os.utime(folder)
    return SiteActivations(task, windows, folder / _FILE)


def site_moments(activations: SiteActivations, batch_size: int = 32) -> Moments:
    """Mean and scatter of the clean activations at spliced positions, float64."""
    moments = Moments.empty(activations.task.site.width)
    for batch in activations.batches(batch_size):
        moments.update(batch.prefix.x_out[batch.spliced])
    return moments


def _prefix_pass(
    runner: Runner, windows: Windows, batch_size: int, doing: str, progress: Progress | None
) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {"entry": [], "x_in": [], "x_out": []}
    for start in range(0, len(windows), batch_size):
        tokens = torch.from_numpy(windows.tokens[start : start + batch_size])
        with torch.inference_mode():
            prefix = runner.prefix(tokens)
        for name, value in prefix._asdict().items():
            if value.data_ptr() != prefix.x_out.data_ptr() or name == "x_out":
                parts[name].append(value.cpu())
        if progress is not None:
            progress(doing, min(start + batch_size, len(windows)), len(windows))
    # For a residual-stream site all three are one tensor, which is stored once.
    return {name: torch.cat(rows) for name, rows in parts.items() if rows}


def _make_room(need: int, limit: float) -> None:
    """Drop the least recently used activations until `need` more bytes stay within `limit`."""
    root = cache_root() / "activations"
    # What another process is making has a temporary folder with a dot in its name.
    files = [path for path in root.glob(f"*/{_FILE}") if "." not in path.parent.name]
    files.sort(key=lambda path: path.parent.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total + need <= limit:
            return
        total -= path.stat().st_size
        # Renamed first, so that a folder half removed is never taken for a damaged one.
        shutil.rmtree(path.parent.rename(path.parent.with_name(f"{path.parent.name}.tmp-dropped")))


def _limit() -> float:
    """Bytes that activations may take on the disk."""
    text = os.environ.get(_LIMIT, str(_DEFAULT_LIMIT))
    try:
        return float(text) * 1e9
    except ValueError:
        raise AssetError(f"{_LIMIT} is {text!r}, not a number", fix="give gigabytes") from None
