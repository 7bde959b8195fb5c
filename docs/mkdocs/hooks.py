"""Builds the documentation site: pages that lie elsewhere or are made, links, and a check of what was built.

`mkdocs.yml` names this file. Pages of the site are

1. the pages in `docs`, as they are,
2. README.md, CONTRIBUTING.md and CHANGELOG.md,
3. the notebooks, which are not run,
4. the reference, which is made from the package (`reference.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import links
import reference
from address import address
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the checkout -> pages of the site."""
UNLISTED = "More"
"""The section for pages that mkdocs.yml does not list."""

log = get_plugin_logger("remainder")
sources: dict[str, str] = {}
"""Pages of the site that do not lie there in `docs` -> the files that they are made of."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs`, and list those that mkdocs.yml does not."""
    sources.clear()
    for name, page in FROM_ROOT.items():
        text = links.OUTSIDE.sub("", (ROOT / name).read_text(encoding="utf-8"))
        _add(files, config, page, text, name)
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = from_notebook((ROOT / "docs" / file.src_uri).read_text(encoding="utf-8"), file.name)
        _add(files, config, file.src_uri.replace(".ipynb", ".md"), text, f"docs/{file.src_uri}")
    for page, text in reference.pages().items():
        _add(files, config, page, text, page)
    _list_the_rest(files, config)
    config.extra["social"] = [
        {"icon": "fontawesome/solid/code-branch", "link": address(), "name": "Repository"}
    ]
    return files


def _add(files: Files, config: MkDocsConfig, page: str, text: str, source: str) -> None:
    files.append(File.generated(config, page, content=text))
    sources[page] = source


def from_notebook(text: str, name: str) -> str:
    """A notebook as Markdown: prose as it is, code as blocks, no outputs; with a link to the file."""
    cells = json.loads(text)["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    title, rest = parts[0].partition("\n")[::2]
    place = f"This page is a notebook: [download it](./{name}.ipynb), or open it in `docs/notebooks`."
    return "\n\n".join([title, place, rest.strip("\n"), *parts[1:], ""])


def _list_the_rest(files: Files, config: MkDocsConfig) -> None:
    """Put pages that mkdocs.yml does not list last: a new page is not lost, and does not break the build."""
    assert config.nav is not None
    listed = set(_named(config.nav))
    rest = [file.src_uri for file in files.documentation_pages() if file.src_uri not in listed]
    if rest:
        log.info(f"not listed in mkdocs.yml, and so put under {UNLISTED!r}: {', '.join(rest)}")
        config.nav.append({UNLISTED: sorted(rest)})


def _named(nav: Any) -> Iterator[str]:
    """All pages that a table of contents names."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(part)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site needs them, and fences without the word that marks a block for the tests."""
    place = page.file.src_uri
    kept = [file.src_uri for file in files if not file.inclusion.is_excluded()]
    pages = {f"docs/{name}": name for name in kept if name not in sources}
    notebook = sources.get(place, "").endswith(".ipynb")
    made = {source: made for made, source in sources.items() if not (notebook and source == sources[place])}
    text = links.each_fence(markdown, lambda line: re.sub(r"^( *```+\w+) run$", r"\1", line))
    source = sources.get(place, f"docs/{place}")
    return links.rewritten(text, source, place, {**pages, **made}, ROOT, address())


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if the built site has a dead link or asks somebody else for anything."""
    found = list(links.faults(Path(config.site_dir)))
    if found:
        raise PluginError("the site was built, but\n  " + "\n  ".join(found))
