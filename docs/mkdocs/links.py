"""Links of pages: to each other, to other files of the repository, and whether they lead anywhere.

Pages link to files as they lie in the checkout, so that the links work there and where the repository is
browsed. On the site a link to a page stays one, and a link to any other file leads to the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from urllib.parse import unquote, urlsplit

CODE_OR_LINK = re.compile(
    r"(?P<fence>^(?P<indent> *)(?P<ticks>```+)[^\n]*\n.*?^ *(?P=ticks) *$)"
    r"|(?P<code>(?P<tick>`+)(?:(?!\n\n).)+?(?P=tick))"
    r"|(?P<before>\]\(|^\[[^\]\n]+\]: +|\b(?:href|src)=\")(?P<target>[^)\s\"]+)",
    re.MULTILINE | re.DOTALL,
)
_ELSEWHERE = r"(?:https?:|\.\./\.\./actions/)[^)]*"
_PICTURE = rf"!\[[^\]]*\]\({_ELSEWHERE}\)"
OUTSIDE = re.compile(rf"(?:\[{_PICTURE}\]\([^)]*\)|{_PICTURE})\s?")
"""Pictures that lie elsewhere, such as badges, some where the repository is browsed: the site asks nobody."""
ASKED_FOR = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
NOT_ASKED_FOR = {"canonical", "alternate", "next", "prev", "edit"}


def rewritten(text: str, source: str, page: str, pages: dict[str, str], root: Path, address: str) -> str:
    """The text of a page with links as the site needs them.

    Args:
        text: Markdown.
        source: the file that it was read from, relative to the checkout.
        page: the place of the page among the site's pages.
        pages: files of the checkout that the site has -> their places on the site.
        root: the checkout.
        address: of the repository.
    """

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or urlsplit(target).scheme or target.startswith(("#", "/")):
            return match[0]
        path, hash_sign, anchor = target.partition("#")
        file = normpath(join(dirname(source), path))
        if file in pages:
            return f"{match['before']}{relpath(pages[file], dirname(page) or '.')}{hash_sign}{anchor}"
        if (root / file).exists() and not file.startswith(".."):
            kind = "tree" if (root / file).is_dir() else "blob"
            return f"{match['before']}{address}/{kind}/main/{file}{hash_sign}{anchor}"
        return match[0]  # a strict build names it

    return CODE_OR_LINK.sub(replace, text)


class _Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ASKED_FOR and ASKED_FOR[tag] in given and given.get("rel") not in NOT_ASKED_FOR:
            self.fetched.append(given[ASKED_FOR[tag]])


def faults(site: Path) -> Iterator[str]:
    """Links and pictures of a built site that lead nowhere, and whatever is fetched from elsewhere."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.as_posix() == "404.html":
            continue  # it is shown at any address, so that its links cannot be followed from the file
        for link in page.fetched:
            if urlsplit(link).netloc:
                yield f"{name}: {link} is fetched from elsewhere"
        for link in (*page.links, *page.fetched):
            if not (urlsplit(link).scheme or urlsplit(link).netloc) and (fault := _dead(path, link, pages)):
                yield f"{name}: {fault}"
    for path in site.rglob("*.css"):
        for link in re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: {link} is fetched from elsewhere"


def _dead(path: Path, link: str, pages: dict[Path, _Page]) -> str | None:
    """Why a link between pages leads nowhere; None if it does lead somewhere."""
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return f"{link} is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors and not anchor.startswith("__"):
        return f"{link}: no such anchor"
    return None


def each_fence(text: str, change: Callable[[str], str]) -> str:
    """The text with the first line of each fenced block changed."""
    return re.sub(r"^( *```+[^`\n]+)$", lambda match: change(match[1]), text, flags=re.MULTILINE)
