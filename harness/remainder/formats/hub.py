"""SAEs on the Hugging Face hub: `OWNER/REPO:SAE_ID`, or `RELEASE:SAE_ID` of sae-lens's list.

1. `fetch` brings the files of one SAE into huggingface-hub's cache, and gives their hashes and their commit.
   - `OWNER/REPO:SAE_ID`: SAE_ID is a folder of the repository. What lies in it itself is fetched, if it is of
     a kind that a reader of this package takes; such a folder is then read like any other on this machine.
   - `RELEASE:SAE_ID`: sae-lens knows the repository and the format of each release of its list, and which
     files it wants of it. So its own reader asks for them, but through a function that keeps to one commit.
2. `load_release` reads the second kind again, at that commit, which asks the hub for nothing.
"""

from __future__ import annotations

import copy
import difflib
import glob
import pickle
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from remainder.base.cache import sha256_file
from remainder.base.hub import Allowance, explained, repository_files, snapshot
from remainder.base.messages import message_of
from remainder.errors import InterpretationError
from remainder.formats import saelens
from remainder.formats.known import Ignore
from remainder.formats.places import Loaded
from remainder.formats.tensors import PICKLES, header, load_torch, require_weights
from remainder.task.spec import Task

__all__ = ["RELEASE_FORMAT", "Address", "Fetched", "fetch", "load_release", "parse"]

# `ae.pt` of dictionary_learning is read as tensors only; other files of torch.save are not even fetched.
_FILES = ("*.json", "*.yaml", "*.safetensors", "*.npz", "ae.pt")
_WEIGHTS = (".safetensors", ".npz", "ae.pt")
RELEASE_FORMAT = "saelens"
"""The format of everything that sae-lens lists; sae-lens reads the files itself."""
_PLAIN = frozenset({".json", ".yaml", ".yml", ".safetensors", ".npz"})
_UNPICKLED = (
    "pickles are never loaded; where you trust the release, convert it once and give the folder: "
    "safetensors.torch.save_file(tensors, 'sae_weights.safetensors')"
)
_UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
_ONE_AT_A_TIME = threading.Lock()  # a function of sae-lens is replaced for the whole process


class Address(NamedTuple):
    """The address of an SAE: `place` is OWNER/REPO or a release of sae-lens's list."""

    place: str
    sae_id: str
    revision: str | None

    @property
    def is_repository(self) -> bool:
        """Whether it names a repository, and not a release of sae-lens's list."""
        return "/" in self.place

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hub:{self.place}{revision}:{self.sae_id}"


class Fetched(NamedTuple):
    """An SAE in the cache."""

    commit: str
    folder: Path | None
    """The folder that holds it; None for a release, whose files may be in several."""
    files: dict[str, str]
    """`OWNER/REPO@COMMIT/PATH` -> SHA-256."""


def parse(text: str, revision: str | None = None) -> Address:
    """Read `OWNER/REPO:SAE_ID`, `OWNER/REPO@REVISION:SAE_ID`, or a release of sae-lens's list for OWNER/REPO.

    Args:
        text: without the word `hub:`.
        revision: as it stands in a submission.toml, where the text has none.

    Raises:
        InterpretationError: if it is neither.
    """
    place, colon, sae_id = text.partition(":")
    place, at, given = place.partition("@")
    wrong = not colon or not place or not sae_id.strip("/") or ".." in sae_id.split("/")
    if wrong or bool(at) != bool(given) or (given and revision):
        raise InterpretationError(
            f"hub:{text} does not name an SAE",
            fix="write hub:OWNER/REPO:SAE_ID, the path inside the repository, or with a revision "
            "hub:OWNER/REPO@REVISION:SAE_ID",
        )
    return Address(place, sae_id.strip("/"), given or revision)


def fetch(address: Address) -> Fetched:
    """Bring the files of an SAE into the cache, and hash them.

    Raises:
        AssetError: if the hub does not give them, or they take more than `REMAINDER_HUB_GB` allows.
        InterpretationError: if there is no such SAE, or only pickles of it.
    """
    if not address.is_repository:
        return _read_release(address)[1]
    prefix = "" if address.sae_id == "." else f"{address.sae_id}/"
    patterns = [glob.escape(prefix) + pattern for pattern in _FILES]
    # A star matches a slash too: without this, `layer_12` would mean every SAE below it.
    found = snapshot(
        address.place,
        address.revision,
        patterns,
        ignore=[f"{glob.escape(prefix)}*/*"],
        allowance=Allowance.of_environment(),
    )
    folder = found.folder / address.sae_id
    paths = sorted(path for path in folder.glob("*") if path.is_file())
    if not any(path.name.endswith(_WEIGHTS) for path in paths):
        raise _no_weights(address, found.commit)
    for path in paths:
        if path.suffix == ".safetensors":
            header(path)  # what is none is told before the model is loaded
    base = f"{address.place}@{found.commit}/{prefix}"
    return Fetched(found.commit, folder, {base + path.name: sha256_file(path) for path in paths})


def _no_weights(address: Address, commit: str) -> InterpretationError:
    """The error for a folder without weights: it does not exist, or has pickles only."""
    names = repository_files(address.place, commit)
    base = Path(address.sae_id)
    pickles = [
        name for name in names if Path(name).suffix in PICKLES and base in (Path(name), Path(name).parent)
    ]
    if pickles:
        return InterpretationError(
            f"{address} has no weights in safetensors, only {pickles[0]}",
            fix="pickles are never loaded; convert once, where you trust the file, and give the folder: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'sae_weights.safetensors')",
        )
    folders = {Path(name).parent.as_posix() for name in names if name.endswith(_WEIGHTS)}
    return _no_sae(address, address.place, sorted(folders))


