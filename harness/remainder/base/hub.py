"""Files of a repository on the Hugging Face hub, through huggingface-hub's own download and cache.

1. `snapshot` fetches the files of one revision that match some patterns, and says which commit that was.
   Files that the cache holds are not requested again; if the revision is a commit, not even its name.
2. `explained` turns whatever the hub, the network or the cache raises into one message with a way to mend it.
3. `Allowance` bounds what an address that somebody else wrote can make this machine download: the sizes that
   the hub lists are added up before the first byte of a file is asked for.

Source of the protocol: https://huggingface.co/docs/huggingface_hub/guides/download. huggingface-hub reads
`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` when it is imported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.cache import Progress, silent
from remainder.base.messages import message_of
from remainder.base.paths import gigabytes
from remainder.errors import AssetError, RemainderError

__all__ = ["Allowance", "HubSnapshot", "explained", "repository_files", "snapshot"]

_LIMIT = "REMAINDER_HUB_GB"


class HubSnapshot(NamedTuple):
    """Files of a repository as they were at one commit."""

    repo: str
    commit: str
    folder: Path


@dataclass
class Allowance:
    """Bytes that the files of one submission may make this machine download."""

    most: float = math.inf
    taken: int = 0

    @classmethod
    def of_environment(cls) -> Allowance:
        """The allowance that `REMAINDER_HUB_GB` states in gigabytes; without it there is no limit.

        Raises:
            AssetError: if that is not a number above 0.
        """
        return cls(gigabytes(_LIMIT))

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all; without one, the hub is not asked for sizes."""
        return math.isfinite(self.most)

    def take(self, repo: str, sizes: Mapping[str, int | None]) -> None:
        """Count files that are about to be fetched.

        Args:
            sizes: bytes by the name of the file, as the hub lists them; None if it does not say.

        Raises:
            AssetError: if all files so far take more than is allowed, or a size is not known.
        """
        unknown = sorted(name for name, size in sizes.items() if size is None)
        if self.is_limited and unknown:
            raise AssetError(
                f"{repo}: the hub does not say how large {unknown[0]} is, and at most {self.most / 1e9:g} GB "
                "may be downloaded",
                fix=f"try again later, or unset {_LIMIT}",
            )
        self.taken += sum(size or 0 for size in sizes.values())
        if self.taken > self.most:
            largest = max(sizes, key=lambda name: sizes[name] or 0)
            raise AssetError(
                f"the submission's files on the hub take {self.taken / 1e9:.3g} GB ({largest} of {repo} "
                f"alone {(sizes[largest] or 0) / 1e9:.3g} GB), and at most {self.most / 1e9:g} GB may be "
                "downloaded",
                fix="put smaller weights there, in safetensors and float16 or bfloat16; on a machine of your "
                f"own, set {_LIMIT} higher",
            )


def snapshot(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    ignore: Sequence[str] = (),
    progress: Progress | None = None,
    allowance: Allowance | None = None,
) -> HubSnapshot:
    """Fetch the files of `repo` that match one of `patterns` and none of `ignore`.

    Args:
        repo: OWNER/REPO.
        revision: a commit, a branch or a tag; default: the main branch.
        patterns, ignore: patterns of `fnmatch`, so that `*` matches a slash too.
        progress: receives the bytes fetched so far; default: huggingface-hub's own bars on a terminal.
        allowance: what may be downloaded; default: any amount, and the hub is not asked for sizes.

    Raises:
        AssetError: if a file cannot be fetched, or all of them are more than is allowed. That nothing matches
            is not an error.
    """
    from huggingface_hub import snapshot_download

    (progress or silent)(f"looking up {repo}", 0, None)
    with explained(repo, revision):
        if allowance is not None and allowance.is_limited:
            # From here on at the commit whose sizes were added up, so that nothing moves in between.
            revision, sizes = _listed(repo, revision, patterns, ignore)
            allowance.take(repo, sizes)
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(ignore) or None,
            tqdm_class=None if progress is None and sys.stderr.isatty() else _bar(repo, progress),
        )
    return HubSnapshot(repo, Path(folder).name, Path(folder))


