"""circuit-tracer: a set of transcoders, one a layer, of which a task takes the one of its own layer.

1. A YAML file, or a folder with `config.yaml`: model_name, feature_input_hook, feature_output_hook (without
   their `blocks.N.`), and `transcoders`, a list of paths by layer, or of {layer, filepath}; without it the
   files are `layer_N.safetensors` beside it. Paths are relative to the YAML file; nothing is downloaded.
2. The transcoder whose output hook is what the task replaces.
3. Its safetensors file: W_enc [d_transcoder d_model], W_dec [d_transcoder d_model], b_enc, b_dec, for a
   JumpReLU activation_function.threshold, for a skip-transcoder W_skip.

Source: https://github.com/safety-research/circuit-tracer, `transcoder/single_layer_transcoder.py`,
`utils/hf_utils.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from remainder.errors import InterpretationError
from remainder.files import brief, present
from remainder.formats.coder import JumpReLU, make_coder
from remainder.formats.fields import text
from remainder.formats.places import Loaded, MisfitError, check_model, check_no_skip, place_at, tensor_of
from remainder.formats.tensors import Layout, header, read_tensors, read_yaml
from remainder.interpretation import Reads
from remainder.task import Task

__all__ = ["CONFIG", "files", "found_in", "load"]

CONFIG = "config.yaml"

_ENDINGS = {".yaml", ".yml"}
_REQUIRED: dict[str, tuple[str | int, ...]] = {
    "W_enc": ("d_transcoder", "d_model"),
    "W_dec": ("d_transcoder", "d_model"),
    "b_enc": ("d_transcoder",),
    "b_dec": ("d_model",),
}
_THRESHOLDS = ("activation_function.threshold", "threshold")


class _Entry(NamedTuple):
    layer: int
    written: str
    """The path as the file has it."""
    path: Path

    @property
    def is_remote(self) -> bool:
        return "://" in self.written


def found_in(path: Path) -> bool:
    """Whether `path` is such a YAML file, or a folder with one."""
    if path.suffix in _ENDINGS:
        return present(path)
    return present(path / CONFIG)


def files(path: Path) -> list[Path]:
    """What can move a number: the YAML file and all local weights."""
    entries = _entries(_yaml_of(path))
    return [_yaml_of(path), *(entry.path for entry in entries if not entry.is_remote and present(entry.path))]


def load(path: Path, task: Task) -> Loaded:
    """The transcoder of the task's layer.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = _yaml_of(path)
    config = read_yaml(where)
    check_model(text(config, "model_name", where), task.model, where)
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise InterpretationError(
            f"{where}: model_kind is {brief(config['model_kind'])}; a task replaces one place by one "
            "transcoder",
            fix="give a set of transcoders that read and write one layer each (model_kind: transcoder_set)",
        )
    source, target = (_hook(config, field, where) for field in ("feature_input_hook", "feature_output_hook"))
    entries = _entries(where)
    chosen = [e for e in entries if tensor_of(f"blocks.{e.layer}.{target}") == tensor_of(task.site.hook_out)]
    if not chosen:
        layers = ", ".join(str(entry.layer) for entry in entries) or "none"
        raise MisfitError(
            f"{where} has transcoders to {target} of layers {layers}; the task replaces {task.site.hook_out}",
            fix="choose a task at one of these places",
        )
    entry = chosen[0]
    hooks = (f"blocks.{entry.layer}.{source}", f"blocks.{entry.layer}.{target}")
    place = place_at(hooks, task, where)
    if entry.is_remote or entry.path.suffix != ".safetensors":
        raise InterpretationError(
            f"{where}: layer {entry.layer} is {entry.written}, which is no local safetensors file",
            fix="fetch it (`hf download OWNER/REPO FILE`), or convert the set with circuit-tracer's "
            "save_transcoders_to_cache, and write the file's path there",
        )
    return Loaded(_read(entry.path, task, place.reads), *place)


def _read(path: Path, task: Task, reads: Reads) -> nn.Module:
    """One transcoder."""
    stored = header(path)
    threshold = next((name for name in _THRESHOLDS if name in stored), None)
    shapes = dict(_REQUIRED)
    if threshold is not None:
        shapes[threshold] = () if stored[threshold].shape == () else ("d_transcoder",)
    if "W_skip" in stored:
        check_no_skip(task.site, reads, path)
        shapes["W_skip"] = ("d_model", "d_model")
    width = task.site.width
    found = read_tensors(path, Layout(shapes, {"d_model": width}, f"the site has width d_model = {width}"))
    activation = nn.ReLU() if threshold is None else JumpReLU(found.pop(threshold))
    found["W_enc"] = found["W_enc"].T
    return make_coder(found, activation, centred=False)


def _yaml_of(path: Path) -> Path:
    return path if path.suffix in _ENDINGS else path / CONFIG


def _hook(config: dict[str, Any], field: str, where: Path) -> str:
    value = config.get(field)
    if not isinstance(value, str):
        raise InterpretationError(
            f"{where}: {field} is {brief(value)}; expected the name of a hook within a block",
            fix=f"write it, such as {field}: {'mlp.hook_in' if 'input' in field else 'hook_mlp_out'}",
        )
    return value


def _entries(where: Path) -> list[_Entry]:
    """The set's files by layer."""
    listed = read_yaml(where).get("transcoders")
    if listed is None:
        matches = [
            (re.fullmatch(r"layer_(\d+)", path.stem), path) for path in where.parent.glob("*.safetensors")
        ]
        found = [_Entry(int(match[1]), path.name, path) for match, path in matches if match]
        return sorted(found)
    entries = []
    for number, item in enumerate(listed if isinstance(listed, list) else [listed]):
        layer, written = number, item
        if isinstance(item, dict):
            layer, written = item.get("layer", number), item.get("filepath")
        if not isinstance(written, str) or "\0" in written or type(layer) is not int:
            raise InterpretationError(
                f"{where}: transcoders[{number}] is {brief(item)}; expected a path, or layer and filepath",
                fix="write each as a path, or as {layer: 0, filepath: layer_0.safetensors}",
            )
        entries.append(_Entry(layer, written, where.parent / written))
    return entries