def _no_sae(address: Address, where: str, known: list[str]) -> InterpretationError:
    below = [name for name in known if name.startswith(f"{address.sae_id}/")]
    near = below[:3] or difflib.get_close_matches(address.sae_id, known, n=3, cutoff=0.4) or known[:3]
    return InterpretationError(
        f"{where} has no SAE {address.sae_id!r}" + (f" at {address.revision}" if address.revision else ""),
        fix=f"did you mean {', '.join(near)}?" if near else "check the path inside the repository",
    )


def load_release(address: Address, task: Task, ignore: Ignore | None = None) -> Loaded:
    """An SAE of sae-lens's list, at the commit that `fetch` found, float32.

    Args:
        address: of the SAE, with its commit.
        task: whose site and model it must be of.
        ignore: fields of its config to be passed over.

    Raises:
        AssetError: if its files are gone from the cache and the hub does not give them.
        InterpretationError: if it was made for another site, width or model, or sae-lens cannot read it.
    """
    sae, _, stated = _read_release(address)
    return saelens.load_object(sae, task, str(address), ignore, stated)


def _read_release(address: Address) -> tuple[Any, Fetched, dict[str, Any]]:
    """An SAE of sae-lens's list, read by sae-lens, the files that it read, and the config."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as readers
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases, stated = get_pretrained_saes_directory(), dict[str, Any]()
    if address.place not in releases:
        near = difflib.get_close_matches(address.place, releases, n=3, cutoff=0.4)
        raise InterpretationError(
            f"sae-lens lists no release {address.place!r}",
            fix="write OWNER/REPO" + (f", or one of its releases: {', '.join(near)}" if near else ""),
        )
    release = releases[address.place]
    if address.sae_id not in release.saes_map:
        raise _no_sae(address, f"release {address.place}", sorted(release.saes_map))
    with explained(release.repo_id, address.revision), _one_commit(address.revision) as downloads:
        try:
            # sae-lens warns of settings of the model and of scales, which `load_object` heeds or refuses.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                name = readers.get_conversion_loader_name(address.place)
                reader = readers.NAMED_PRETRAINED_SAE_LOADERS[name]

                def noting(*args: Any, **settings: Any) -> Any:
                    # The class of an SAE keeps a part of its config only.
                    config, state, sparsity = reader(*args, **settings)
                    stated.update(copy.deepcopy(config))
                    return config, state, sparsity

                sae = SAE.from_pretrained(address.place, address.sae_id, dtype="float32", converter=noting)
        except _UNREADABLE as problem:
            raise InterpretationError(
                f"{address}: sae-lens cannot read it: {type(problem).__name__}: {message_of(problem)}",
                fix="if its files are damaged, delete the repository from huggingface-hub's cache; else "
                "report it to sae-lens",
            ) from problem
    return sae.eval(), Fetched(downloads.commit[release.repo_id], None, downloads.files), stated


class _Downloads:
    """Stands in for `hf_hub_download`: the same commit for all files of a repository, each one noted."""

    def __init__(self, revision: str | None) -> None:
        self.revision, self.commit, self.files = revision, dict[str, str](), dict[str, str]()
        self.allowance = Allowance.of_environment()

    def __call__(
        self,
        repo_id: str,
        filename: str,
        subfolder: str | None = None,
        force_download: bool = False,
        revision: str | None = None,
    ) -> str:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import LocalEntryNotFoundError

        if filename.endswith("sparsity.safetensors"):  # of training: sae-lens does without
            raise LocalEntryNotFoundError(f"{filename} is not wanted")
        # A few releases name a revision of their own; what the address says comes before it.
        wanted = self.commit.get(repo_id) or self.revision or revision
        if self.allowance.is_limited:
            about = get_hf_file_metadata(hf_hub_url(repo_id, filename, subfolder=subfolder, revision=wanted))
            self.allowance.take(repo_id, {filename: about.size})
            # At the commit whose size was counted, so that nothing moves in between.
            wanted = about.commit_hash or wanted
        path = hf_hub_download(repo_id, filename, subfolder=subfolder, revision=wanted)
        # …/snapshots/COMMIT/PATH
        commit, inside = path.replace("\\", "/").rpartition("/snapshots/")[2].split("/", 1)
        self.commit[repo_id] = commit
        _require_harmless(Path(path))
        self.files[f"{repo_id}@{commit}/{inside}"] = sha256_file(Path(path))
        return path


def _require_harmless(path: Path) -> None:
    """Refuse what sae-lens's reader might unpickle, or what fills the memory, before it is given the file.

    Readers of some releases call `torch.load` on whatever name the release lists; whether that executes what
    the file says depends on the version of torch and on the environment. A file that loads as tensors and
    plain values alone holds nothing else that could be executed.

    Raises:
        InterpretationError: it holds anything else.
    """
    if path.suffix in _PLAIN:
        require_weights(path)
    else:
        load_torch(path, "tensors and plain values", _UNPICKLED)


@contextmanager
def _one_commit(revision: str | None) -> Iterator[_Downloads]:
    """Let sae-lens's readers, which know no revisions, ask for files of one commit only."""
    from sae_lens.loading import pretrained_sae_loaders as readers

    downloads = _Downloads(revision)
    with _ONE_AT_A_TIME:
        ordinary = readers.hf_hub_download
        readers.hf_hub_download = downloads
        try:
            yield downloads
        finally:
            readers.hf_hub_download = ordinary
