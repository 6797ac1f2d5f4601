"""What a person would read in a cell, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.tables import open_table
from ecellm_mlx.tables.text import TAG, readable

pytestmark = pytest.mark.unit

CASES = Path(__file__).with_name("cases")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("<p>A <b>large</b> red&nbsp;mug &amp; lid</p>", "A large red mug & lid"),
        ("<ul><li>0.5&nbsp;l</li><li>deep<br>blue</li></ul>", "- 0.5 l\n- deep\nblue"),
        ("Tea<br/>for two", "Tea\nfor two"),
        ("&lt;p&gt;Solid oak&lt;/p&gt;", "Solid oak"),
        ("Caf&eacute; &#8364;5 &amp; more", "Café €5 & more"),
        ("5 < 6 & 7 > 3, no markup here", "5 < 6 & 7 > 3, no markup here"),
        ("A&B", "A&B"),
        ("x<y and y>z", "x<y and y>z"),
        ("<style>p {color: red}</style><script>if (a<b) x()</script><p>Mug</p>", "Mug"),
        ("<table><tr><td>Size</td><td>L</td></tr></table>", "Size\nL"),
        ("<p>broken <b>markup", "broken markup"),
        ("<!-- note --><div>Mug</div>", "Mug"),
        ("  spaces  stay  ", "  spaces  stay  "),
        ('{"Color": "Red", "Size": ["L", "M"], "sale": null}', "Color: Red; Size: L; M"),
        ('[{"name": "Color", "value": "Red"}, {"name": "Size", "value": 9}]',
         "Color: Red; Size: 9"),
        ('"{\\"Color\\": \\"<b>Red</b>\\"}"', "Color: Red"),
        ('{\\"Color\\": \\"Red\\"}', "Color: Red"),
        ('["<p>soft</p>", "warm"]', "soft\n; warm"),
        ("[NEW] mug", "[NEW] mug"),
        ("[2024]", "[2024]"),
        ("{not json}", "{not json}"),
    ],
)  # fmt: skip
def test_a_cell_is_read(cell: str, expected: str) -> None:
    assert readable(cell) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_to_its_end(text: str) -> None:
    once = readable(text)
    assert not TAG.search(once) or TAG.search(text)
    if not set(text) & set('<&{["'):
        assert once == text


def test_a_product_of_a_shop() -> None:
    rows = [row.cells[2] for row in open_table(CASES / "02-html.csv").good_rows()]
    assert " ".join(readable(rows[0]).split()) == (
        "A large red mug & lid - holds 0.5 l - deep blue inside"
    )
    assert readable(rows[1]) == rows[1]
