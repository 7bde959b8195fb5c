"""A built site on this machine's own address, for a look at it."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from remainder.errors import RecordError

__all__ = ["HOST", "server"]

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder, for GET and HEAD; no listing of folders, nothing outside of it."""

    def send_head(self):  # type: ignore[no-untyped-def]  # as the base class declares it
        root = Path(self.directory).resolve()
        wanted = Path(self.translate_path(urlsplit(self.path).path))
        # A link in the folder may lead out of it; the base class follows it.
        if not wanted.resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path):  # type: ignore[no-untyped-def]  # as the base class declares it
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the terminal holds the address."""


def server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder `site`, bound to `HOST`; call `serve_forever` on it.

    Args:
        port: 0 takes any free one.

    Raises:
        RecordError: there is no site there, or the port is taken.
    """
    if not (site / "index.html").is_file():
        raise RecordError(f"{site}: holds no site", fix="make it with `remainder board build`")
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(site)))
    except (OSError, OverflowError) as error:
        raise RecordError(
            f"port {port} of {HOST} cannot be used ({error})", fix="name another one with --port"
        ) from error
