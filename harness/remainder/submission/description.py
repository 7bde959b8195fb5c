"""The content of a `submission.toml`, read and checked without torch and without another package's code.

`verify` reads it as it is here. `check`, `run`, `submit` and `review` open submissions
(`remainder.submission.submission`), which inherit it: there is one set of rules for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from remainder.base.files import brief, present, read_toml
from remainder.base.messages import placed_fault
from remainder.base.paths import baseline, baseline_folders, is_checkout, root_of
from remainder.errors import InterpretationError
from remainder.submission.method import FORMATS, NAME, Format, Kind, Method, read_method
from remainder.task.spec import Task

__all__ = [
    "DESCRIPTION",
    "Description",
    "Training",
    "baselines",
    "comes_with_second_package",
    "read_description",
    "readable",
]

DESCRIPTION = "submission.toml"
"""The file that describes a submission, in its folder."""

_Model = TypeVar("_Model", bound="Description")


class Training(BaseModel):
    """The training of the weights, for whoever wants to make them again; part of no hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    script: str | None = Field(default=None, description="a string: a file of the folder, or an address")
    seed: int | None = Field(default=None, description="a whole number")
    log: str | None = Field(default=None, description="a string: a file of the folder, or an address")

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what is not stated."""
        return tuple(name for name, value in self if value is None)


class Description(BaseModel):
    """The fields of a `submission.toml`; what each must be is said in its description, which errors quote."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME, description="at most 40 of a-z, 0-9, '.', '_' and '-': \"my-sae\"")
    title: str = Field(description='a string, such as "TopK SAE, 512 latents"')
    authors: tuple[str, ...] = Field(description='a list of strings, such as ["Ada Lovelace"]')
    licence: str = Field(description='a string, that of the weights, such as "MIT"')
    paper: str | None = Field(default=None, description="a string, the address of the paper")
    tasks: tuple[str, ...] = Field(default=(), description='a list of strings, such as ["SUITE/TASK"]')
    family: str | None = Field(
        default=None,
        pattern=NAME,
        description="a name as `name` is one, of the method: the same for its submissions to several sites",
    )
    training: Training = Field(
        default=Training(), description="one table, [training], with a `script`, a `seed` and a `log`"
    )
    method: SerializeAsAny[Method] = Field(description="one table, [method], which names a `format`")
    # After `method`, since it is checked against the format.
    kind: Kind = Field(description='"reconstruction", "circuit" or "feature-circuit"')

    @staticmethod
    def _find(name: str) -> Format | None:
        return FORMATS.get(name)

    @field_validator("method", mode="before")
    @classmethod
    def _settings(cls, content: Any) -> Any:
        return read_method(content, cls._find) if isinstance(content, Mapping) else content

    @field_validator("kind")
    @classmethod
    def _kind_of_format(cls, kind: Kind, info: Any) -> Kind:
        method = info.data.get("method")  # None if that is at fault, which is then what is reported
        row = None if method is None else cls._find(method.format)
        if row is not None and kind != row.kind:
            what = f"format {row.name} makes a {row.kind}, and `kind` says {kind}"
            fix = f'write kind = "{row.kind}", or choose a format that makes a {kind}'
            raise PydanticCustomError("kind", "{what}", {"what": what, "fix": fix})
        return kind

    def fits(self, task: Task) -> bool:
        """Whether it was made for `task`, or for the one that it is a variant of; naming none, for all."""
        made_for = not self.tasks or task.id in self.tasks or task.variant_of in self.tasks
        return self.kind in task.kind.submissions and made_for


def read_description(place: Path, model: type[_Model], **more: Any) -> _Model:
    """The description in the `submission.toml` of a folder.

    Args:
        place: the folder that holds the file.
        model: `Description`, or a class that adds to it.
        more: values of what `model` adds.

    Raises:
        InterpretationError: the file is missing, no TOML, or a field is missing, wrong or unknown.
    """
    where, own = place / "submission.toml", Description.model_fields
    content = read_toml(where, error=InterpretationError)
    if strange := sorted(content.keys() - own.keys()):
        what = f"{where}: {brief(strange[0])[1:-1]}: there is no such field; there are {', '.join(own)}"
        raise InterpretationError(what, fix="leave it out")
    try:
        return model(**content, **more)
    except ValidationError as problem:
        fault = problem.errors()[0]
        what, name = placed_fault(problem), str(fault["loc"][0])
        # What pydantic says of a field is replaced; our own words, and those on settings, are kept.
        if fault["type"] not in {"kind", "value_error"} and fault["loc"][:2] in {(name,), (name, 0)}:
            stated = "it is missing" if fault["type"] == "missing" else f"it is {brief(fault['input'])}"
            what = f"{name}: {stated}; expected {own[name].description}"
        fix = fault.get("ctx", {}).get("fix", "correct that field")
        raise InterpretationError(f"{where}: {what}", fix=fix) from None


def readable(folder: Path) -> list[Path]:
    """Files of a folder that code in it can read: all but its submission.toml, whose settings are hashed as
    such, and what is hidden or a cache. Links are among them."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if (parts := path.relative_to(folder).parts) != (DESCRIPTION,)
        and "__pycache__" not in parts
        and not any(part.startswith(".") for part in parts)
        and (path.is_symlink() or not path.is_dir())
    ]


def baselines(task: Task) -> list[tuple[Path, Description]]:
    """The folders of all bundled baselines that fit a task, by name, and what the file in each says."""
    described = [(place, read_description(place, Description)) for place in baseline_folders().values()]
    return [(place, found) for place, found in described if found.fits(task)]


def comes_with_second_package(folder: Path, described: Description) -> bool:
    """Whether a baseline, or one that it is made of, lacks files here, which `SECOND_PACKAGE` has.

    In a checkout none do: what is missing there was removed.
    """
    if is_checkout() or folder != baseline(folder.name):
        return False
    place, sites = described.method.place, described.method.get("sites") or ()
    if place is not None and not present(folder / place):
        return True
    parts = [root_of(folder, source.submission) / source.submission for source in sites]
    return any(
        comes_with_second_package(part, read_description(part, Description))
        for part in parts
        if present(part / "submission.toml")
    )
