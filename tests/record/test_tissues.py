"""Near and far from made-up tokens: planted tissues, statements, what has no number, and files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from remainder.board.listing import record_files
from remainder.errors import RecordError
from remainder.record.json import sha256, significant
from remainder.record.schema import MethodInfo, SubmissionInfo, TaskInfo
from remainder.record.tissues import (
    LOSSES,
    Follows,
    Summaries,
    Tissue,
    Tissues,
    TissueValues,
    column_of,
    columns_of,
    summaries_of,
)
from remainder.record.tissues_file import (
    TISSUES,
    read_tissues,
    rounded_values,
    tokens_place,
    tokens_to_csv,
    write_tissues,
)
from remainder.report.plot import save
from remainder.report.plot_tissues import tissues_figure
from remainder.report.tissues import render_tissues, tissues_frame

DOCUMENTS, A_DOCUMENT, SEED = 12, 30, 4
KEEPS = (0, 1, 3)
Sums = dict[str, dict[str, dict[str, tuple[float, ...]]]]


def made(tissues: int = 3, keeps: tuple[int, ...] = KEEPS) -> tuple[pd.DataFrame, Sums]:
    """Tokens of three tissues: with sources kept all cost alike, with none each its own; shape is nothing.

    The other order costs .2 more at k = 1.
    """
    generator = np.random.default_rng(SEED)
    document = np.repeat(np.arange(DOCUMENTS), A_DOCUMENT)
    label = generator.integers(0, min(tissues, 3), len(document))
    tokens = pd.DataFrame(
        {
            "document": [f"d{one:02d}" for one in document],
            "window": document,
            "position": np.tile(np.arange(A_DOCUMENT), DOCUMENTS),
            "tissue": label,
            "entropy": generator.uniform(1, 3, len(document)),
        }
    )
    sums: Sums = {"dynamic": {}}
    for keep in keeps:
        size = 1.0 / (1 + keep)
        raw = size * (1 + (label if keep == 0 else 0)) + 0.05 * generator.normal(size=len(label))
        noise = 1e-3 * generator.normal(size=(2, len(label)))
        losses = (raw, raw, 2 * raw, 2 * raw + noise[0], 2 * raw + noise[1])
        for name, values in zip(columns_of(), (*losses, raw, raw, raw / 2), strict=True):
            tokens[column_of(name, keep)] = values
        if keep == 1:
            other = {name: tokens[column_of(name, keep)] + 0.2 for name in columns_of()}
            sums["dynamic"]["1"] = {
                name: tuple(significant(float(one)) for one in column.groupby(tokens["document"]).sum())
                for name, column in other.items()
            }
    return tokens, sums


def followed(tokens: pd.DataFrame, sums: Sums, tissues: int = 3) -> Follows:
    empty = Tissue(calibration=500, tokens=0, documents=0, entropy=None, sources=(1, 7), words=("a b", "ü"))
    values = TissueValues(
        ("attribution", "dynamic"), max(KEEPS), tokens, sums, {"attribution": {}}, [empty] * tissues
    )
    return summaries_of(values, seed=SEED)


@pytest.fixture(scope="module")
def found() -> Summaries:
    tokens, sums = made()
    tokens = rounded_values(tokens)
    whole = SubmissionInfo(
        name="s", kind="reconstruction", files={}, hash="1" * 64, method=MethodInfo(format=None)
    )
    return Summaries(
        Tissues(
            protocol="2",
            task=TaskInfo(id="a/b", version="1-A", hash="0" * 64),
            submission=whole,
            tier="quick",
            dtype="float32",
            seed=SEED,
            orders=("attribution", "dynamic"),
            sources=max(KEEPS),
            asked=4,
            calibration_windows=8,
            documents=DOCUMENTS,
            tokens=len(tokens),
            unmeasured={"attribution": {}, "dynamic": {}},
            sums=sums,
            follows=followed(tokens, sums),
            values_sha256=sha256(tokens_to_csv(tokens)),
        ),
        tokens,
    )


def test_what_was_planted_is_found(found: Summaries) -> None:
    follows = found.tissues.follows
    words = {name: [one.word for one in verdicts] for name, verdicts in follows.statements.items()}
    assert words == {"near": ["–", "holds", "–"], "far": ["holds"] * 3, "alike": ["holds"] * 3} | {
        "own": ["holds", "open", "open"]
    }
    none, one, _ = follows.shells
    assert one.nearer["dynamic"].value == pytest.approx(-0.2, abs=1e-4)
    assert none.between["raw"].variance == pytest.approx(1.0, abs=0.1)  # of 1, 2 and 3
    assert none.between["raw"].p == 1 / 2000
    assert one.between["raw"].variance == pytest.approx(0.0, abs=0.01)
    assert none.worst.tissue == 3
    assert none.worst.raw.low is not None
    assert none.worst.raw.low < 3 < (none.worst.raw.high or 0)
    assert none.tissues[1].raw.value == pytest.approx(2.0, abs=0.05)
    assert none.orders["attribution"].rho_even.value == pytest.approx(2.0, abs=1e-3)
    assert none.orders["attribution"].rho_odd.value == pytest.approx(0.0, abs=1e-3)
    assert list(none.orders) == ["attribution"]
    assert sum(tissue.tokens for tissue in follows.tissues) == DOCUMENTS * A_DOCUMENT
    assert all(1.8 < (tissue.entropy or 0) < 2.2 for tissue in follows.tissues)


def test_it_proves_itself(found: Summaries, tmp_path: Path) -> None:
    path = write_tissues(found, tmp_path)
    assert path.parent == tmp_path / "a" / "b" / "1"
    again = read_tissues(path)
    assert again.tissues == found.tissues
    pd.testing.assert_frame_equal(again.tokens, found.tokens)
    records, remarks = record_files(tmp_path)
    assert not records
    assert [remark.is_fault for _, remark in remarks] == [False]
    edited = found.tissues.model_copy(
        update={
            "follows": found.tissues.follows.model_copy(update={"shells": found.tissues.follows.shells[::-1]})
        }
    )
    TISSUES.write(edited, path)
    with pytest.raises(RecordError, match=r"shells\[0\]\.\S+ does not follow from the values of its tokens"):
        read_tissues(path)
    write_tissues(found, tmp_path)
    table = tokens_place(path)
    table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()).replace(b"d01", b"d00"), mtime=0))
    with pytest.raises(RecordError, match="is not the one that it was made from"):
        read_tissues(path)
    table.unlink()
    with pytest.raises(RecordError):
        read_tissues(path)


def test_it_is_shown(found: Summaries, tmp_path: Path) -> None:
    text = render_tissues(*found)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "a b ü" in text
    assert "4 were asked for" in " ".join(text.split())
    assert len(tissues_frame(found.tissues)) == len(KEEPS) * 4 + 1
    for format, wanted in (("csv", "attribution,0,0,"), ("latex", r"$\tau$"), ("json", "values_sha256")):
        assert wanted in render_tissues(*found, format)
    save(tissues_figure(*found), tmp_path / "tissues.png")
    assert (tmp_path / "tissues.png").stat().st_size > 20_000


def test_what_is_too_little_has_no_number_and_says_why() -> None:
    """A tissue with few tokens, tissues that nothing is in, one k alone, one tissue, and few documents."""
    tokens, _ = made(keeps=(0,))
    label = np.where(tokens["tissue"] == 2, 1, tokens["tissue"])
    label[:: A_DOCUMENT // 2] = 2
    follows = followed(tokens.assign(tissue=label), {}, tissues=4)
    (shell,) = follows.shells
    assert shell.tissues[2].raw.reason == "24 evaluation tokens; a tissue needs 50"
    assert shell.tissues[3].raw.reason == "0 evaluation tokens; a tissue needs 50"
    assert shell.worst.tissue == 2
    assert follows.statements["near"][0].reason == "every order keeps the same"
    assert follows.statements["own"][0].reason is None
    alone = followed(tokens.assign(tissue=0), {}, tissues=1)
    assert alone.statements["alike"][0].reason == "one tissue alone has nothing to be like"
    assert alone.statements["own"][0].reason == "one group alone has nothing to differ from"
    few = followed(tokens[tokens["document"] < "d03"], {})
    reasons = {verdict.reason for name in ("far", "own") for verdict in few.statements[name]}
    assert reasons == {"3 documents; an interval needs 4", "one group alone has nothing to differ from"}
    bare = tokens.drop(columns=[column_of(rung, 0) for rung in LOSSES if rung == "permuted"])
    assert followed(bare, {}).statements["far"][0].reason == "rung permuted was not measured"
