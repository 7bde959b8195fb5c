"""A submission: a folder with `submission.toml` that says what the interpretation is and how it is read.

Every baseline is a submission like any other. `[method] format` names one of the formats of
`remainder.submission.method.FORMATS`: a reader of weights, a reference that is made from moments of the
task's `fit` split, circuits that are read from files or found on the task's `fit` prompts, or circuits of
features, which name the submissions of reconstructions whose latents are their nodes. All of these are data.
One format is code, which is executed only where somebody trusts it, and confined (`submission.code`).

How one is opened: `submission.open`. What can be scored without a folder: `submission.objects`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import Field

from remainder.base.files import explained
from remainder.base.paths import root_of
from remainder.errors import InterpretationError
from remainder.formats import hub
from remainder.formats.eap_ig import Found
from remainder.formats.known import Ignore
from remainder.formats.places import Loaded, MisfitError
from remainder.interpretation.protocol import Adapted, FitMoments
from remainder.submission.description import Description
from remainder.submission.method import Format, submission_hash
from remainder.submission.registry import call, find, format_of
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask
    from remainder.submission.feature_circuits import FoundFeatures

__all__ = ["Entry", "PromptEntry", "SiteEntry", "Submission"]


@runtime_checkable
class Entry(Protocol):
    """Anything that can be scored, and is told apart by name and hash afterwards."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def files(self) -> dict[str, str]: ...
    @property
    def kilobytes(self) -> float | None: ...
    @property
    def family(self) -> str | None: ...
    @property
    def hash(self) -> str: ...
    @property
    def is_pinned(self) -> bool: ...
    @property
    def format_name(self) -> str | None: ...
    def require_fit(self, task: Task) -> None: ...


@runtime_checkable
class SiteEntry(Entry, Protocol):
    """A submission for tasks at a site: it rebuilds activations."""

    def build(self, task: Task, fit: FitMoments) -> Adapted: ...


@runtime_checkable
class PromptEntry(Entry, Protocol):
    """A submission for tasks with prompts: circuits."""

    def circuits(self, loaded: PromptTask, fit_windows: int) -> Found | FoundFeatures: ...


