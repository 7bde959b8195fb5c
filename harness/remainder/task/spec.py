"""The specification of a task: it pins a model, a text, a site, the positions that count, and the splits.

A task is data: `tasks/<family>/<task>/task.toml`, laid over `tasks/<family>/family.toml` where the
tasks of a family share a model and a corpus. Its version is `N-X`: two results are comparable if and
only if they share `N`; `X` moves when only words change. `Task.hash` covers everything that can change
a number, and `tasks/lock.json` holds the hash of every task (`task.lock`), so that no number can change
silently.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from remainder.base.files import present, read_toml
from remainder.base.messages import placed_fault
from remainder.base.paths import cache_root, is_within, machine_paths, project_root
from remainder.base.plugins import TASKS, plugin_folder, registered
from remainder.base.resolve import resolve
from remainder.errors import TaskError
from remainder.task.kinds import TaskKind, kind_with
from remainder.task.parts import (
    ANYWHERE,
    SIZES,
    BuildSpec,
    CircuitSpec,
    CorpusSpec,
    ModelSpec,
    PartsSpec,
    Positions,
    Site,
    SourceWheel,
    SplitSpec,
    TaskPart,
    TermsSpec,
    Tier,
    WheelSpec,
)

__all__ = [
    "ADHOC",
    "ANYWHERE",
    "DEMO",
    "PROTOCOL",
    "SIZES",
    "BuildSpec",
    "CircuitSpec",
    "CorpusSpec",
    "ModelSpec",
    "PartsSpec",
    "Positions",
    "Site",
    "SourceWheel",
    "SplitSpec",
    "Task",
    "TermsSpec",
    "TextSource",
    "Tier",
    "WheelSpec",
    "is_task",
    "list_tasks",
    "load_task",
]


PROTOCOL = "2"
"""The protocol that this package measures by. Records of others are read and shown, never recomputed."""

ADHOC = "adhoc"
"""The suite of tasks that are made of somebody's own model, hook and text; see `task.adhoc`."""

DEMO = "demo"
"""The tier that every text has without naming it: for a first table, and for no board."""

_LETTERS = 12  # of a hash, at the end of an id

_ID = r"\w[\w.-]*/\w[\w.-]*"


_WORDS = ("name", "licence", "attribution", "left_out", "data", "data_licence", "expected")
"""Fields of a task's tables that can change no number."""

_DEMO_TIER = Tier(evaluation_windows=8, calibration_windows=16, fit_windows=16, pairs=1, dtype="float32")


class TextSource(NamedTuple):
    """A text as records state it."""

    source: str
    sha256: str | None


