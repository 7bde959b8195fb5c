"""A submission: a folder with `submission.toml` that says what the interpretation is and how it is read.

Every baseline is a submission like any other. `[method] format` names either a reader of weights
(`saelens`, `dictionary-learning`, `sparsify`, `gemma-scope`: a folder of this submission, or one on the
Hugging Face hub; `circuit-tracer`: a YAML file or its folder; `subspace` and `codebook`: a file of arrays) or
a reference that is made from moments of the task's `fit` split (`identity`, `mean`, `pca`,
`random-projection`). A circuit is a file in EAP-IG's format (`eap-ig`), MIB's folder of these (`mib`), or
found on the task's `fit` prompts (`edge-attribution`, `node-attribution`, `edge-patching`, `random-edges`,
`full-graph`, `empty-graph`). A circuit of features names the submissions of reconstructions whose latents are
its nodes, and is found (`feature-attribution`), or read from a file of scores (`feature-scores`) or
circuit-tracer's graphs (`feature-graph`). All of these are data; nothing of a submission is executed.

`open_submission` also takes what people have at hand: the name of a baseline, what one of these formats' own
libraries wrote, or `hub:OWNER/REPO:SAE_ID`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from remainder.base.cache import sha256_file
from remainder.base.files import explained, present, require_file
from remainder.base.messages import first_fault
from remainder.base.paths import BENCHMARK, project_root, root_of
from remainder.errors import InterpretationError
from remainder.formats import (
    arrays,
    attribution_graph,
    circuit_tracer,
    dictionary_learning,
    eap_ig,
    gemma_scope,
    hub,
    mib,
    saelens,
    sparsify,
)
from remainder.formats.eap_ig import Found
from remainder.formats.known import Ignore
from remainder.formats.places import Loaded, MisfitError
from remainder.formats.recognition import look
from remainder.formats.tensors import require_weights
from remainder.interpretation.protocol import (
    Adapted,
    Codebook,
    FitMoments,
    Identity,
    Projection,
    adapt,
    mean_only,
    principal_components,
    random_projection,
)
from remainder.record.naming import LONGEST, shortened
from remainder.submission.aliases import require_same
from remainder.submission.circuits import make_circuits
from remainder.submission.feature_circuits import FoundFeatures, make_features, site_tasks
from remainder.submission.method import (
    CIRCUIT_FORMATS,
    FEATURE_FORMATS,
    NAME,
    Method,
    SiteSource,
    submission_hash,
)
from remainder.submission.objects import circuit_submission, object_submission
from remainder.submission.unread import graph_alone, not_found, part_of_folder
from remainder.task.spec import Task, read_toml

if TYPE_CHECKING:
    from remainder.loading.loaded import LoadedTask
    from remainder.loading.prompts import CircuitTask

__all__ = [
    "Entry",
    "Method",
    "Submission",
    "baselines_for",
    "open_submission",
    "submissions_for",
]


class Format(Protocol):
    """A module of `remainder.formats` for weights that are found on the disk."""

    def found_in(self, path: Path) -> bool: ...
    def files(self, path: Path) -> list[Path]: ...
    def load(self, path: Path, task: Task, ignore: Ignore | None = None) -> Loaded: ...


FORMATS: Mapping[str, Format] = {
    # In this order, since what marks a later one may lie in the folder of an earlier one.
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "saelens": saelens,
    "circuit-tracer": circuit_tracer,
    "gemma-scope": gemma_scope,
}


@runtime_checkable
class Entry(Protocol):
    """What can be scored and told apart afterwards."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def files(self) -> dict[str, str]: ...
    @property
    def hash(self) -> str: ...
    @property
    def is_pinned(self) -> bool: ...
    def build(self, task: Task, fit: FitMoments) -> Adapted: ...
    def circuits(self, loaded: CircuitTask, fit_windows: int) -> Found | FoundFeatures: ...


_LEAST = 8  # letters of a repository's name that say something