class Submission(Description):
    """The content of `submission.toml`, and the files that belong to it."""

    folder: Path | None = Field(default=None, exclude=True)
    files: dict[str, str] = Field(default_factory=dict, exclude=True)
    is_trusted: bool = Field(
        default=False, exclude=True, description="whether its code may be executed, if it is code"
    )
    commit: str | None = Field(default=None, exclude=True, description="of what lies on a hub, once fetched")

    @staticmethod
    def _find(name: str) -> Format | None:
        return find(name)

    @property
    def kilobytes(self) -> float | None:
        """Size of its files, of 1,000 bytes each; None if it has none in its folder."""
        if self.folder is None or not self.files:
            return None
        paths = [root_of(self.folder, name) / name for name in self.files]
        return sum(path.stat().st_size for path in paths) / 1000 if all(map(Path.is_file, paths)) else None

    @property
    def format(self) -> Format:
        """The line of its format in the registry."""
        return format_of(self.method.format)

    @property
    def format_name(self) -> str:
        """Name of its format, which records state."""
        return self.method.format

    @property
    def hash(self) -> str:
        """SHA-256 over the settings and the hash of every file whose content can change a score."""
        return submission_hash(self.method, self.files)

    @property
    def is_bare(self) -> bool:
        """Whether it is weights alone, without a submission.toml in which somebody vouches for them."""
        return not self.authors

    @property
    def is_on_hub(self) -> bool:
        """Whether its files lie on a hub, and not in its folder."""
        return self.method.get("hub") is not None

    @property
    def is_pinned(self) -> bool:
        """Whether the hash says everything: what lies on a hub is known when it has been fetched."""
        return not self.is_on_hub or bool(self.files)

    def fetched(self) -> Submission:
        """Fetch and hash the files of a submission that lies on a hub; any other is given back as it is.

        Raises:
            AssetError: if the hub does not give them.
            InterpretationError: if there is no such SAE there.
        """
        if self.is_pinned:
            return self
        address = hub.parse(self.method.get("hub"), self.method.get("revision"))
        return self.model_copy(update=hub.fetch(address)._asdict())

    def require_fit(self, task: Task) -> None:
        """Raise InterpretationError if it is of another kind than `task` scores, or was made for others."""
        task.kind.require_scored(self.name, self.kind, task.id)
        if not self.fits(task) and not task.is_adhoc:  # which nobody could name before it was made
            raise InterpretationError(
                f"submission {self.name} was made for {', '.join(self.tasks)}, not for {task.id}",
                fix="run it on one of those tasks, or add this one to `tasks` in its submission.toml",
            )

    def build(self, task: Task, fit: FitMoments) -> Adapted:
        """The interpretation, ready for the task's site.

        Raises:
            InterpretationError: if it was made for another task or width, or its weights are unusable.
        """
        self.require_fit(task)
        with explained(self.folder, InterpretationError):
            fetched = self.fetched()
            loaded = fetched.load(task, fit)
        if not loaded.stated and self.is_bare and not task.is_adhoc:  # there the hook was named by hand
            raise _without_site(self.name, task)
        warnings = tuple(map(fetched._named_from_folder, loaded.warnings))
        return loaded._replace(warnings=warnings).adapted(task.site.width, self.name)

    def circuits(self, loaded: PromptTask, fit_windows: int) -> Found | FoundFeatures:
        """The circuits, on the graph of the task's model or on latents at sites of it; methods that look for
        one do so on `fit` prompts.

        Raises:
            InterpretationError: if it was made for another task or architecture, or a file is not sound.
        """
        self.require_fit(loaded.task)
        found: Found | FoundFeatures = call(self.format, "make", self, loaded, fit_windows)
        return found._replace(notes=tuple(map(self._named_from_folder, found.notes)))

    def load(self, task: Task, fit: FitMoments) -> Loaded:
        """Call the reader or maker of its format; its files must be at hand (`fetched`)."""
        row, method = self.format, self.method
        if row.make is not None:
            made: Loaded = call(row, "make", self, task, fit)
            return made
        ignore = Ignore(frozenset(method.get("ignore_fields") or ()))
        if self.folder is None:  # a release of sae-lens's list, whose files may lie in several repositories
            address = hub.parse(method.get("hub"), method.get("revision"))
            release = hub.load_release(address._replace(revision=self.commit), task, ignore)
            return ignore.noted(release, self.name)
        path = self.folder / (method.place or ".")
        if self.is_on_hub:
            self._refuse_others(path, row)
        return ignore.noted(call(row, "read", path, task, ignore), self.name)

    def _refuse_others(self, folder: Path, row: Format) -> None:
        """A list of files that came from a hub names no others: these were neither fetched nor hashed."""
        paths = [] if row.files is None else call(row, "files", folder)
        if others := [path for path in paths if path.parent != folder]:
            raise InterpretationError(
                f"submission {self.name}: {others[0]} lies outside of the folder that was fetched",
                fix="if you trust that list, download the repository and give its folder on this machine",
            )

    def _named_from_folder(self, text: str) -> str:
        """Shorten the paths in a reader's words to begin in this folder: records are public."""
        for folder in () if self.folder is None else (self.folder, self.folder.resolve()):
            text = text.replace(f"{folder}/", "")
        return text


def _without_site(name: str, task: Task) -> MisfitError:
    """The error for weights whose place neither their file nor a submission.toml gives.

    Any site of their width would do for them, and nobody would stand for the choice.
    """
    return MisfitError(
        f"{name}: its file does not tell at which place of the model it was made, so it is not known "
        f"whether that is the task's site {task.site.hook_out}",
        fix="write the place into the file, as its library does (SAELens: hook_name in cfg.json; "
        "dictionary_learning: trainer.submodule_name); or vouch for it, in a folder with a submission.toml "
        f'that names authors and tasks = ["{task.id}"]',
    )