class Task(TaskPart):
    """A pinned, versioned measurement. Load one with `load_task`."""

    id: str
    version: str = Field(pattern=r"^[1-9]\d*-[A-Z]$")
    title: str
    description: str
    variant_of: str | None = Field(
        default=None, description="id of the task at the same site of the same model, on another text"
    )
    model: ModelSpec
    build: BuildSpec | None = None
    corpus: CorpusSpec | None = None
    evaluated: CorpusSpec | None = Field(
        default=None, description="another text, of which the evaluation split is; `corpus` gives the others"
    )
    splits: SplitSpec | None = None
    positions: Positions | None = None
    circuit: CircuitSpec | None = None
    site: Site
    seed: int
    rungs: tuple[str, ...]
    tiers: dict[str, Tier]
    protocol: Literal["2"] = "2"

    @property
    def kind(self) -> TaskKind:
        """The kind of this task, which names the code that measures it."""
        return kind_with([name for name in type(self).model_fields if getattr(self, name) is not None])

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        self.kind.require(self)
        return self

    @model_validator(mode="after")
    def _without_demo(self) -> Task:
        if DEMO in self.tiers:
            raise ValueError(f"tiers: every text has a tier {DEMO} already; choose another name")
        return self

    @model_validator(mode="after")
    def _of_one_tokenizer(self) -> Task:
        if self.evaluated is None:
            return self
        if self.corpus is None:
            raise ValueError("[evaluated] is another text than [corpus], which is missing")
        for name in ("window", "bos", "special_tokens"):
            if getattr(self.evaluated, name) != getattr(self.corpus, name):
                raise ValueError(f"[evaluated]: `{name}` differs from that of [corpus]: one model reads both")
        if None in (self.evaluated.tokens_sha256, self.corpus.tokens_sha256):
            raise ValueError("[corpus] and [evaluated] both need `tokens_sha256`")
        return self

    @model_validator(mode="after")
    def _public(self) -> Task:
        # Every record holds these. Checked here, since a record with a path of this machine would be refused
        # only after everything is measured.
        stated = {
            "model": {"source": self.model.source, "revision": self.model.revision},
            "build": {"data": None if self.build is None else self.build.data},
            "tiers": dict.fromkeys(self.tiers, ""),
        }
        for place, text in machine_paths({"id": self.id, **stated}):
            raise ValueError(
                f"{place}: {text!r} holds an absolute path, and records are public: leave it out"
            )
        return self

    @property
    def suite(self) -> str:
        """The name of the folder that related tasks share."""
        return self.id.split("/")[0]

    @property
    def ladder(self) -> Literal["exact", "coded"]:
        """The reconstruction that the rungs are measured of: of exact codes, or of codes that are paid for.

        Values that are known beforehand (`build.expected`) are of exact codes, and a circuit has none.
        """
        known = self.build is not None and self.build.expected is not None
        return "exact" if known or not self.kind.has_residual else "coded"

    @property
    def gives_places(self) -> bool:
        """Whether places are given: its model is a public pretrained one. Others check the measurement."""
        model = self.model
        return not self.is_adhoc and any(place is not None for place in (model.wheel, model.parts, model.hub))

    @property
    def is_adhoc(self) -> bool:
        """Whether it was made of somebody's own model, hook and text: such tasks are on no public board."""
        return self.suite == ADHOC

    @property  # not cached: `model_copy` would take the old one along
    def hash(self) -> str:
        """SHA-256 over everything that can change a number (titles, names and descriptions cannot).

        Token ids that are pinned by their own hash are the same however they are fetched, so that neither the
        reader nor the wheel of their text counts; nor does the folder of this machine from which pinned
        weights were read. What is absent is left out: a field that a later version of
        this package adds moves no hash of a task without it.
        """
        words = {"title": True, "description": True, "version": True, "variant_of": True}
        content = self.model_dump(mode="json", exclude=words, exclude_none=True)
        for part in ("model", "corpus", "evaluated", "build"):
            for name in (*_WORDS, "terms") if part == "model" else _WORDS:
                content.get(part, {}).pop(name, None)
        for part in ("corpus", "evaluated"):
            if content.get(part, {}).get("tokens_sha256") is not None:
                for name in ("reader", "wheel", "sources"):
                    content[part].pop(name, None)
        if self.model.is_local and self.model.weights_sha256 is not None:
            del content["model"]["hub"]
        content |= {"major": self.major, "ladder": self.ladder}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def content_id(self) -> str:
        """The first letters of the hash of all but its id, which the ids of ad-hoc tasks end in."""
        return self.model_copy(update={"id": ADHOC}).hash[:_LETTERS]

    @property
    def text(self) -> TextSource | None:
        """The origin of its text, and the hash of its token ids, as its records state them."""
        if self.corpus is None or self.evaluated is None:
            return None if self.corpus is None else TextSource(self.corpus.source, self.corpus.tokens_sha256)
        both = [self.corpus.tokens_sha256, self.evaluated.tokens_sha256]
        return TextSource(
            f"{self.corpus.source}; evaluated on {self.evaluated.source}",
            hashlib.sha256("|".join(map(str, both)).encode()).hexdigest(),
        )

    @property
    def major(self) -> int:
        """The `N` of `N-X`: results are comparable if and only if they share it."""
        return int(self.version.split("-")[0])

    def tier(self, name: str) -> Tier:
        """The tier called `name`.

        Raises:
            TaskError: if this task has no such tier.
        """
        if name not in self.every_tier:
            raise TaskError(
                f"task {self.id} has no tier {name!r}", fix=f"choose one of: {', '.join(self.every_tier)}"
            )
        return self.every_tier[name]

    @property
    def every_tier(self) -> dict[str, Tier]:
        """The tiers by name: those that its file names, and first that of a demonstration if it is a text."""
        return self.tiers if self.corpus is None else {DEMO: _DEMO_TIER, **self.tiers}

    @property
    def demo_documents(self) -> int:
        """Number of evaluation documents of the tier `demo`: a window of each, or all that there are."""
        most = _DEMO_TIER.evaluation_windows
        return most if self.splits is None else min(most, self.splits.evaluation)


