"""Settings of formats, the table of formats, and the hash that names a submission."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remainder.base.paths import project_root
from remainder.record.old import format_of
from remainder.submission.method import FORMATS, Format, Method, read_method, submission_hash
from remainder.submission.open import read_folder
from remainder.submission.registry import resolve

# As they were before formats had settings of their own. To be added to, never changed: records name them.
BASELINES = {
    "batchtopk-sae-32": "6e9911406e315e72f1ce128bd03276ee9b0a1de304909b9887af368104ef4382",
    "digits-codebook-32": "71db5eadae54c56b68c82673dcd3b5fda0f193ece39e3681c65cd5ce1c205c7f",
    "digits-codebook-64": "dd71990d32a231327ca2bb5cdb99e643c2c9a4e37317e0525ca5872c39776f32",
    "digits-pca-16": "5e839b61e9460c4f80a9637981663c3607fa4c0a90a783a49bebb592c9e89afe",
    "digits-pca-32": "3fe6d1b864e907bf425a3dc778470ef042a95899e1fa94072be618ac96d50777",
    "digits-pca-4": "add14b8dad89e52adf157e9ae9b07c6d1d4fe79c67087103499bb25a518164b7",
    "digits-pca-8": "f8ffd04636ebabd0a2e777058ba828525cabcfccddd60249471a513ea03c02c2",
    "digits-random-16": "ca140f4def170f956f70dce877633abb30dc4af88b15db9839d125371e69c792",
    "digits-topk-sae-8": "79ff792fb67ef5ba8cd37f495b7bf9c69a47651631d875c19b1ed8f3f0d0fc75",
    "eap": "f4bfe0873200da4f284a16172df67e54df72b200b2c9a823b6ebbb442f87b854",
    "eap-ig": "ab1f45f325e7fb52fef8fb887ae84607a582bf0cb57ef991d28828ca31f160ac",
    "edge-patching": "3b9f83c063c8fa59839b493f49e69424164d9957a3ad81a23d512c48c54569a8",
    "empty-graph": "5c8afccbaaeab0d17b8eddd4a8d8a934bd4d365fb093b54fd02bfd5bd6f49812",
    "feature-circuit": "fc4a5cb7d6076e61de7bd64421bda282afc52c1845fc76941636883984239acb",
    "full-graph": "4930fa0c3298448a0a704aedfa09ab55d4101965814b317990078bc58c235485",
    "gated-sae-32": "c392f2de348621ce3a9970cdea8791156d4e9f23bd5392d2ff68a7111ca915cf",
    "gemma-2-2b-scope-16k": "a296c404e0e029c98529b84bb30321f350bd5d369c87dd7f9cb59ebaf9423f02",
    "gpt2-res-jb": "c0d3cad5b696fa1ec032fcc11d26a32235ddc4264501181d193d1b413f6e648b",
    "identity": "9a00a28aaeafda935beb188a20bdfc04d78e8dc3d31debcc5438c719de801620",
    "induction-circuit": "4ed7a95d873d802453d49dcb15513c125074ede206e23598259dec4e15016260",
    "induction-heads-circuit": "3bcfda08edddaf398225bdfda5c6d92e6228ad08926c0d90a12cadb8a6f00449",
    "induction-heads-other": "54fe5e1ac6777191fbe0fdd43c961aa822599e17af90352f538ebcf8c94f14db",
    "induction-heads-pca-16": "5e839b61e9460c4f80a9637981663c3607fa4c0a90a783a49bebb592c9e89afe",
    "induction-heads-random-16": "ca140f4def170f956f70dce877633abb30dc4af88b15db9839d125371e69c792",
    "induction-other": "3d9d720f06cef794239f56f05ec95ce4cc44a4822fec41dbc59e36d7ed694c32",
    "induction-pca-32": "3fe6d1b864e907bf425a3dc778470ef042a95899e1fa94072be618ac96d50777",
    "induction-random-32": "025fba6834e0de133917b2523468c041bea992e1d2008bfac43eba27e0dfd766",
    "jumprelu-sae-32": "d5ffc5ca3de925ee128fe594d40e003fe098ffbb87e0195b18ebb24d4c1a00be",
    "l1-sae-32": "8eb3584de70709c5007b0fd6480069bbebc082dcb1e083e57e856ac0ce493b08",
    "matryoshka-sae-32": "7d86699751cf1c234e81ee2ceeb75639a67eaf5da2cbbeaba3f2454e1f07a6f4",
    "mean-only": "70b5dcb5df45a38fc1283d090699cc6b9a64a5f227ff8f15f6bffe58c6b0ae67",
    "modular-addition-key-frequencies": "babb1984e3ec2e65cf919cd7ca147c12bacdb7a54ae54b5c204e63f9c78633a4",
    "modular-addition-pca": "ce5dc2ef5c7c0e1667943b9d6a1e05c9e2d4c2438312c56817f4818cd2a87621",
    "modular-addition-random": "2d1e77e4fc4ff39c5701da561750717e8ff9905c8b009f62084f6203e048c96b",
    "modular-addition-regression": "758ba9e3b37ede575d980ab2670489704e2094e2d1239a3c137d2895a6bc23e0",
    "modular-addition-topk-sae": "ab161674ef892c6e6962a9cbdc1b9e5f692b3073161a16bfaf90a8874092cf88",
    "modular-addition-topk-sae-6": "3565595ca970c0c24efec4604f5a16da7dcec8279df3c7b54b4fa1754f7e4890",
    "node-attribution": "2128209de0c8876f1f654118c2280afb64c66c520707b8ff9468c0c17604572b",
    "pca-128": "7d4a681f4d9966f73411fdceef9eb483cb4215e95851f9005453e74ec300d905",
    "pca-32": "3fe6d1b864e907bf425a3dc778470ef042a95899e1fa94072be618ac96d50777",
    "pca-400": "a64e71906a4832197f0f0bf030cbf4d5b7fa21114f1c519852e7f3e593d9a75f",
    "pythia-70m-saebench-standard": "ac0b78e2e54b162cdc4571e0c285daec720674ae3ef1f65c29c546d0bc388c39",
    "pythia-70m-saebench-topk": "a3909396c7178fa6774260d22cabea108f21704242e3b7a0c227177a7c9659a5",
    "random-256": "9a1872a73391919f73094dec266056c6ad3761a6461e9b2303af5ee5b4f876c7",
    "random-edges": "101985592e596b5991c5bb19c2b8f0c85785dadc84af6a2fb5fcbd340f880d6d",
    "rule-and-noise-codebook-16": "ec58e9a58e41ea3015a47f05c42fc42ef709fef97df55d328c397e35d52cde22",
    "rule-and-noise-codebook-64": "cca280a55014aaa3f72a10f43c4a8bfef9163aba44848026d56fb68317359c0f",
    "rule-and-noise-pca-16": "5e839b61e9460c4f80a9637981663c3607fa4c0a90a783a49bebb592c9e89afe",
    "rule-and-noise-pca-2": "68cd66e7a290695724cc3de1676e189e6926cdde215a70a73db055fc11030aaf",
    "rule-and-noise-pca-3": "e4a7845b0418d56473be4add187a294494017319e98af37fe3d5e7c2ac890503",
    "rule-and-noise-pca-4": "add14b8dad89e52adf157e9ae9b07c6d1d4fe79c67087103499bb25a518164b7",
    "rule-and-noise-pca-8": "f8ffd04636ebabd0a2e777058ba828525cabcfccddd60249471a513ea03c02c2",
    "rule-and-noise-random-16": "ca140f4def170f956f70dce877633abb30dc4af88b15db9839d125371e69c792",
    "rule-and-noise-rule-3": "1ea61a0d62d5c070dcf65910a69237b34ad6191ab0f8b8f92a35044289428326",
    "skip-transcoder-32": "97c0a6921f7c39e83637374d7835c812208d84c4cf63208086bbc5716f0e2013",
    "topk-sae-16": "13b13b67f7488fa296999ac9ffbe02dc7cf6987f2247734aa0e9e39b6c186f4f",
    "topk-sae-32": "927a98005cdfe2dca79eca04ff58f54a98008886a9cf13f791d38357048a543e",
    "topk-sae-32-resid-8": "cac34384e09da5f9997106bd8647ba2646738498bd8f71adc0a102d26af2be7c",
    "topk-sae-64": "e631ac622989c8d4dd2c3679fe0be3229bd9d0391105a34bdfbf0760c47b1452",
    "transcoder-32": "7767653ddb51bdc7426cc5a423701cfb7d3f2c7efeb6825b27c2f589b3b6efb8",
    "wiki-jumprelu": "904fa3ce30d03de7ebcbba46e9d4507039a4069f8deb2c97a1f8c2c58d3cc54d",
    "wiki-l1": "6c565628129e78a5134c86041f3e951b747d7d2b5a70a8cdef0a3b83dc3e8d0c",
    "wiki-mlp-jumprelu": "d9a4c576b90f09d0e1f0cf95bd01c07ce2159902e2d3788bbd2f647dab24bfb6",
    "wiki-mlp-l1": "0c6366a0ad104038b3d40e5cff5fe58406bfea9cb56cb7ac91ef5aafd53de846",
    "wiki-mlp-topk": "31414f55e82682e94fef8c2eaa45231daa11a9f4dbd2dfbba89a252792d4d1fd",
    "wiki-pca-16": "5e839b61e9460c4f80a9637981663c3607fa4c0a90a783a49bebb592c9e89afe",
    "wiki-pca-64": "2cf216e39db6bb76abf989c74bd3b567758b200f7218032643972c8faf1bb749",
    "wiki-random-64": "06e4cd0b10d0cd9319c5d351547aba82d8c1d750ae6814bbf2eafb0d3d320a8c",
    "wiki-topk": "6f1f9b537a2ea12a53442bef6b9530ac24bf8b2027c0df16b2ecf0a1b1938129",
}
OLD_KEYS = (
    "format", "rank", "seed", "steps", "path", "hub", "revision", "sites", "thresholds", "scored_against",
    "pinned", "share", "ignore_fields",
)  # fmt: skip
LEFT_OUT = ("steps", "sites", "thresholds", "scored_against", "pinned", "share", "ignore_fields")


def old_hash(settings: dict[str, Any], files: dict[str, str]) -> str:
    """The hash of protocol 1's first records, written down anew: every key that there was, given or not."""
    full = {"seed": 0, **{key: None for key in OLD_KEYS if key != "seed"}, **settings}
    del full["revision"]
    for key in LEFT_OUT:
        if full[key] is None:
            del full[key]
    content = {"method": full, "files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_no_baseline_has_another_hash() -> None:
    found = {path.parent.name for path in (project_root() / "baselines").glob("*/submission.toml")}
    assert found == BASELINES.keys()
    assert {name: read_folder(project_root() / "baselines" / name).hash for name in found} == BASELINES


names = st.text("abcz09_-./", min_size=1, max_size=12).filter(
    lambda t: not t.startswith("/") and ".." not in t
)
counts = st.integers(1, 2**40)
seeds = st.integers(0, 2**63 - 1)
finite = st.floats(0, 1e6, allow_nan=False)
thresholds = st.lists(finite, min_size=1, max_size=4, unique=True).map(sorted)
sites = st.lists(
    st.one_of(
        st.fixed_dictionaries({"submission": names, "task": names}),
        st.fixed_dictionaries({"submission": names, "hook_in": names}, optional={"hook_out": names}),
    ),
    min_size=1,
    max_size=3,
)
ignored = st.lists(names, min_size=1, max_size=3, unique=True)
SETTINGS: dict[str, tuple[dict[str, st.SearchStrategy[Any]], dict[str, st.SearchStrategy[Any]]]] = {
    **dict.fromkeys(("identity", "mean", "full-graph", "empty-graph", "edge-patching"), ({}, {})),
    "pca": ({"rank": counts}, {}),
    "random-projection": ({"rank": counts}, {"seed": seeds}),
    **dict.fromkeys(("subspace", "codebook"), ({"path": names}, {})),
    "code": ({"entry": st.sampled_from(["method.py:build", "deep/er.py:make_it", "my-method"])}, {}),
    **dict.fromkeys(
        ("saelens", "dictionary-learning", "sparsify", "circuit-tracer", "gemma-scope", "eap-ig", "mib"),
        ({"path": names}, {"ignore_fields": ignored}),
    ),
    "random-edges": ({}, {"seed": seeds}),
    **dict.fromkeys(("edge-attribution", "node-attribution"), ({}, {"steps": counts})),
    "feature-attribution": (
        {"sites": sites},
        {
            "steps": counts,
            "thresholds": thresholds,
            "scored_against": st.sampled_from(["mean", "counterfactual", "zero"]),
        },
    ),
    "feature-scores": ({"sites": sites, "path": names}, {"thresholds": thresholds}),
    "feature-graph": ({"sites": sites, "path": names}, {"share": st.floats(0, 1)}),
}
"""By format: the settings that it needs, and those that it may have."""


def settings_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    needed, optional = SETTINGS[name]
    return st.fixed_dictionaries({"format": st.just(name), **needed}, optional=optional)


def with_nulls(settings: dict[str, Any]) -> dict[str, Any]:
    """Sites as they were hashed: every key of theirs, given or not."""
    keys = ("submission", "task", "hook_in", "hook_out")
    if "sites" not in settings:
        return settings
    return {**settings, "sites": [{key: site.get(key) for key in keys} for site in settings["sites"]]}


def test_every_format_is_tried() -> None:
    assert SETTINGS.keys() == FORMATS.keys()


@given(st.sampled_from(sorted(SETTINGS)).flatmap(settings_of), st.dictionaries(names, names, max_size=2))
def test_settings_are_hashed_as_they_were(settings: dict[str, Any], files: dict[str, str]) -> None:
    assert submission_hash(read_method(settings), files) == old_hash(with_nulls(settings), files)


@given(st.sampled_from(["saelens", "gemma-scope"]), names, names, st.none() | names)
def test_what_lies_on_a_hub_is_hashed_without_its_revision(
    format: str, owner: str, sae: str, revision: str | None
) -> None:
    settings = {"format": format, "hub": f"{owner}/repo:{sae}"}
    method = read_method(settings if revision is None else {**settings, "revision": revision})
    assert submission_hash(method, {}) == old_hash(settings, {})


class Later(Method):
    """A format that another package brings, with a setting that no record of today has."""

    window: int | None = None


def test_a_later_setting_is_hashed_beside_the_others_and_only_if_it_is_given() -> None:
    bare, given_ = Later(format="later"), Later(format="later", window=3)
    assert submission_hash(bare, {}) == old_hash({"format": "later"}, {})
    assert submission_hash(given_, {}) == old_hash({"format": "later", "window": 3}, {})


def test_circuits_that_were_found_are_known_by_their_hash() -> None:
    for name in ("edge-attribution", "node-attribution"):
        for settings in ({}, {"steps": 1}, {"steps": 100}):
            assert format_of(submission_hash(read_method({"format": name, **settings}), {})) == name
    assert format_of(submission_hash(read_method({"format": "edge-patching"}), {})) == "edge-patching"
    for name in ("full-graph", "random-edges", "identity"):
        assert format_of(submission_hash(read_method({"format": name}), {})) is None


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS.keys())
def test_the_code_behind_every_format_is_there(row: Any) -> None:
    places = [row.read, row.make, row.files, row.require, row.recognise, row.elsewhere]
    assert all(isinstance(resolve(place), Callable) for place in places if place is not None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"settings": Method}, "give `read` or `make`, and not both"),
        ({"settings": Method, "read": "a:b", "make": "a:b"}, "give `read` or `make`, and not both"),
        ({"settings": FORMATS["subspace"].settings, "make": "a:b"}, "`path` and `files`, which are hashed"),
        ({"settings": Method, "make": "a:b", "files": "a:b"}, "`path` and `files`, which are hashed"),
    ],
)
def test_a_line_that_would_leave_weights_out_of_the_hash_is_none(line: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Format("mine", "reconstruction", **line)


def test_the_page_lists_every_format_with_its_settings() -> None:
    page = (project_root() / "docs" / "score-your-sae.md").read_text(encoding="utf-8")
    begin = page.index("| `format` | `kind` |")
    lines = page[begin : page.index("\n\n", begin)].splitlines()[2:]
    listed = {}
    for line in lines:
        name, kind, needs, may, _ = (cell.strip() for cell in line.strip("|").split("|"))
        listed[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", needs)), set(re.findall(r"`(\w+)`", may)))
    expected = {}
    for name, row in FORMATS.items():
        fields = {field: info for field, info in row.settings.model_fields.items() if field != "format"}
        needed = {field for field, info in fields.items() if info.is_required()}
        expected[name] = (row.kind, needed, fields.keys() - needed)
    assert listed == expected
