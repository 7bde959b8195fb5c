"""Stands in for `gh`: answers from the folder GH_STATE (see `workflow_steps`), and only with a token."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

STATE = Path(os.environ["GH_STATE"])
STATUS = {"A": "added", "M": "modified", "D": "removed", "R": "renamed", "T": "changed"}


def known(name: str) -> Any:
    return json.loads((STATE / f"{name}.json").read_text())


def add(name: str, content: Any) -> None:
    (STATE / f"{name}.json").write_text(json.dumps([*known(name), content]))


def git(*arguments: str) -> str:
    command = ["git", "-C", str(STATE / "o" / "r"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compared(base: str, head: str) -> Any:
    """As GitHub compares: from where both part, renames found, no more than 300 files."""
    parted = git("merge-base", base, head).strip()
    fields = git("diff", "--name-status", "-z", "-M", parted, head).split("\0")[:-1]
    files = []
    while fields:
        kind = fields.pop(0)
        file = {"status": STATUS[kind[0]], "filename": fields.pop(0)}
        if kind[0] == "R":
            file |= {"previous_filename": file["filename"], "filename": fields.pop(0)}
        files.append(file)
    return {"files": files[:300]}


def answer(method: str, path: str, fields: dict[str, str]) -> Any:
    if method == "POST" and (found := re.fullmatch(r"statuses/([0-9a-f]{40})", path)):
        add("statuses", {"sha": found[1], **fields})
        return {}
    assert method == "GET"
    if path == "pulls":
        assert fields["state"] == "open"
        return [
            one
            for one in known("pulls")
            if one["head"]["label"] == fields["head"] and one["base"]["ref"] == fields["base"]
        ]
    if found := re.fullmatch(r"compare/([0-9a-f]{40})\.\.\.([0-9a-f]{40})", path):
        return compared(found[1], found[2])
    if path == "issues/comments?per_page=100":  # of the whole repository
        return known("comments")
    if path == "actions/runs/5/artifacts":
        paths = sorted((STATE / "artifacts").glob("*.zip"))
        return {
            "artifacts": [
                {"id": number, "name": one.stem, "size_in_bytes": one.stat().st_size}
                for number, one in enumerate(paths, 100)
            ]
        }
    raise SystemExit(f"unexpected: gh {' '.join(sys.argv[1:])}")


def api(arguments: list[str]) -> None:
    method, fields, jq, path = "GET", dict[str, str](), None, ""
    while arguments:
        match arguments.pop(0):
            case "--method":
                method = arguments.pop(0)
            case "--raw-field":
                name, _, value = arguments.pop(0).partition("=")
                fields[name] = value
            case "--jq":
                jq = arguments.pop(0)
            case "--paginate":
                pass
            case other:
                path = other.removeprefix("repos/o/r/")
    if found := re.fullmatch(r"actions/artifacts/(\d+)/zip", path):
        paths = sorted((STATE / "artifacts").glob("*.zip"))
        sys.stdout.buffer.write(paths[int(found[1]) - 100].read_bytes())
        return
    text = json.dumps(answer(method, path, fields))
    if jq is not None:
        text = subprocess.run(["jq", "-r", jq], input=text, check=True, capture_output=True, text=True).stdout
    print(text)


if not os.environ.get("GH_TOKEN"):
    raise SystemExit("gh: no token")
if sys.argv[1] == "api":
    assert os.environ["GH_REPO"] == "o/r"
    api(sys.argv[2:])
elif sys.argv[1:3] == ["pr", "comment"]:
    body = Path(sys.argv[5]).read_text(encoding="utf-8")
    add("comments", {"issue": sys.argv[3], "user": {"login": "github-actions[bot]"}, "body": body})
elif sys.argv[1:] != ["auth", "setup-git"]:
    raise SystemExit(f"unexpected: gh {' '.join(sys.argv[1:])}")