def _listed(
    repo: str, revision: str | None, patterns: Sequence[str], ignore: Sequence[str]
) -> tuple[str, dict[str, int | None]]:
    """The commit of a revision, and the bytes of its files that match, as the hub lists them."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    commit = HfApi().model_info(repo, revision=revision).sha
    assert commit is not None
    entries = HfApi().list_repo_tree(repo, recursive=True, revision=commit)
    files = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    chosen = filter_repo_objects(files, allow_patterns=list(patterns), ignore_patterns=list(ignore) or None)
    return commit, {name: files[name] for name in chosen}


def repository_files(repo: str, revision: str | None) -> list[str]:
    """Names of all files of a repository, for messages; empty if the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        with explained(repo, revision):
            return sorted(HfApi().list_repo_files(repo, revision=revision))
    except AssetError:
        return []  # The message that lists them makes sense without them.


@contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
    """A context that turns any failure to fetch from `repo` into an AssetError; our own errors pass."""
    try:
        yield
    except RemainderError:
        raise
    except Exception as problem:  # from huggingface-hub, its HTTP library, or the disk
        what, fix = _explain(problem, repo, revision)
        raise AssetError(what, fix=fix) from problem


def _explain(problem: Exception, repo: str, revision: str | None) -> tuple[str, str]:
    """A statement of what is wrong, and how to mend it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{repo}"
    causes = list(_causes(problem))
    # With an empty cache, huggingface-hub wraps the hub's own answer in a vaguer error: look inside.
    cause = next((one for one in causes if isinstance(one, (HfHubHTTPError, OfflineModeIsEnabled))), problem)
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(cause, OfflineModeIsEnabled):
        return (
            f"{repo} is not, or not whole, in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE "
            "forbids to fetch it",
            "unset HF_HUB_OFFLINE, or fetch it once where there is a network",
        )
    if isinstance(cause, GatedRepoError):
        return (
            f"{repo} is gated: the hub gives it only to those who accepted its licence (status {status})",
            f"accept the licence on {page}, then name your token with `hf auth login`",
        )
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"there is no repository {repo} on the hub, or it is private (status {status})",
            f"check the id on {page}; for a private one, name your token with `hf auth login`",
        )
    if isinstance(cause, RevisionNotFoundError):
        return (
            f"{repo} has no revision {revision!r}",
            f"choose a commit, branch or tag of {page}/commits/main",
        )
    if isinstance(problem, HFValidationError):
        return f"{repo!r} is not the id of a repository: {problem}", "write OWNER/REPO"
    if status in (401, 403):
        return (
            f"the hub refuses {repo} to this token (status {status})",
            f"check that it may read {page}, and name it with `hf auth login`",
        )
    if status is not None:
        return (
            f"the hub cannot give {repo} now: it answers with status {status}",
            "try again later; https://status.huggingface.co says whether it is down",
        )
    return _without_an_answer(problem, causes, repo)


def _without_an_answer(problem: Exception, causes: list[BaseException], repo: str) -> tuple[str, str]:
    """A statement of what is wrong, and how to mend it, where the hub did not answer."""
    from huggingface_hub import constants

    first = message_of(next((one for one in causes[::-1] if str(one).strip()), causes[-1]))
    if "Consistency check failed" in str(problem) or "complete message body" in str(problem):
        return f"a file of {repo} did not come whole: {first}", "check the network, and run again"
    if any(type(one).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout") for one in causes):
        return (
            f"the hub at {constants.ENDPOINT} cannot be reached, and {repo} is not, or not whole, in the "
            f"cache: {first}",
            "check the network, the proxy and HF_ENDPOINT",
        )
    return (
        f"{repo} cannot be fetched from the hub: {type(problem).__name__}: {first}",
        "check the id, the revision and the network",
    )


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    """An exception and the chain of exceptions that it was raised from."""
    while problem is not None:
        yield problem
        problem = problem.__cause__


def _bar(repo: str, progress: Progress | None) -> Any:
    """A progress bar class for huggingface-hub that draws nothing and passes its counts to `progress`."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            settings["disable"] = False  # count even where there is no terminal
            super().__init__(*args, **settings)  # type: ignore[no-untyped-call]

        def display(self, *args: Any, **settings: Any) -> bool:
            return True

        def update(self, n: Any = 1) -> Any:
            shown = super().update(n)
            # There are two bars: one counts bytes, the other files.
            if progress is not None and self.unit == "B":
                progress(f"downloading {repo}", int(self.n), int(self.total) if self.total else None)
            return shown

    return Bar