class Submission(BaseModel):
    """The content of `submission.toml`, and the files that belong to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME)
    kind: Literal["reconstruction", "circuit", "feature-circuit"]
    title: str
    authors: tuple[str, ...]
    licence: str
    paper: str | None = None
    tasks: tuple[str, ...] = Field(default=(), description="ids of tasks that it was made for; empty: any")
    method: Method
    folder: Path | None = Field(default=None, exclude=True)
    files: dict[str, str] = Field(default_factory=dict, exclude=True)
    commit: str | None = Field(default=None, exclude=True, description="of what lies on a hub, once fetched")

    @model_validator(mode="after")
    def _kind_of_format(self) -> Submission:
        features = self.method.format in FEATURE_FORMATS
        if features != (self.kind == "feature-circuit"):
            wanted = "feature-circuit" if features else "reconstruction or circuit"
            raise ValueError(f"`kind` of format {self.method.format} is {wanted}, not {self.kind}")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over the settings and the hash of every file that can move a number."""
        return submission_hash(self.method, self.files)

    @property
    def is_bare(self) -> bool:
        """Whether it is weights alone, without a submission.toml in which somebody vouches for them."""
        return not self.authors

    @property
    def is_pinned(self) -> bool:
        """Whether the hash says everything: what lies on a hub is known when it has been fetched."""
        return self.method.hub is None or bool(self.files)

    def fetched(self) -> Submission:
        """The same with its files at hand and hashed, if it lies on a hub.

        Raises:
            AssetError: if the hub does not give them.
            InterpretationError: if there is no such SAE there.
        """
        if self.method.hub is None or self.files:
            return self
        found = hub.fetch(hub.parse(self.method.hub, self.method.revision))
        return self.model_copy(update=found._asdict())

    def fits(self, task: Task) -> bool:
        """Whether it was made for `task`; one that names no tasks was made for all."""
        return self._is_of_kind(task) and (not self.tasks or task.id in self.tasks)

    def _is_of_kind(self, task: Task) -> bool:
        return (self.kind != "reconstruction") == (task.circuit is not None)

    def build(self, task: Task, fit: FitMoments) -> Adapted:
        """The interpretation, ready for the task's site.

        Raises:
            InterpretationError: if it was made for another task or width, or its weights are unusable.
        """
        self.require_fit(task)
        with explained(self.folder, InterpretationError):
            fetched = self.fetched()
            loaded = fetched._make(task, fit)
        if not loaded.told and self.is_bare:
            raise _untold(self.name, task)
        warnings = tuple(map(fetched._without_place, loaded.warnings))
        return adapt(loaded.thing, task.site.width, self.name, loaded.reads, warnings, loaded.aliases)

    def _without_place(self, text: str) -> str:
        """A reader's words with its files named from this folder on: records are public."""
        for folder in () if self.folder is None else (self.folder, self.folder.resolve()):
            text = text.replace(f"{folder}/", "")
        return text

    def circuits(self, loaded: CircuitTask, fit_windows: int) -> Found | FoundFeatures:
        """The circuits, on the graph of the task's model or on latents at sites of it; methods that look for
        one do so on `fit` prompts.

        Raises:
            InterpretationError: if it was made for another task or architecture, or a file is not sound.
        """
        self.require_fit(loaded.task)
        if self.method.sites is not None:
            tasks = site_tasks(self.method.sites, loaded.task)
            sites = [
                (task.site, self._at(source, task))
                for source, task in zip(self.method.sites, tasks, strict=True)
            ]
            for _, each in sites:
                require_same(loaded, each)
            features = make_features(self.method, self.folder, loaded, fit_windows, sites)
            told = dict.fromkeys(f"{each.name}: {warning}" for _, each in sites for warning in each.warnings)
            return features._replace(notes=tuple(map(self._without_place, (*features.notes, *told))))
        found = make_circuits(self.method, self.folder, loaded, fit_windows)
        return found._replace(notes=tuple(map(self._without_place, found.notes)))

    def _at(self, source: SiteSource, task: Task) -> Adapted:
        """The interpretation of one of the sites, for that of `task`."""
        assert self.folder is not None
        found = _open_site(self.folder, source)
        if source.task is not None:
            found.require_fit(task)

        def no_moments() -> NoReturn:
            raise InterpretationError(
                f"sites: {source.submission}: format {found.method.format} is fitted to a text",
                fix="give a submission that is read from files, such as that of an SAE",
            )

        loaded = found._make(task, no_moments)
        return adapt(loaded.thing, task.site.width, found.name, loaded.reads, loaded.warnings, loaded.aliases)

    def require_fit(self, task: Task) -> None:
        """Raise InterpretationError if it is of another kind than `task` scores, or was made for others."""
        if not self._is_of_kind(task):
            wanted = "circuits" if task.circuit is not None else "reconstructions of activations"
            raise InterpretationError(
                f"submission {self.name} is a {self.kind}; task {task.id} scores {wanted}",
                fix="`remainder tasks` lists what there is",
            )
        if not self.fits(task):
            raise InterpretationError(
                f"submission {self.name} was made for {', '.join(self.tasks)}, not for {task.id}",
                fix="run it on one of those tasks, or add this one to `tasks` in its submission.toml",
            )

    def _make(self, task: Task, fit: FitMoments) -> Loaded:
        method = self.method
        ignore = Ignore(frozenset(method.ignore_fields or ()))
        if method.hub is not None and self.folder is None:
            address = hub.parse(method.hub, method.revision)
            return ignore.noted(
                hub.load_release(address._replace(revision=self.commit), task, ignore), self.name
            )
        if method.format in FORMATS:
            assert self.folder is not None
            reader, path = FORMATS[method.format], self.folder / (method.path or ".")
            if method.hub is not None:
                self._refuse_others(path, reader.files(path))
            return ignore.noted(reader.load(path, task, ignore), self.name)
        # References, subspaces and codebooks rebuild what they read: at a task that does not, its output.
        return Loaded(self._make_reference(task, fit), "in" if task.site.is_reconstruction else "out")

    def _refuse_others(self, folder: Path, paths: list[Path]) -> None:
        """A list of files that came from a hub names no others: these were neither fetched nor hashed."""
        others = [path for path in paths if path.parent != folder]
        if others:
            raise InterpretationError(
                f"submission {self.name}: {others[0]} lies outside of the folder that was fetched",
                fix="if you trust that list, download the repository and give its folder on this machine",
            )

    def _make_reference(self, task: Task, fit: FitMoments) -> Any:
        method = self.method
        if method.format == "identity":
            return Identity()
        if method.format == "mean":
            return mean_only(fit())
        if method.format in ("subspace", "codebook"):
            return self._read_arrays(task.site.width)
        if method.rank is None:
            raise InterpretationError(
                f"submission {self.name}: format {method.format} needs `rank`",
                fix="write into [method] how many directions are kept: rank = 32",
            )
        if method.format == "pca":
            return principal_components(fit(), method.rank)
        return random_projection(fit(), method.rank, method.seed)

    def _read_arrays(self, width: int) -> Any:
        assert self.folder is not None
        if self.method.path is None:
            raise InterpretationError(
                f"submission {self.name}: format {self.method.format} needs `path`",
                fix='write into [method] where the arrays lie: path = "weights.safetensors"',
            )
        path = self.folder / self.method.path
        if self.method.format == "subspace":
            return Projection(
                **arrays.load(path, {"mean": ("width",), "directions": ("rank", "width")}, width)
            )
        return Codebook(**arrays.load(path, {"centroids": ("entries", "width")}, width))


