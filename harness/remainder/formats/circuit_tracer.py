"""circuit-tracer: a set of transcoders, one per layer; a task takes the one of its own layer.

1. A YAML file, or a folder with `config.yaml`: model_name, feature_input_hook, feature_output_hook (without
   their `blocks.N.`), and `transcoders`, a list of paths by layer, or of {layer, filepath}; without it the
   files are `layer_N.safetensors` beside it. Paths are relative to the YAML file; nothing is downloaded.
2. The transcoder whose output hook is what the task replaces.
3. Its safetensors file: W_enc [d_transcoder d_model], W_dec [d_transcoder d_model], b_enc, b_dec, for a
   JumpReLU activation_function.threshold, for a skip-transcoder W_skip.
4. `activation`: topk keeps the `k` largest, of either sign, as circuit-tracer's TopK does; relu what is
   above zero. Without it, a threshold among the weights means JumpReLU, a number `k` among them topk, and
   neither ReLU. circuit-tracer's JumpReLU keeps what is above a threshold even where that is below zero.

Source: https://github.com/safety-research/circuit-tracer, `transcoder/single_layer_transcoder.py`,
`utils/hf_utils.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from remainder.base.files import brief, present
from remainder.errors import InterpretationError
from remainder.formats.coder import Above, Largest, make_coder
from remainder.formats.fields import text
from remainder.formats.known import Ignore, Settings, Table, harmless, heeded, plain
from remainder.formats.places import (
    Loaded,
    MisfitError,
    check_count,
    check_model,
    check_no_skip,
    place_at,
    tensor_of,
)
from remainder.formats.tensors import Layout, header, read_tensors, read_yaml
from remainder.interpretation.protocol import Reads
from remainder.task.spec import Task

__all__ = [
    "CONFIG",
    "ENTRY",
    "FIELDS",
    "Entry",
    "entries_of",
    "files",
    "found_in",
    "hook_of",
    "load",
    "require",
    "require_single_layers",
    "yaml_of",
]

CONFIG = "config.yaml"

ENTRY = Table(
    {
        "layer": heeded("the block that it is of", plain),
        "filepath": heeded("its weights", plain),
        **harmless("a name", "id"),
    }
)
"""Fields of an entry of `transcoders` that is not a path."""

FIELDS = Table(
    {
        "model_name": heeded("must be the task's model", text),
        "model_kind": heeded("must be transcoder_set", plain),
        "feature_input_hook": heeded("what they read", plain),
        "feature_output_hook": heeded("what they rebuild; the task's layer is chosen by it", plain),
        "transcoders": heeded("files by layer; a path, or layer and filepath (and id)", plain),
        "activation": heeded(
            "topk, relu or jumprelu; missing: as the weights have a threshold, a number k or neither",
            plain,
            ignorable=True,
        ),
        "k": heeded("the number of active latents of topk", plain, ignorable=True),
        **harmless(
            "says under which address circuit-tracer found the set",
            "scan",
            "scan_name",
            "repo_id",
            "subfolder",
            "revision",
        ),
        **harmless(
            "how circuit-tracer keeps the weights in memory",
            "dtype",
            "device",
            "lazy_encoder",
            "lazy_decoder",
        ),
    }
)
"""Fields of the YAML file."""

_ENDINGS = {".yaml", ".yml"}
_FIELDS = frozenset({"feature_input_hook", "feature_output_hook", "transcoders"})
"""Fields of which a set has at least one."""
_REQUIRED: dict[str, tuple[str | int, ...]] = {
    "W_enc": ("d_transcoder", "d_model"),
    "W_dec": ("d_transcoder", "d_model"),
    "b_enc": ("d_transcoder",),
    "b_dec": ("d_model",),
}
_ACTIVATIONS = ("relu", "topk", "jumprelu")
_THRESHOLDS = ("activation_function.threshold", "threshold")


class Entry(NamedTuple):
    """A transcoder of a set."""

    layer: int
    written: str
    """The path as the file has it."""
    path: Path

    @property
    def is_remote(self) -> bool:
        """Whether it lies on a hub."""
        return "://" in self.written


def found_in(path: Path) -> bool:
    """Whether `path` is circuit-tracer's YAML file, or a folder with one."""
    return present(yaml_of(path))


def files(path: Path) -> list[Path]:
    """Files whose content can change a score: the YAML file and all local weights.

    Raises:
        InterpretationError: a YAML file is named that is not circuit-tracer's.
    """
    if path.is_file():
        require(path)
    entries = entries_of(yaml_of(path))
    return [yaml_of(path), *(entry.path for entry in entries if not entry.is_remote and present(entry.path))]


