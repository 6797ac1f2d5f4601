"""Columns are recognised by their names, in the languages and spellings that shops use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx.tables import open_table
from ecellm_mlx.tables.guess import Choice, guess
from ecellm_mlx.tasks.registry import find

pytestmark = pytest.mark.unit

CASES = Path(__file__).with_name("cases")
AVE = ("title", "description", "price", "brand")


def choices(path: Path) -> dict[str, Choice]:
    """The guessed columns of the parts of a product."""
    guessed = guess(open_table(path), find("AVE"), ["target attributes"])
    return {choice.field.removeprefix("product "): choice for choice in guessed.choices}


def columns(path: Path) -> dict[str, str]:
    return {field: choice.column for field, choice in choices(path).items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("03-accents-es", {"title": "Título", "description": "Descripción", "price": "Precio"}),
        (
            "03-accents-fr",
            {"title": "Désignation", "description": "Descriptif", "price": "Prix TTC"},
        ),
        (
            "03-compound-de",
            {
                "title": "Artikelbezeichnung",
                "description": "Langtext",
                "brand": "Hersteller",
            },
        ),
        (
            "03-portuguese",
            {"title": "Nome", "description": "Descrição", "price": "Preço", "brand": "Marca"},
        ),
    ],
)
def test_columns_in_other_languages(name: str, expected: dict[str, str]) -> None:
    assert columns(CASES / f"{name}.csv") == expected


HEADERS = {
    "shopify": ("Handle,Title,Body (HTML),Vendor,Variant Price", "Title", "Body (HTML)",
                "Variant Price", "Vendor"),
    "woocommerce": ("ID,SKU,Name,Short description,Description,Regular price,Brands", "Name",
                    "Description", "Regular price", "Brands"),
    "magento": ("sku,name,description,price,manufacturer", "name", "description", "price",
                "manufacturer"),
    "etsy": ("TITLE,DESCRIPTION,PRICE", "TITLE", "DESCRIPTION", "PRICE", None),
    "amazon": ("item_sku,item_name,product_description,standard_price,brand_name", "item_name",
               "product_description", "standard_price", "brand_name"),
    "ebay": ("*Action(SiteID=US),*Title,*Description,*StartPrice,*C:Brand", "*Title",
             "*Description", "*StartPrice", "*C:Brand"),
    "google": ("id,title,description,price,brand", "title", "description", "price", "brand"),
    "akeneo": ("sku,name-en_US,description-en_US-ecommerce,price-EUR,brand", "name-en_US",
               "description-en_US-ecommerce", "price-EUR", "brand"),
    "dutch": ("sku,Productnaam,Omschrijving,Verkoopprijs,Merk", "Productnaam", "Omschrijving",
              "Verkoopprijs", "Merk"),
    "italian": ("codice,Titolo,Descrizione,Prezzo,Produttore", "Titolo", "Descrizione",
                "Prezzo", "Produttore"),
    "polish": ("SKU,Nazwa,Opis,Cena,Producent", "Nazwa", "Opis", "Cena", "Producent"),
}  # fmt: skip
VALUES = {
    "title": ("Big red mug", "Oak tray large"),
    "description": (
        "A mug made of stone that holds half a litre of tea",
        "A tray of solid oak with two handles and a soft base",
    ),
    "price": ("9.90", "19.00"),
    "brand": ("Acme", "Mill"),
}


@pytest.mark.parametrize("shop", HEADERS)
def test_headers_of_shops(tmp_path: Path, shop: str) -> None:
    header, *expected = HEADERS[shop]
    wanted = dict(zip(AVE, expected, strict=True))
    names = header.split(",")
    field_of = {column: field for field, column in wanted.items()}
    lines = [header]
    for place in range(2):
        cells = []
        for name in names:
            if name in field_of:
                cells.append(VALUES[field_of[name]][place])
            elif name == "Short description":
                cells.append("A short text of six words")
            else:
                cells.append(f"X-{place}")
        lines.append(",".join(cells))
    source = tmp_path / "t.csv"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert columns(source) == {f: c for f, c in wanted.items() if c}


def test_a_mostly_blank_column_is_no_better_price_and_a_flag_no_brand() -> None:
    prices = choices(CASES / "10-sale-price.csv")
    assert prices["price"].column == "regular_price"
    assert prices["price"].reason == "named like 'regular price'"
    assert "brand" not in columns(CASES / "10-label-column.csv")
