"""Themes of our own, beside Textual's: readable with every kind of colour vision.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which stay
apart for people with protanopia, deuteranopia and tritanopia. Good is blue and bad is
orange; a mark or a word always says the same as the colour.
"""

from __future__ import annotations

from textual.theme import Theme

SKY, BLUE, ORANGE = "#56B4E9", "#0072B2", "#E69F00"

THEMES = (
    Theme(
        name="colour-blind-dark",
        primary=SKY,
        secondary=BLUE,
        accent=ORANGE,
        success=SKY,
        warning=ORANGE,
        error="#FF8A3D",
        foreground="#F2F2F2",
        background="#101418",
        surface="#1A2026",
        panel="#242C34",
        dark=True,
    ),
    Theme(
        name="colour-blind-light",
        primary=BLUE,
        secondary=SKY,
        accent="#8A4B00",
        success=BLUE,
        warning="#8A5A00",
        error="#B34700",
        foreground="#16191D",
        background="#FFFFFF",
        surface="#F1F4F7",
        panel="#E0E6EC",
        dark=False,
    ),
)
