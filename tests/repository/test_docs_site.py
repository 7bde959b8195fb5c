"""The documentation site: it builds strictly, asks nobody for anything, fits a phone; marked commands run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs.mkdocs import links

from remainder.base.paths import project_root
from remainder.board.serve import server

pytestmark = pytest.mark.slow

ROOT = project_root()
SITE = pytest.mark.needs("mkdocs")
MARKED = re.compile(r"^```(sh|console|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if MARKED.search(path.read_text())
]


def environment() -> dict[str, str]:
    """As in a shell in which the package is installed."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**own, "PATH": path, "PYTHONPATH": str(ROOT / "harness"), "COLUMNS": "80", "MPLBACKEND": "agg"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**environment(), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site."""
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
        thread.join()


@SITE
def test_the_site_has_a_page_for_everything(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {
        "index.html",
        "contributing.html",
        "notebooks/a-circuit.html",
        "reference/python/score.html",
    } <= pages
    text = (site / "reference/python/score.html").read_text(encoding="utf-8")
    assert 'id="remainder.evaluate"' in text
    assert not [*site.rglob("*.safetensors"), *site.rglob("*.py")]
    assert (site / "notebooks/a-circuit.ipynb").is_file()
    assert list(links.faults(site)) == []  # the build has looked, too


@SITE
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_pages_fit_and_ask_nobody_else(browser: Any, served: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(120_000)  # a machine that is busy is no fault of a page
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in ("index", "score-your-sae", "validation", "reference/commands", "reference/python/score"):
        page.goto(f"{served}{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").first.is_visible()
    assert (
        page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    )
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


@SITE
def test_search_finds_a_function(browser: Any, served: str) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{served}index.html")
    page.get_by_role("textbox", name="Search").fill("evaluate_all")
    found = page.locator(".md-search-result__link").first
    found.wait_for()
    hrefs = [link.get_attribute("href") for link in page.locator(".md-search-result__link").all()]
    assert any("reference/python/score.html" in str(href) for href in hrefs), hrefs
    page.context.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_marked_commands_run(page: Path, tmp_path: Path) -> None:
    """One after another, in a repository that begins as the page's folder of `docs/examples`."""
    example = ROOT / "docs" / "examples" / page.stem
    if example.is_dir():
        shutil.copytree(example, tmp_path, dirs_exist_ok=True)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for language, block in MARKED.findall(page.read_text(encoding="utf-8")):
        words = [sys.executable, "-c", block] if language == "python" else ["bash", "-euc", block]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
