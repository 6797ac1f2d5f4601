"""Real rows and a real catalog that come with the package, for the demo and the tests.

``folder()`` is a dataset folder (``train.jsonl``, ``val.jsonl``, ``test.jsonl``);
``catalog()`` is a table of products. Where they come from is said in ``README.md``
beside them and in the NOTICE file; ``benchmarks/make_sample.py`` cut them out.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def folder() -> Path:
    """The folder of the sample; the package is installed as files, never zipped."""
    return Path(str(resources.files(__name__)))


def catalog() -> Path:
    """A CSV of 60 products with empty prices, and line breaks and quotes inside cells."""
    return folder() / "catalog.csv"