def list_tasks(suite: str | None = None) -> list[str]:
    """Sorted ids of all tasks that come with this installation, or of those in one suite.

    Raises:
        TaskError: if there is no such suite.
    """
    root = project_root() / "tasks"
    known = sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/*/task.toml"))
    if suite is None:
        return known
    chosen = [name for name in known if name.startswith(f"{suite}/")]
    if not chosen:
        suites = sorted({name.split("/")[0] for name in known})
        raise TaskError(f"there is no suite {suite!r}", fix=f"choose one of: {', '.join(suites)}")
    return chosen


def is_task(name: str) -> bool:
    """Whether `name` is the id of a task that comes with this installation or was kept when it was made, or
    the folder of one."""
    return name in list_tasks() or present(Path(name) / "task.toml") or _kept(name) is not None


def load_task(name: str | Path | Task) -> Task:
    """Load a task by id (`family/task`) or by the path of a folder that holds a `task.toml`.

    An id that no task of this installation has may be one that another package registers in the group
    `remainder.tasks`, whose object is the path of such a folder.

    Raises:
        TaskError: if there is no such task (the nearest names are offered) or its file is malformed.
    """
    if isinstance(name, Task):
        return name
    if not isinstance(name, (str, Path)):
        raise TaskError(f"the task is {name!r}", fix="give its id (SUITE/TASK) or the path of its folder")
    folder = project_root() / "tasks" / name
    identifier = str(name)
    if identifier not in list_tasks():
        folder = Path(name).resolve()
        if (folder / "task.toml").is_file():
            identifier = "/".join(folder.parts[-2:])
        elif (kept := _kept(identifier)) is not None:
            folder = kept
        elif (of_package := plugin_folder(TASKS, identifier, "task.toml", TaskError)) is not None:
            if not re.fullmatch(_ID, identifier):
                raise TaskError(
                    f"a package registers the task {identifier!r}, which is no id",
                    fix="register it as SUITE/TASK, of letters, digits and '_-.'",
                )
            folder = of_package
        else:
            raise _unknown(identifier)
    family = folder.parent / "family.toml"
    own = read_toml(folder / "task.toml")
    saved = own.pop("id", None)
    shared = read_toml(family) if family.is_file() and saved is None else {}
    kind = kind_with(own)
    shared = {name: part for name, part in shared.items() if name not in kind.not_shared}
    content = {**shared, **own}
    if "id" in shared or not (saved is None or str(saved).startswith(f"{ADHOC}/")):
        raise TaskError(f"{folder / 'task.toml'}: id: the place of its folder is its id", fix="remove `id`")
    for table, reserved in (
        ("build", {"folder", "sha256"}),
        ("circuit", {"file", "sha256", "folder"}),
        ("corpus", {"folder"}),
        ("evaluated", {"folder"}),
    ):
        if isinstance(content.get(table), dict) and (given := sorted(reserved & content[table].keys())):
            where = f"{folder / 'task.toml'}: {table}.{given[0]}"
            raise TaskError(f"{where}: this is found, not given", fix=f"remove `{given[0]}`")
    if isinstance(content.get("build"), dict):
        content["build"] |= {"folder": folder, "sha256": _hashes(folder, content["build"])}
    if isinstance(content.get("circuit"), dict):
        content["circuit"] |= _behaviour(folder, content["circuit"])
    for name in ("corpus", "evaluated"):
        if isinstance(content.get(name), dict) and content[name].get("reader") == "tokens":
            content[name] |= {"folder": folder}
    try:
        spec: type[Task] = resolve(kind.spec)
        task = spec(id=saved or identifier, **content)
    except ValidationError as problem:
        raise TaskError(
            f"{folder / 'task.toml'}: {placed_fault(problem)}",
            fix="correct that field; the tasks of this package are complete examples",
        ) from None
    if saved is not None and not saved.endswith(task.content_id):
        raise TaskError(
            f"{folder / 'task.toml'} was edited since it was saved: its id {saved} is of other content",
            fix="let `remainder score --save-task` write it anew, or remove `id`: then it is your own task",
        )
    return task


def _kept(identifier: str) -> Path | None:
    """The folder in the cache where an ad-hoc task was kept when it was made."""
    folder = cache_root() / identifier
    found = identifier.startswith(f"{ADHOC}/") and is_within(identifier) and (folder / "task.toml").is_file()
    return folder if found else None


def _hashes(folder: Path, build: dict[str, Any]) -> dict[str, str]:
    """Hashes of the script and files of a task, by path relative to its folder."""
    names = [str(build.get("script", "")), *map(str, build.get("files", []))]
    hashes = {}
    for name in names:
        path = folder / name
        if not name or Path(name).is_absolute() or not path.is_file():
            raise TaskError(
                f"{folder / 'task.toml'}: [build] names {name or 'no script'}, and there is no such file",
                fix="name the script, and files relative to the folder of the task",
            )
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def _behaviour(folder: Path, circuit: dict[str, Any]) -> dict[str, Any]:
    """The path of a behaviour's file, and its hash; or the folder of prompts that lie there."""
    if "behaviour" not in circuit:
        return {"folder": folder} if circuit.get("reader") == "tokens" else {}
    name = str(circuit["behaviour"])
    for path in (folder / name, project_root() / "tasks" / name):
        if path.is_file():
            return {"file": path, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    raise TaskError(
        f"{folder / 'task.toml'}: circuit.behaviour: there is no file {name}",
        fix="name one relative to the folder of the task or to tasks/, such as behaviours/ioi.toml",
    )


def _unknown(name: str) -> TaskError:
    if name.startswith(f"{ADHOC}/"):
        return TaskError(
            f"there is no task {name} here, which somebody made of a model, a hook and a text",
            fix="make it again with `remainder score`, or name the folder that --save-task wrote",
        )
    known = [*list_tasks(), *(one.name for one in registered(TASKS))]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
    return TaskError(
        f"there is no task {name!r}",
        fix=f"did you mean {', '.join(near)}? `remainder tasks` lists all"
        if near
        else "no task is installed",
    )