def open_submission(where: str | Path, ignore_fields: Sequence[str] = ()) -> Submission:
    """The submission at a path, of a baseline's name, in what a format's own library wrote, or on the hub.

    Args:
        where: a folder (or the YAML file of circuit-tracer), a baseline, or `hub:OWNER/REPO:SAE_ID`.
        ignore_fields: of its files, to be passed over where they would be refused; beside those that its
            `submission.toml` names. They are part of what the submission is, and of its hash.

    Raises:
        InterpretationError: if there is none, or its `submission.toml` is malformed.
    """
    with explained(where, InterpretationError):
        found = _opened(str(where))
    return _ignoring(found, ignore_fields) if ignore_fields else found


def _ignoring(found: Submission, names: Sequence[str]) -> Submission:
    """The same with these fields passed over, too."""
    method = found.method.model_dump(exclude_unset=True)
    method["ignore_fields"] = tuple(sorted({*names, *(found.method.ignore_fields or ())}))
    try:
        return found.model_copy(update={"method": Method.model_validate(method)})
    except ValidationError as problem:
        raise InterpretationError(
            f"{found.name}: {first_fault(problem)}", fix="leave out --ignore-field"
        ) from None


def _opened(text: str) -> Submission:
    if text.startswith("hub:"):
        return _on_hub(hub.parse(text[4:]))
    folder = Path(text)
    if not folder.exists() and (project_root() / "baselines" / text.removeprefix("baselines/")).is_dir():
        folder = project_root() / "baselines" / text.removeprefix("baselines/")
    if present(folder) and not folder.is_dir():
        require_file(folder)
    if folder.is_file():
        return _of_file(folder)
    if present(folder / "submission.toml"):
        return _read(folder).fetched()
    for format, reader in FORMATS.items():
        if reader.found_in(folder):
            return _bare(_own_name(folder), Method.model_validate({"format": format, "path": "."}), folder)
    if mib.found_in(folder):
        return _bare(_own_name(folder), Method(format="mib", path="."), folder)
    raise not_found(text, folder, FORMATS)