def require(path: Path) -> None:
    """Whether a YAML file given by its path is circuit-tracer's; in a folder, its name says so.

    Raises:
        InterpretationError: it has none of circuit-tracer's fields.
    """
    where = yaml_of(path)
    fields = read_yaml(where)
    if not fields.keys() & _FIELDS:
        held = ", ".join(brief(name)[1:-1] for name in list(fields)[:6]) or "nothing"
        raise InterpretationError(
            f"{where} is YAML with the fields {held}; circuit-tracer's sets of transcoders have "
            f"{', '.join(sorted(_FIELDS))}",
            fix="give the YAML file of the set, or the folder of an SAE or transcoder with its settings",
        )


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The transcoder of the task's layer.

    Args:
        path: of the YAML file, or of its folder.
        task: whose site and model it must be of.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = yaml_of(path)
    config = Settings(read_yaml(where), FIELDS, where, ignore)
    named = check_model(config["model_name"], task.model, where)
    require_single_layers(config)
    source, target = (
        hook_of(config, field, where) for field in ("feature_input_hook", "feature_output_hook")
    )
    _checkentries_of(config)
    entries = entries_of(where)
    chosen = [e for e in entries if tensor_of(f"blocks.{e.layer}.{target}") == tensor_of(task.site.hook_out)]
    if not chosen:
        layers = ", ".join(str(entry.layer) for entry in entries) or "none"
        raise MisfitError(
            f"{where} has transcoders to {target} of layers {layers}; the task replaces {task.site.hook_out}",
            fix="choose a task at one of these places",
        )
    if len(chosen) > 1:
        raise InterpretationError(
            f"{where} lists layer {chosen[0].layer} more than once: {', '.join(e.written for e in chosen)}",
            fix="list each layer once",
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
    place = place._replace(warnings=place.warnings + named)
    return Loaded(_read(entry.path, task, place.reads, config), *place)


def _read(path: Path, task: Task, reads: Reads, config: Settings) -> nn.Module:
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
    says = f"the site has width d_model = {width}"
    found = read_tensors(path, Layout(shapes, {"d_model": width}, says, counters=frozenset({"k"})))
    level = None if threshold is None else found.pop(threshold)
    count = _count(config, found.pop("k", None), path)
    found["W_enc"] = found["W_enc"].T
    return make_coder(found, _activation(config, level, count, found["W_enc"].shape[1]), centred=False)


def _count(config: Settings, stored: Tensor | None, path: Path) -> int | float | None:
    """The `k` that circuit-tracer writes beside the weights of topk.

    That of the set, if there is one, agrees.

    Raises:
        InterpretationError: they do not agree.
    """
    if stored is None:
        return None
    if stored.numel() != 1:
        raise InterpretationError(
            f"{path}: k has shape {tuple(stored.shape)}; expected one number", fix="write one number"
        )
    count = stored.item()
    if "k" in config and config["k"] != count:
        raise InterpretationError(
            f"{path}: k is {brief(count)}; {Path(config.where).name} says k = {brief(config['k'])}",
            fix="one of the two belongs to something else; take both from one place",
        )
    return int(count) if isinstance(count, float) and count.is_integer() else count


def _activation(
    config: Settings, threshold: Tensor | None, count: int | float | None, latents: int
) -> nn.Module:
    """The activation that the set names, if the weights fit it, or else the one that these imply.

    Raises:
        InterpretationError: it is not known, or the weights belong to another one.
    """
    kind, where = config["activation"], config.where
    if kind not in (None, *_ACTIVATIONS):
        raise InterpretationError(
            f"{where}: activation is {brief(kind)}; known are {', '.join(_ACTIVATIONS)}",
            fix="score the object itself: give it encode and decode, then remainder.evaluate(task, object); "
            f"{config.refuse('activation', '').fix}",
        )
    if kind is None and count is not None:
        kind = "topk"
    if kind != "topk" and count is not None:
        raise InterpretationError(
            f"{where}: activation is {kind}, and the weights have a number k, which is of topk",
            fix="one of the two belongs to something else; take both from one place",
        )
    if kind != "topk" and "k" in config:
        raise config.refuse("k", f"it is of activation: topk, and activation is {brief(kind)}")
    if kind not in (None, "jumprelu") and threshold is not None:
        raise InterpretationError(
            f"{where}: activation is {kind}, and the weights have a threshold, which is of jumprelu",
            fix="one of the two belongs to something else; take both from one place",
        )
    if kind == "jumprelu" and threshold is None:
        raise InterpretationError(
            f"{where}: activation is jumprelu, and the weights have no threshold",
            fix="export them with activation_function.threshold",
        )
    if kind == "topk":
        k = count if count is not None and "k" not in config else config["k"]
        return Largest(check_count(k, latents, where, "k"))
    return nn.ReLU() if threshold is None else Above(threshold)


def require_single_layers(config: Settings) -> None:
    """Raise InterpretationError for the settings of anything but transcoders of one layer each."""
    if config["model_kind"] not in (None, "transcoder_set"):
        raise InterpretationError(
            f"{config.where}: model_kind is {brief(config['model_kind'])}; what is measured here reads and "
            "writes one place each, and a latent of a cross-layer transcoder writes into all later blocks",
            fix="give a set of transcoders that read and write one layer each (model_kind: transcoder_set), "
            "and make graphs with that",
        )


def yaml_of(path: Path) -> Path:
    """The YAML file of a set that is named by it, or by its folder."""
    return path if path.suffix.lower() in _ENDINGS and not path.is_dir() else path / CONFIG


def hook_of(config: Settings, field: str, where: Path) -> str:
    """The name of a hook within a block.

    Raises:
        InterpretationError: the field holds something else.
    """
    value = config[field]
    if not isinstance(value, str) or value.startswith("blocks."):
        raise InterpretationError(
            f"{where}: {field} is {brief(value)}; expected the name of a hook within a block",
            fix=f"write it, such as {field}: {'mlp.hook_in' if 'input' in field else 'hook_mlp_out'}",
        )
    return value


def _checkentries_of(config: Settings) -> None:
    """Refuse a field that nobody knows in an entry of the list."""
    listed = config["transcoders"]
    for number, item in enumerate(listed if isinstance(listed, list) else [listed]):
        if isinstance(item, dict):
            Settings(item, ENTRY, config.where, config.ignore, f"transcoders[{number}].")


def entries_of(where: Path) -> list[Entry]:
    """The set's files by layer.

    Raises:
        InterpretationError: an entry of the list is none.
    """
    listed = read_yaml(where).get("transcoders")
    if listed is None:
        matches = [
            (re.fullmatch(r"layer_(\d+)", path.stem), path) for path in where.parent.glob("*.safetensors")
        ]
        found = [Entry(int(match[1]), path.name, path) for match, path in matches if match]
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
        entries.append(Entry(layer, written, where.parent / written))
    return entries
