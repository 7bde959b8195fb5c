"""Files of what follows from several measurements together, such as a flow or levels.

Such a file is canonical JSON in the one form that `JointFile.write` gives it, and states the SHA-256 of its
own content. Whether it follows from its records is for the module of each kind to check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.json import canonical_json, content_hash, write_atomically
from remainder.record.number import FrozenModel
from remainder.record.store import StoredRecord, read_record

__all__ = ["JointFile"]

Content = TypeVar("Content", bound=FrozenModel)

_LARGEST = 1_000_000  # bytes; a flow of ten shells has two thousand, levels of seven have ten thousand


@dataclass(frozen=True)
class JointFile(Generic[Content]):
    """One kind of such files."""

    model: type[Content]
    command: str
    """The command of `remainder` that writes them."""
    nothing: str
    """The words for another file: "is no flow"."""

    @property
    def ending(self) -> str:
        """The ending of their names."""
        return f".{self.command}"

    @property
    def hash_field(self) -> str:
        """The field that states the hash of everything else."""
        return f"{self.command}_id"

    @property
    def fix(self) -> str:
        """The sentence that says how to mend a file that is at fault."""
        return (
            f"restore it as it was written, or run `remainder {self.command}` again, which finds its records"
        )

    def id(self, content: Content) -> str:
        """The hash of a content, which its file states."""
        return content_hash(content.model_dump(mode="json"))

    def write(self, content: Content, path: Path) -> Path:
        """Write it whole or not at all; gives the path."""
        write_atomically(path, self._written(content))
        return path

    def read(self, path: Path) -> Content:
        """The content of a file, its own hash verified; records that it names are not looked at.

        Raises:
            RecordError: the file is damaged or was edited.
        """
        require_file(path, most=_LARGEST, error=RecordError)
        try:
            data = path.read_bytes()
            stored: dict[str, Any] = json.loads(data)
            stated = stored.pop(self.hash_field)
            content = self.model.model_validate(stored)
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as problem:
            raise self.fault(path, f"{self.nothing} ({message_of(problem)})") from problem
        if self.id(content) != stated:
            raise self.fault(path, "its content is not that of its hash: it was edited")
        if self._written(content) != data:
            raise self.fault(path, f"is not in the one form that {self.ending} files are written in")
        return content

    def fault(self, path: Path, what: str) -> RecordError:
        """An error that says what is wrong with a file, and what mends it."""
        return RecordError(f"{path}: {what}", fix=self.fix)

    def record(self, path: Path, record_id: str, what: str) -> StoredRecord:
        """A record that a file names, from the folders beside the file.

        Args:
            what: the part of the content that it is the record of, for a message.

        Raises:
            RecordError: it is missing or at fault.
        """
        found = sorted(path.parent.glob(f"*/{record_id}.json"))
        if not found:
            raise self.fault(
                path,
                f"{what} is missing: there is no record {record_id[:12]}… in the folders beside it",
            )
        return read_record(found[0])

    def beside(self, record: Path) -> list[Path]:
        """The files that name a record, which lies in the folder of its submission; sorted."""
        found = []
        for path in sorted(record.parent.parent.glob(f"*{self.ending}")):
            held = path.is_file() and path.stat().st_size <= _LARGEST
            if held and record.stem.encode() in path.read_bytes():
                found.append(path)
        return found

    def schema(self) -> dict[str, Any]:
        """The JSON schema of such a file."""
        schema = self.model.model_json_schema()
        schema["properties"][self.hash_field] = {
            "description": "SHA-256 of the canonical JSON of everything else.",
            "pattern": "^[0-9a-f]{64}$",
            "type": "string",
        }
        schema["required"] = [*schema["required"], self.hash_field]
        return schema

    def _written(self, content: Content) -> bytes:
        text = canonical_json(
            {**content.model_dump(mode="json"), self.hash_field: self.id(content)}, indent=1
        )
        return f"{text}\n".encode()