def _of_file(path: Path) -> Submission:
    """What is read from one file: a list of transcoders, or a circuit."""
    seen = look(path)
    if seen.format is None and circuit_tracer.found_in(path):
        circuit_tracer.require(path)
        base = path.parent
        return _bare(_own_name(base), Method(format="circuit-tracer", path=path.name), base)
    if seen.beside or path.name == "submission.toml":
        raise part_of_folder(path, seen, FORMATS)
    if attribution_graph.found_in(path):
        raise graph_alone(path)
    if eap_ig.found_in(path):
        return _bare(path.stem, Method(format="eap-ig", path=path.name), path.parent)
    raise seen.refused(path)


def _on_hub(address: hub.Address) -> Submission:
    """An SAE on a hub, fetched, and in the format that its folder is found to have."""
    found = hub.fetch(address)
    format = "saelens"  # of what sae-lens lists, it knows the format itself
    if found.folder is not None:
        format = next((name for name, reader in FORMATS.items() if reader.found_in(found.folder)), format)
    place = f"{address.place}:{address.sae_id}"
    method = Method.model_validate({"format": format, "hub": place, "revision": address.revision})
    # The id tells the SAEs of one repository apart, and is kept whole if there is room beside it.
    repository, room = address.place.rpartition("/")[2], LONGEST - 1 - len(address.sae_id)
    short = shortened(repository, room) if room >= _LEAST else repository
    return _bare(f"{short}-{address.sae_id}", method).model_copy(update=found._asdict())


def _open_site(folder: Path, source: SiteSource) -> Submission:
    """The submission of a reconstruction whose latents are nodes of a circuit of features in `folder`."""
    place, where = root_of(folder, source.submission) / source.submission, folder / "submission.toml"
    if not place.exists():
        raise InterpretationError(
            f"{where}: method.sites: there is no {source.submission}",
            fix=f"give a folder in {folder}, or {BENCHMARK}NAME, one that comes with the benchmark",
        )
    described = place / "submission.toml"
    content = read_toml(described, error=InterpretationError) if described.is_file() else {}
    # Before it is read: it might have sites of its own.
    if content.get("kind", "reconstruction") != "reconstruction":
        raise InterpretationError(
            f"{where}: method.sites: {source.submission} is a {content['kind']}",
            fix="name the submission of a reconstruction, such as that of an SAE",
        )
    found = _read(place) if content else open_submission(place)
    if found.kind != "reconstruction" or found.method.hub is not None:
        what = found.kind if found.method.hub is None else "submission that lies on a hub"
        raise InterpretationError(
            f"{where}: method.sites: {source.submission} is a {what}",
            fix="put the files of the SAE into the folder",
        )
    return found


def baselines_for(task: Task) -> list[Submission]:
    """All bundled baselines that fit a task, by name; those on a hub are not fetched yet."""
    found = []
    for path in sorted((project_root() / "baselines").glob("*/submission.toml")):
        tasks = read_toml(path, error=InterpretationError).get("tasks")
        if not tasks or task.id in tasks:  # files of the others are not even looked at
            found.append(_read(path.parent))
    return [submission for submission in found if submission.fits(task)]


def submissions_for(
    loaded: LoadedTask, names: Sequence[str] | None = None, ignore_fields: Sequence[str] = ()
) -> list[Entry]:
    """What is scored on a task: what is named, or all that it brings itself and all baselines that fit it.

    Args:
        loaded: the task.
        names: of what is scored, as `remainder run --with` takes it.
        ignore_fields: of the files of what is named; see `open_submission`.

    Raises:
        InterpretationError: if there is none of that name.
    """
    wrap = object_submission if loaded.task.circuit is None else circuit_submission
    own: dict[str, Entry] = {name: wrap(thing, name) for name, thing in loaded.interpretations.items()}
    if names:
        return [own.get(name) or _open_beside(name, own, ignore_fields) for name in names]
    return [*own.values(), *(submission.fetched() for submission in baselines_for(loaded.task))]


def _open_beside(name: str, own: Mapping[str, Entry], ignore_fields: Sequence[str]) -> Entry:
    try:
        return open_submission(name, ignore_fields)
    except InterpretationError as problem:
        if own and not Path(name).exists():
            raise InterpretationError(
                f"there is no submission {name!r}",
                fix=f"name one of the task's own ({', '.join(own)}), a baseline, or a folder",
            ) from problem
        raise


