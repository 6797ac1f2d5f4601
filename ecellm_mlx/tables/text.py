"""A cell as a person reads it: markup and nested JSON become text.

Shops keep descriptions as HTML, often escaped once more, and attributes as JSON. A model
should read neither tags nor entities, which also take most of its tokens. Cells in the
table stay as they are: this is for prompts, and for finding values in a text.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

# Names of elements that descriptions are made of; `a < b > c` is no markup.
NAMES = (
    "a|abbr|article|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|figcaption|figure|"
    "font|footer|h[1-6]|head|header|hr|html|i|iframe|img|ins|label|li|link|main|meta|nav|ol|"
    "p|picture|pre|q|s|script|section|small|source|span|strike|strong|style|sub|sup|svg|"
    "table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|video"
)
TAG = re.compile(rf"<(?:/?(?:{NAMES})(?:\s[^<>]*)?/?|!--.*?--)>", re.IGNORECASE | re.DOTALL)
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,10}\d{0,2}|#\d{2,7}|#[xX][0-9a-fA-F]{2,6});")
ESCAPED_TAG = re.compile(rf"&lt;/?(?:{NAMES})\b", re.IGNORECASE)
# What is not for reading, and what stands on lines of its own.
HIDDEN = ("script", "style", "head", "template", "iframe", "svg")
BLOCK = re.compile(
    "article|blockquote|br|d[dlt]|div|figcaption|figure|footer|h[1-6]|header|hr|li|main|nav|ol|"
    "p|pre|section|table|tbody|t[dhr]|tfoot|thead|ul"
)
ITEM = "- "
# Attributes as shops write them: a pair of a name and its value.
PAIRS = (("name", "value"), ("key", "value"), ("label", "value"), ("title", "value"))


def readable(cell: str) -> str:
    """``cell`` without markup, entities and JSON; lines and list items stay apart.

    What is no markup and no JSON comes back as it is.
    """
    text = _from_json(cell)
    if "<" not in text and "&" not in text:
        return text
    if ESCAPED_TAG.search(text):
        text = html.unescape(text)
    if TAG.search(text):
        return _from_markup(text)
    return html.unescape(text).replace("\xa0", " ") if ENTITY.search(text) else text


def _from_markup(text: str) -> str:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text)
    tree.strip_tags(list(HIDDEN))
    parts: list[str] = []
    _read(tree.body or tree.root, parts)
    lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line and line != ITEM.strip())


def _read(node: Any, parts: list[str]) -> None:
    """Append the text below ``node``, blocks on lines of their own."""
    child = node.child if node is not None else None
    while child is not None:
        tag = child.tag
        if tag == "-text":
            # Line ends in the source are white space like any other.
            parts.append(re.sub(r"\s+", " ", child.text_content or ""))
        else:
            block = BLOCK.fullmatch(tag)
            if block:
                parts.append("\n" + (ITEM if tag == "li" else ""))
            _read(child, parts)
            if block:
                parts.append("\n")
        child = child.next


def _from_json(cell: str) -> str:
    """A cell that holds a JSON object, or a list of objects or texts, as text."""
    text = cell.strip()
    if not text.startswith(("{", "[", '"{', '"[', '{\\"', '[{\\"')):
        return cell
    if text[1:2] == "\\" or text.startswith('[{\\"'):
        # Escaped, its quotation marks lost.
        text = f'"{text}"'
    try:
        value = json.loads(text)
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        return cell
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(v, dict | str) for v in value)
    ):
        return _in_words(value)
    return cell


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        for name, content in PAIRS:
            if set(value) == {name, content}:
                return f"{_in_words(value[name])}: {_in_words(value[content])}"
        parts = {str(key): _in_words(inner) for key, inner in value.items()}
        return "; ".join(f"{key}: {inner}" for key, inner in parts.items() if inner)
    if isinstance(value, list):
        return "; ".join(part for inner in value if (part := _in_words(inner)))
    if value is None:
        return ""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
