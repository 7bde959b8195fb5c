"""Okabe & Ito's colours, which colour-blind readers tell apart; of all figures. Loads nothing."""

from __future__ import annotations

__all__ = ["BLACK", "BLUE", "GREEN", "GREY", "ORANGE", "PALE", "PURPLE", "SKY", "VERMILION"]

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
PALE, GREEN, ORANGE = "#BBDDF3", "#009E73", "#E69F00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
