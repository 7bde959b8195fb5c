"""Rows of a data set of the Hugging Face hub, streamed through `datasets`: only the first are fetched.

Source: https://huggingface.co/docs/datasets/stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from remainder.base.hub import explained
from remainder.base.messages import message_of
from remainder.errors import AssetError, TaskError

__all__ = ["FIRST", "PREFIX", "HubRows", "hub_rows"]

PREFIX = "hf:"
"""The beginning of a text that names a data set."""

FIRST = 1000
"""Rows that are read if no other number is asked for."""

_FORM = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?(?:#(?P<split>[\w.-]+))?"
)
_COMMIT = 12  # letters of a commit that records state


class HubRows(NamedTuple):
    """The first rows of a data set at one commit."""

    name: str
    """`hf:OWNER/NAME…@COMMIT`, as records state it."""
    rows: Iterator[dict[str, Any]]


def hub_rows(text: str, first: int | None = None) -> HubRows:
    """The first rows of the data set that `hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]` names.

    Args:
        text: the name; SPLIT is `train` by default, REVISION the main branch.
        first: how many rows; default: `FIRST`.

    Raises:
        TaskError: the name is malformed, or there is no such configuration or split.
        AssetError: the hub does not give it: it is gated, private or not there, or there is no network.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise TaskError(
            f"{text[:80]!r} names no data set of the hub",
            fix="write hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT], such as "
            "hf:Salesforce/wikitext:wikitext-2-raw-v1",
        )
    repo, config, split = found["repo"], found["config"], found["split"] or "train"
    commit = _commit(repo, found["revision"])
    name = f"hf:{repo}{'' if config is None else f':{config}'}@{commit[:_COMMIT]}#{split}"
    rows = _streamed(repo, config, commit, split)
    return HubRows(name, islice(rows, FIRST if first is None else first))


def _commit(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise AssetError(
            f"the data set {repo} is streamed from the hub, and HF_HUB_OFFLINE forbids to",
            fix="unset HF_HUB_OFFLINE, or give a .jsonl that was saved where there is a network",
        )
    with explained(f"datasets/{repo}", revision):
        commit = HfApi().dataset_info(repo, revision=revision).sha
    assert commit is not None
    return commit


def _streamed(repo: str, config: str | None, commit: str, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    with explained(f"datasets/{repo}", commit):
        try:
            rows = datasets.load_dataset(repo, config, split=split, revision=commit, streaming=True)
        except ValueError as problem:  # of a configuration or split, and its words list those that there are
            raise TaskError(
                f"the data set {repo} cannot be read so: {message_of(problem)}",
                fix="name another configuration or split: hf:OWNER/NAME:CONFIG#SPLIT",
            ) from None
        yield from rows
