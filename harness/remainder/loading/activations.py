"""Clean activations at a task's site, computed once per split and kept on disk.

One prefix pass over the first n windows of a split gives a safetensors file in the cache, keyed by model,
token ids, site and amount, and shared by all interpretations, rungs and draws. Batches are read from it
lazily, so memory does not grow with the split. The cache of activations is bounded: the least recently
used files go first, but none that somebody reads.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from remainder.base.cache import Progress, build_once, silent, verify
from remainder.base.in_use import hold, is_held
from remainder.base.paths import cache_root, gigabytes
from remainder.errors import AssetError
from remainder.model.bridge import Prefix, Runner
from remainder.model.device import moved
from remainder.residual.moments import Moments
from remainder.task.spec import Task
from remainder.task.text import Split, Windows

__all__ = [
    "Batch",
    "SiteActivations",
    "check_stored",
    "collect_activations",
    "is_stored",
    "position_masks",
    "prefix_pass",
    "site_moments",
]

_FILE = "activations.safetensors"
_LIMIT = "REMAINDER_ACTIVATIONS_GB"
_DEFAULT_LIMIT = 8.0  # gigabytes
_ROUNDING = 1e-3
"""Share of its norm by which another batch or more threads may move an activation, with room to spare."""


@dataclass(frozen=True)
class Batch:
    """Windows of one split with their clean activations and masks."""

    windows: Windows
    inputs: Tensor  # [docs pos ...]; int64 token ids, or numbers
    targets: Tensor  # [docs pos]; int64 classes, or float32 numbers
    prefix: Prefix
    spliced: Bool[Tensor, "docs pos"]
    """Positions of the reconstruction: in a text, all but special tokens and attention sinks."""
    scored: Bool[Tensor, "docs pos"]
    """Positions whose loss counts: in a text, spliced ones whose next token exists and is not special."""

    def take(self, rows: Sequence[int]) -> Batch:
        """The windows at these places, in this order."""
        chosen = list(rows)
        return Batch(
            self.windows.take(chosen),
            self.inputs[chosen],
            self.targets[chosen],
            Prefix(*(tensor[chosen] for tensor in self.prefix)),
            self.spliced[chosen],
            self.scored[chosen],
        )


def position_masks(
    task: Task, tokens: Tensor, x: Float[Tensor, "docs pos d"]
) -> tuple[Bool[Tensor, "docs pos"], Bool[Tensor, "docs pos"]]:
    """Masks (spliced, scored) of a batch of text; source: protocol 1, section 1."""
    assert task.corpus is not None
    assert task.positions is not None
    special = torch.isin(tokens, torch.tensor(task.corpus.special_tokens, device=tokens.device))
    spliced = ~special & (x.norm(dim=-1) <= task.positions.sink_norm)
    scored = spliced.clone()
    scored[:, :-1] &= ~special[:, 1:]
    scored[:, -1] = False
    return spliced, scored


@dataclass(frozen=True)
class SiteActivations:
    """Windows of a split and their activations: the file where they lie, or the tensors themselves."""

    task: Task
    windows: Windows
    stored: Path | Mapping[str, Tensor]

    def batches(
        self, size: int, device: torch.device | str = "cpu", part: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """Batches of `size` windows in the fixed order.

        Args:
            part: (i, n): only the i-th of n equal parts of them, i from 0, the last one first.
        """
        starts: Sequence[int] = range(0, len(self.windows), size)
        if part is not None:
            number, of = part
            starts = starts[number * len(starts) // of : (number + 1) * len(starts) // of][::-1]
        return self._read((slice(start, min(start + size, len(self.windows))) for start in starts), device)

    def window(self, place: int) -> Batch:
        """The window at this place of the fixed order, alone."""
        (found,) = self._read([slice(place, place + 1)], "cpu")
        return found

    def _read(self, parts: Iterable[slice], device: torch.device | str) -> Iterator[Batch]:
        with ExitStack() as stack:
            if isinstance(self.stored, Path):
                file = stack.enter_context(safe_open(self.stored, framework="pt", device="cpu"))
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            else:
                slices = dict(self.stored)
            for rows in parts:
                part = {name: moved(tensor[rows], device) for name, tensor in slices.items()}
                prefix = Prefix(
                    part.get("entry", part["x_out"]), part.get("x_in", part["x_out"]), part["x_out"]
                )
                yield _batch(self.task, self.windows.take(range(rows.start, rows.stop)), prefix)


def _batch(task: Task, windows: Windows, prefix: Prefix) -> Batch:
    """Windows with their activations, targets and masks, on the device of the activations."""
    device = prefix.x_out.device
    inputs = torch.from_numpy(windows.inputs).to(device)
    if windows.targets is None or windows.spliced is None or windows.scored is None:
        spliced, scored = position_masks(task, inputs, prefix.x_out)
        return Batch(windows, inputs, torch.roll(inputs, -1, dims=1), prefix, spliced, scored)
    targets, spliced, scored = (
        torch.from_numpy(array).to(device) for array in (windows.targets, windows.spliced, windows.scored)
    )
    return Batch(windows, inputs, targets, prefix, spliced, scored)


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
    key = _key(task, windows, model_hash, device)
    need, limit = windows.inputs.size * task.site.width * 4, gigabytes(_LIMIT, _DEFAULT_LIMIT)

    def build(folder: Path) -> None:
        tensors = prefix_pass(runner(), windows, batch_size, f"activations ({split})", progress)
        _make_room(sum(tensor.nbytes for tensor in tensors.values()), limit)
        save_file(tensors, folder / _FILE)

    folder = build_once("activations", key, build, need=need)
    found = SiteActivations(task, windows, folder / _FILE)
    hold(folder, found)
    verify(folder)
    os.utime(folder)
    return found


def is_stored(task: Task, windows: Windows, *, model_hash: str, device: torch.device) -> bool:
    """Whether the cache has the activations of these windows, so that `collect_activations` makes no pass."""
    return (cache_root() / "activations" / _key(task, windows, model_hash, device) / _FILE).is_file()


def _key(task: Task, windows: Windows, model_hash: str, device: torch.device) -> str:
    """The name of activations in the cache: everything that they depend on."""
    text = f"v1|{model_hash}|{task.site.hook_in}|{task.site.hook_out}|{device.type}|"
    return hashlib.sha256(text.encode() + windows.inputs.tobytes()).hexdigest()[:24]


def check_stored(stored: SiteActivations, runner: Runner) -> None:
    """Compare one window of a file, drawn anew by every process, with what the model gives for it.

    A manifest tells whether a file is the one that was written, this whether it is of this model and text.
    Values that were altered in a few windows are found only if the draw meets one of them, and a change below
    a thousandth of an activation's norm is not told from rounding.

    Raises:
        AssetError: they differ.
    """
    row = random.SystemRandom().randrange(len(stored.windows))
    batch = stored.window(row)
    with torch.inference_mode():
        expected = runner.prefix(batch.inputs)
    for name, found, right in zip(Prefix._fields, batch.prefix, expected, strict=True):
        right = right.to(found)
        apart = (found - right).norm(dim=-1)
        if not (apart <= _ROUNDING * right.norm(dim=-1)).all():
            assert isinstance(stored.stored, Path)
            raise AssetError(
                f"{stored.stored}: window {row} holds other activations ({name}) than the model gives",
                fix=f"delete {stored.stored.parent} and run again",
            )


def site_moments(activations: SiteActivations, batch_size: int = 32) -> Moments:
    """Mean and scatter of the clean activations at spliced positions, float64."""
    moments = Moments.empty(activations.task.site.width)
    for batch in activations.batches(batch_size):
        moments.update(batch.prefix.x_out[batch.spliced])
    return moments


def prefix_pass(
    runner: Runner, windows: Windows, batch_size: int, doing: str, progress: Progress | None
) -> dict[str, Tensor]:
    """Activations of windows at the runner's site, by the names of `Prefix`; no tensor stands twice."""
    parts: dict[str, list[Tensor]] = {"entry": [], "x_in": [], "x_out": []}
    for start in range(0, len(windows), batch_size):
        inputs = torch.from_numpy(windows.inputs[start : start + batch_size])
        with torch.inference_mode():
            prefix = runner.prefix(inputs)
        for name, value in prefix._asdict().items():
            if value.data_ptr() != prefix.x_out.data_ptr() or name == "x_out":
                parts[name].append(value.cpu())
        (progress or silent)(doing, min(start + batch_size, len(windows)), len(windows))
    # For a residual-stream site all three are one tensor, which is stored once.
    return {name: torch.cat(rows) for name, rows in parts.items() if rows}


def _make_room(need: int, limit: float) -> None:
    """Drop activations that nobody reads, least recently used first, until `need` more fit into `limit`."""
    root = cache_root() / "activations"
    # What another process is making has a temporary folder with a dot in its name.
    files = [path for path in root.glob(f"*/{_FILE}") if "." not in path.parent.name]
    files.sort(key=lambda path: path.parent.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total + need <= limit:
            return
        if is_held(path.parent):
            continue
        total -= path.stat().st_size
        # Renamed first, so that a folder half removed is never taken for a damaged one.
        shutil.rmtree(path.parent.rename(path.parent.with_name(f"{path.parent.name}.tmp-dropped")))
