"""A Hugging Face hub on this machine: the part of its protocol that huggingface-hub uses to fetch files.

It serves folders. As on the real hub, each change of a repository is a commit; weights are large files, which
are answered with a redirection to another place; and what went wrong stands in `X-Error-Code`.
Source: https://huggingface.co/docs/hub/api and the requests that huggingface-hub makes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["Hub", "Request", "serving"]

_LARGE = {".safetensors", ".npz", ".pt", ".bin"}


class Request(NamedTuple):
    """One that was answered."""

    method: str
    path: str


@dataclass
class Repository:
    """Commits, oldest first: hash -> path -> content."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    """That is needed to read it, if it is gated."""

    def at(self, revision: str) -> str | None:
        """The commit that a revision means, if there is one."""
        if revision == "main":
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """What is served, and what was asked for."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)
    """Bytes that a file of this name is listed with, if not its own."""
    cut: int | None = None
    """Bytes after which a large file ends, whatever length was announced."""
    status: int | None = None
    """Of every answer, if the hub is out of order."""

    def add(self, repo: str, folder: Path, *, token: str | None = None) -> str:
        """Commit the files of a folder as all that the repository holds; gives the commit's hash."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        repository = self.repositories.setdefault(repo, Repository())
        repository.token = token
        digest = hashlib.sha1(f"{repo}|{len(repository.commits)}".encode())
        for name, content in files.items():
            digest.update(name.encode() + content)
        repository.commits[digest.hexdigest()] = files
        return digest.hexdigest()

    def downloads(self) -> list[str]:
        """Paths of files that were sent, and not only asked about."""
        return [path for method, path in self.requests if method == "GET" and not path.startswith("/api/")]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers on the loopback interface for as long as the block lasts."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(Request(self.command, path))
        if self.served.status is not None:
            return self._send(self.served.status)
        if found := re.fullmatch(r"/large/([0-9a-f]{64})", path):
            return self._send_large(found[1])
        # Data sets are repositories whose names begin with `datasets/`.
        about = (
            r"/api/(?:models/|(?=datasets/))((?:datasets/)?[^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.*)?)?"
        )
        if found := re.fullmatch(about, path):
            return self._send_about(found[1], found[2] or "revision", found[3] or "main", found[4] or "/")
        if found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._send_file(*found.groups())
        return self._send(404)

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files; if there is none, or it may not be read, that is answered."""
        repository = self.served.repositories.get(repo)
        if repository is None:  # to whom has no token, the real hub does not say which of the two it is
            self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        token = repository.token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            message = f"Access to model {repo} is restricted and you are not in the authorized list."
            self._send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
            return None
        commit = repository.at(revision)
        if commit is None:
            message = f"Invalid rev id: {revision}"
            self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": message})
            return None
        return commit, repository.commits[commit]

    def _send_about(self, repo: str, what: str, revision: str, folder: str) -> None:
        if (found := self._commit(repo, revision)) is None:
            return
        commit, files = found
        if what == "tree":
            below = {name: content for name, content in files.items() if f"/{name}".startswith(folder)}
            body: Any = [self._entry(name, content) for name, content in below.items()]
        else:
            siblings = [{"rfilename": name} for name in files]
            body = {"id": repo, "modelId": repo, "sha": commit, "private": False, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _send_file(self, repo: str, revision: str, name: str) -> None:
        if (found := self._commit(repo, revision)) is None:
            return
        commit, files = found
        if name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, {**headers, "X-Repo-Commit": commit})
        content = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_blob(content)}"'}
        if Path(name).suffix not in _LARGE:
            return self._send(200, headers, content)
        sha256 = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        # On another host, as with the real hub: a redirection to the same one is followed at once.
        place = self.served.url.replace("127.0.0.1", "localhost")
        self._send(302, {**headers, "Location": f"{place}/large/{sha256}"})

    def _send_large(self, sha256: str) -> None:
        everything = (
            content
            for repository in self.served.repositories.values()
            for files in repository.commits.values()
            for content in files.values()
        )
        content = next(one for one in everything if hashlib.sha256(one).hexdigest() == sha256)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, end = int(asked[1]) if asked else 0, len(content)
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{end}"} if asked else {}
        self._send(206 if asked else 200, headers, content[start : self.served.cut])

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.served.claimed.get(name, len(content))
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": _blob(content)}
        if Path(name).suffix in _LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
        return entry

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _blob(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
