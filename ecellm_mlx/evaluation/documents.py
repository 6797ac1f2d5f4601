"""A report as a list of blocks, written as one HTML page or as Markdown.

The page is whole in itself: styles and plots are inside, scripts and links to other
places are not, and its policy forbids a browser to load any. Everything that is put into
a block is plain text and is escaped here, except for plots, which escape their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--soft:#f3f4f6;--rule:#d5d9de;
--c0:#6b7785;--c1:#2563c9;--c2:#c2570c;--c3:#15803d;--c4:#a21caf;--c5:#b91c1c;--c6:#0e7490;
--c7:#854d0e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--paper:#15181b;--soft:#20252a;
--rule:#3a4148;--c0:#98a3af;--c1:#6ea3f5;--c2:#f09a5a;--c3:#5bc27c;--c4:#d98be3;--c5:#f08080;
--c6:#5cc4d8;--c7:#d9b25f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1280px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.2rem}h3{font-size:1.05rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--rule);text-align:left;
vertical-align:top}th{background:var(--soft);font-weight:600}td.n{text-align:right;
white-space:nowrap}td.w{white-space:nowrap}
.note{background:var(--soft);border-left:4px solid var(--c2);
padding:.6rem .9rem}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);
padding:.5rem;margin:0;font-size:.85rem}svg{width:100%;height:auto;max-width:720px}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.grid{stroke:var(--rule)}.whisker{stroke:var(--ink);stroke-width:1.2}
.halo{stroke:var(--paper);stroke-width:2.6}.line{fill:none;
stroke-width:2}
""" + "".join(
    f".c{n}{{fill:var(--c{n})}}.line.c{n}{{fill:none;stroke:var(--c{n})}}" for n in range(8)
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Text; a ``note`` stands out."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Cells of text; ``numbers`` are aligned to the right, ``whole`` stay on one line."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Verbatim:
    """A text of a row or a model, with its line breaks, under a label."""

    label: str
    text: str


@dataclass(frozen=True)
class Plot:
    """SVG from ``plots``; Markdown leaves it out."""

    svg: str


Block = Heading | Paragraph | Table | Verbatim | Plot


def to_html(blocks: Sequence[Block]) -> str:
    """One self-contained page."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "Report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def to_markdown(blocks: Sequence[Block]) -> str:
    """The same without plots."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block))) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, note):
            return f"<p{' class=note' if note else ''}>{escape(text)}</p>"
        case Verbatim(label, text):
            return f"<p>{escape(label)}</p><pre>{escape(_visible(text))}</pre>"
        case Plot(svg):
            return svg
        case Table(header, rows, numbers, whole):
            kinds = dict.fromkeys(whole, " class=w") | dict.fromkeys(numbers, " class=n")
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            lines = "".join(
                "<tr>"
                + "".join(
                    f"<td{kinds.get(n, '')}>{escape(_visible(cell))}</td>"
                    for n, cell in enumerate(row)
                )
                + "</tr>\n"
                for row in rows
            )
            return (
                f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
                f"<tbody>\n{lines}</tbody></table></div>"
            )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return "#" * level + " " + _inline(text)
        case Paragraph(text, note):
            return f"> {_inline(text)}" if note else _inline(text)
        case Verbatim(label, text):
            # A fence that is longer than any in the text cannot be closed by it.
            longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{_inline(label)}\n\n{fence}\n{_visible(text)}\n{fence}"
        case Plot():
            return ""
        case Table(header, rows, numbers):
            rule = ["---:" if n in numbers else "---" for n in range(len(header))]
            lines = [header, rule, *([_inline(_visible(cell)) for cell in row] for row in rows)]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _inline(text: str) -> str:
    """Text that no Markdown reader takes for markup."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", flat)


def _visible(text: str) -> str:
    """Control characters as symbols: a page must show what is there, and nothing else."""
    return "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c
        for c in text.replace("\r\n", "\n").encode(errors="backslashreplace").decode()
    )
