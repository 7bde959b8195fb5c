"""The lists of docs/threats.md that tests read: fields of a record that verification does not catch."""

from __future__ import annotations

import re

from forging import Place

from remainder.base.paths import project_root

THREATS = project_root() / "docs" / "threats.md"

IN_PART = {
    "compat.**": [
        "compat.*.tokens",
        "compat.*.ce_loss_with_sae.low",
        "compat.*.ce_loss_with_sae.high",
        "compat.*.ce_loss_score.low",
        "compat.*.ce_loss_score.high",
        "compat.*.kl_div_with_sae.low",
        "compat.*.kl_div_with_sae.high",
        "compat.*.kl_div_score.low",
        "compat.*.kl_div_score.high",
        "compat.*.explained_variance.value",
        "compat.*.explained_variance.low",
        "compat.*.explained_variance.high",
        "compat.*.explained_variance.reason",
        "compat.saelens.mse.value",
        "compat.saelens.mse.low",
        "compat.saelens.mse.high",
        "compat.saebench.mse.reason",
        "compat.dictionary_learning.*.low",
        "compat.dictionary_learning.*.high",
        "compat.dictionary_learning.frac_variance_explained.value",
        "compat.dictionary_learning.frac_variance_explained.reason",
        "compat.mdl_bits.*.value",
        "compat.mdl_bits.*.reason",
    ],
    "metrics.gaussianity.**": [
        "metrics.gaussianity.surrogates",
        "metrics.gaussianity.radial_kurtosis.*",
        "metrics.gaussianity.maximum_kurtosis.*",
        "metrics.gaussianity.radial_gain.*",
        "metrics.gaussianity.linear_gain.*",
        "metrics.gaussianity.directions.*.directions",
        "metrics.gaussianity.directions.*.*.value",
        "metrics.gaussianity.directions.*.*.null_high",
    ],
    "provenance.**": [
        "provenance.dirty",
        "provenance.git_commit",
        "provenance.timestamp",
        "provenance.python",
        "provenance.platform",
        "provenance.packages.*",
        "provenance.timings.*",
        "provenance.threads",
        "provenance.cpu.*",
        "provenance.tokens_per_second",
        "provenance.tf32",
    ],
    "checks.**": [
        "checks.conformance.value",
        "checks.decoded_calibration.value",
        "checks.decoded_evaluation.value",
        "checks.empty_equals_counterfactual.value",
        "checks.full_equals_clean.value",
        "checks.zero_splice.value",
        "checks.*.note",
    ],
}
"""Of parts that the page lists as a whole: the fields in them that are not caught. The others are."""


def listed(title: str) -> list[str]:
    """The patterns of fields under a title of the page, one a line in the block that follows it."""
    page = THREATS.read_text(encoding="utf-8")
    match = re.search(rf"^#+ {re.escape(title)}\n.*?^```text\n(.*?)^```", page, re.M | re.S)
    assert match is not None, title
    return [part for pattern in match[1].split() for part in IN_PART.get(pattern, [pattern])]


def only_measuring() -> list[str]:
    """Fields that files alone cannot tell, and measuring again can."""
    return listed("Fields that only measuring again catches")


def never() -> list[str]:
    """Fields that nothing catches."""
    return listed("Fields that are not caught")


def fits(place: Place, pattern: str) -> bool:
    """Whether a pattern names a place: `*` stands for one part of it, `**` for all that are left."""
    parts = pattern.split(".")
    for number, part in enumerate(parts):
        if part == "**":
            return True
        if number >= len(place) or part not in ("*", str(place[number])):
            return False
    return len(parts) == len(place)


def is_listed(place: Place, patterns: list[str]) -> bool:
    """Whether any of the patterns names a place."""
    return any(fits(place, pattern) for pattern in patterns)