def _read(folder: Path) -> Submission:
    content = read_toml(folder / "submission.toml", error=InterpretationError)
    if reserved := sorted({"folder", "files", "commit"} & content.keys()):
        raise InterpretationError(
            f"{folder / 'submission.toml'}: {reserved[0]}: this is found, not given", fix="leave it out"
        )
    try:
        submission = Submission(**content, folder=folder)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InterpretationError(
            f"{folder / 'submission.toml'}: {place}: {first_fault(problem)}", fix="correct that field"
        ) from None
    return submission.model_copy(update={"files": _hashes(folder, submission.method)})


def _untold(name: str, task: Task) -> MisfitError:
    """What neither its file nor a submission.toml gives a place would fit any site of its width."""
    return MisfitError(
        f"{name}: its file does not tell at which place of the model it was made, so it is not known "
        f"whether that is the task's site {task.site.hook_out}",
        fix="write the place into the file, as its library does (SAELens: hook_name in cfg.json; "
        "dictionary_learning: trainer.submodule_name); or vouch for it, in a folder with a submission.toml "
        f'that names authors and tasks = ["{task.id}"]',
    )


def _own_name(folder: Path) -> str:
    """A link's own, not that of the store which it leads to."""
    return Path(os.path.normpath(folder.absolute())).name


def _bare(name: str, method: Method, folder: Path | None = None) -> Submission:
    clean = shortened(re.sub(r"[^a-z0-9._-]", "-", name.lower())).strip("-._") or "sae"
    files = {} if folder is None else _hashes(folder, method)
    return Submission(
        name=clean,
        kind="circuit" if method.format in CIRCUIT_FORMATS else "reconstruction",
        title=name,
        authors=(),
        licence="unknown",
        method=method,
        folder=folder,
        files=files,
    )


def _hashes(folder: Path, method: Method) -> dict[str, str]:
    """Hashes of the files that can move a number: the weights and their config."""
    if method.format in ("subspace", "codebook"):
        path = folder / (method.path or "")
        if not present(path):
            raise InterpretationError(
                f"{folder / 'submission.toml'}: method.path: there is no file {path}", fix="name the weights"
            )
        require_weights(path)
        return {path.relative_to(folder).as_posix(): sha256_file(path)}
    if method.format in ("eap-ig", "mib"):
        path = folder / (method.path or ".")
        found = mib.all_files(path) if method.format == "mib" else [path]
        if not found or not all(map(present, found)):
            raise InterpretationError(
                f"{folder / 'submission.toml'}: method.path: there is no circuit at {path}",
                fix="name a .json or .pt file in EAP-IG's format, or MIB's folder of these",
            )
        for file in found:
            eap_ig.require(file)
        return {file.relative_to(folder).as_posix(): sha256_file(file) for file in found}
    if method.sites is not None:
        return _hashes_of_features(folder, method, method.sites)
    if method.format not in FORMATS or method.hub is not None:
        return {}
    paths = FORMATS[method.format].files(folder / (method.path or "."))
    for path in paths:
        require_weights(path)  # gigabytes that are no weights are not read through first
    # What a list of files names elsewhere has no place in the folder, only one in the list.
    names = [
        path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"{number}/{path.name}"
        for number, path in enumerate(paths)
    ]
    return {name: sha256_file(path) for name, path in zip(names, paths, strict=True)}


def _hashes_of_features(folder: Path, method: Method, sites: Sequence[SiteSource]) -> dict[str, str]:
    """Those of scores or graphs, and of all that the interpretations of the sites are read from."""
    where, found = folder / "submission.toml", {}
    if method.path is not None:
        path = folder / method.path
        held = sorted(path.glob("*.json")) if path.is_dir() and method.format == "feature-graph" else [path]
        if not held or not all(file.is_file() for file in held):
            raise InterpretationError(
                f"{where}: method.path: there is no file {path}",
                fix="name the .safetensors file of scores, the .json file of a graph, or a folder of graphs",
            )
        found = {file.relative_to(folder).as_posix(): sha256_file(file) for file in held}
    for source in sites:
        one, root = _open_site(folder, source), root_of(folder, source.submission)
        base = root / source.submission
        files = dict(one.files)
        if base.is_file():
            base = base.parent
        elif (base / "submission.toml").is_file():
            files["submission.toml"] = sha256_file(base / "submission.toml")
        for name, digest in files.items():
            full = (base / name).relative_to(root).as_posix()
            if not (root / full).is_file():
                raise InterpretationError(
                    f"{where}: method.sites: {source.submission} is read from {name}, which lies elsewhere",
                    fix="put all files of the SAE into one folder",
                )
            found[full] = digest
    return found
