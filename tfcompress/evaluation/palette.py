"""Colours that are told apart by everyone, on paper and on screen, light and dark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tone:
    """One colour role.

    Attributes:
        variable: Name of the CSS variable.
        light: Colour on a light ground; also the one in matplotlib figures.
        dark: Colour on a dark ground.
    """

    variable: str
    light: str
    dark: str


# The baseline is neutral, so that the eye goes to what was done to it.
ENTRIES = (
    Tone("--entry-0", "#64748b", "#94a3b8"),
    Tone("--entry-1", "#2563eb", "#6ea8fe"),
    Tone("--entry-2", "#d9770a", "#f6b14a"),
    Tone("--entry-3", "#0d9373", "#3fd0a8"),
    Tone("--entry-4", "#9333ea", "#c79bff"),
    Tone("--entry-5", "#d6336c", "#ff8fb4"),
    Tone("--entry-6", "#0b87a8", "#52cdea"),
    Tone("--entry-7", "#8a6d1c", "#d9c06a"),
)
MARKERS = "osD^vPX*"
TEXT = Tone("--text", "#1b2430", "#e6ebf2")
MUTED = Tone("--muted", "#5d6b7c", "#9aa7b8")
GRID = Tone("--grid", "#e3e8ee", "#2b3543")
GROUND = Tone("--card", "#ffffff", "#171e29")
BETTER = Tone("--better", "#0b7f5f", "#3fd0a8")
WORSE = Tone("--worse", "#c22f44", "#ff8a96")

TONES = (*ENTRIES, TEXT, MUTED, GRID, GROUND, BETTER, WORSE)


def entry_tone(index: int) -> Tone:
    """Return the colour of the entry at that position."""
    return ENTRIES[index % len(ENTRIES)]


def entry_marker(index: int) -> str:
    """Return matplotlib's marker of the entry at that position."""
    return MARKERS[index % len(MARKERS)]
