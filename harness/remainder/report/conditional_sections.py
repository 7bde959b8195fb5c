"""Sections on what can be told of the residual without seeing it, and on description lengths. Needs no torch.

Source: protocol 2, sections 4 and 6.
"""

from __future__ import annotations

from remainder.record.conditional import ConditionalTelescope
from remainder.record.rungs import RUNGS
from remainder.record.schema import ConditionalFit, Record
from remainder.report.circuit_sections import Section
from remainder.report.order_sections import power_of_shape
from remainder.report.text import MISSING, Notes

__all__ = ["description_length", "found_by_conditioning", "told_of_the_residual"]


def told_of_the_residual(record: Record, notes: Notes) -> Section | None:
    """R² of each conditional kernel with its curve, and the surprise of those that have a density."""
    fits = record.calibration.conditional
    if not fits:
        return None
    body: list[str | tuple[str, ...]] = []
    for rung in RUNGS:
        if rung in fits and rung != "full":
            fit = fits[rung]
            body.append((rung, _share(fit.explained), _surprise(fit), _curve(fit)))
    beside = fits.get("full")
    if beside is not None and beside.surprise is not None:
        body.append(("full", "", _surprise(beside), "the Gaussian residual, for comparison"))
    body += [f"{rung}: R² is of {fit.of}." for rung, fit in fits.items() if fit.of != "r"]
    same = [fit.same_token for fit in fits.values() if fit.same_token is not None]
    if same:
        body.append(f"The nearest x̂ is of the same input token in {100 * same[0]:.0f} % of rows.")
    body.append(
        "R² on calibration documents that were not fitted to; surprise: −log density there, nats a token; "
        "small: better."
    )
    return Section("What tells of the residual: R², surprise, R² by rows fitted to", body)


def found_by_conditioning(record: Record, notes: Notes) -> Section | None:
    """The Gaussian gap by what the best conditional sampler finds, and the means against `mean`."""
    telescope = record.metrics.conditional
    if telescope is None:
        return None
    start = "full-unshrunk" if "full-unshrunk" in record.metrics.rungs else "full"
    body: list[str | tuple[str, ...]] = [("Gaussian gap", notes.cell(telescope.total), f"{start} − clean")]
    body.append(("= shape", notes.cell(telescope.shape), f"{start} − permuted"))
    if telescope.best is None:
        body.append(f"No sampler stands for the rest: {telescope.found.reason}.")
    else:
        body.append(("+ found", notes.cell(telescope.found), f"permuted − {telescope.best}, the best"))
        body.append(("+ not found", notes.cell(telescope.not_found), _rows(record, telescope)))
    for rung, number in telescope.samplers.items():
        if rung != telescope.best:
            body.append((f"apart: {rung}", notes.cell(number), f"permuted − {rung}"))
    for rung, number in telescope.means.items():
        body.append((f"apart: {rung}", notes.cell(number), f"mean − {rung}"))
    if record.metrics.telescope is None:  # else it stands with the terms there
        body += power_of_shape(record)
    return Section("What conditional kernels find of the Gaussian gap (nats per token)", body)


def description_length(record: Record, notes: Notes) -> Section | None:
    """Bits of codes and of a Gaussian remainder, and what they save beside a Gaussian of x."""
    fit, lengths = record.calibration.description, record.metrics.description
    if fit is None:
        return None
    heading = "Description length with a Gaussian remainder (bits a spliced token)"
    if lengths is None or fit.noise is None:
        return Section(heading, [f"Not measured: {fit.reason}."])
    folds = " · ".join(f"{net:.1f}" for net in fit.folds)
    sides = f"noise × 10: {notes.cell(lengths.net_coarse)}; noise / 10: {notes.cell(lengths.net_fine)}"
    return Section(
        heading,
        [
            ("FVU", notes.cell(lengths.fvu), f"at step {fit.step}, chosen on calibration"),
            ("Gaussian of x", notes.cell(lengths.gaussian), f"no codes; {fit.activation}"),
            ("− code bits", notes.cell(lengths.code), "quantised codes"),
            ("− remainder", notes.cell(lengths.remainder), f"Gaussian of what is left; {fit.remainder}"),
            ("= net bits", notes.cell(lengths.net), "above 0: worth more than they cost"),
            f"Net bits of folds of calibration documents, fitted to the others: {folds}; {sides}.",
            f"Bits beyond noise of variance {fit.noise:.3g} a coordinate; no codes save over "
            f"{fit.ceiling:.1f}. Fitted to {fit.rows:,} rows.",
        ],
    )


def _rows(record: Record, telescope: ConditionalTelescope) -> str:
    fits = record.calibration.conditional or {}
    rows = fits[telescope.best].rows if telescope.best in fits else record.calibration.tokens
    return f"{telescope.best} − clean: not found with {rows:,} rows"


def _share(share: float | None) -> str:
    return MISSING if share is None else f"{share:.3f}"


def _surprise(fit: ConditionalFit) -> str:
    return MISSING if fit.surprise is None else f"{fit.surprise:.1f}"


def _curve(fit: ConditionalFit) -> str:
    # A kernel that is fitted to no more than so many rows has one point for all larger numbers.
    points = sorted((int(rows), share) for rows, share in fit.curve.items() if int(rows) <= fit.rows)
    return " · ".join(f"{rows:,}: {share:.3f}" for rows, share in points)
