"""The cells of a workbook, row by row, in memory that does not grow with the rows.

Uses the parts of openpyxl that turn XML into values. Its own reader of large files keeps an
empty element for every row, and all attributes of rows that have a height; shared strings
are kept in memory. Here rows are forgotten when they were given out, and texts are on disk.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from ecellm_mlx.errors import DataError
from ecellm_mlx.tables.spill import TextList


@dataclass(frozen=True)
class Workbook:
    """An open workbook; ``sheets`` are the parts of its archive by title."""

    sheets: dict[str, str]
    _reader: Any

    def rows(self, title: str) -> Iterator[tuple[int, list[Any]]]:
        """The rows that a sheet holds: number from 1, and values from the first column on.

        Raises:
            ParseError, ValueError, KeyError, IndexError: the sheet is damaged.
        """
        from openpyxl.worksheet._reader import DATA_TAG, ROW_TAG, WorkSheetParser
        from openpyxl.xml.functions import iterparse

        book = self._reader.wb
        with self._reader.archive.open(self.sheets[title]) as source:
            parser = WorkSheetParser(
                source,
                self._reader.shared_strings,
                data_only=True,
                epoch=book.epoch,
                date_formats=book._date_formats,
                timedelta_formats=book._timedelta_formats,
            )
            data = None
            for event, element in iterparse(source, events=("start", "end")):
                if event == "start":
                    data = element if element.tag == DATA_TAG else data
                elif element.tag == ROW_TAG:
                    number, cells = parser.parse_row(element)
                    values = [None] * max((cell["column"] for cell in cells), default=0)
                    for cell in cells:
                        values[cell["column"] - 1] = cell["value"]
                    yield number, values
                    parser.row_dimensions.clear()
                    if data is not None:
                        data.clear()
                elif element.tag == DATA_TAG:
                    return


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Workbook]:
    """Open a workbook.

    Raises:
        DataError: it is missing, is none, or has no worksheet.
    """
    from openpyxl.packaging.relationship import get_dependents  # noqa: F401 - loads all
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.styles.stylesheet import apply_stylesheet
    from openpyxl.utils.exceptions import InvalidFileException

    with TextList() as strings:
        try:
            reader = ExcelReader(path, read_only=True, keep_links=False, data_only=True)
            reader.read_manifest()
            _read_shared_strings(reader, strings)
            reader.read_workbook()
            apply_stylesheet(reader.archive, reader.wb)
            sheets = {
                sheet.name: relation.target
                for sheet, relation in reader.parser.find_sheets()
                if relation.target in reader.valid_files and "chartsheet" not in relation.Type
            }
        except FileNotFoundError:
            raise DataError(f"{path} does not exist", cure="check the path") from None
        except (
            InvalidFileException,
            zipfile.BadZipFile,
            KeyError,
            OSError,
            TypeError,
            ValueError,
            ParseError,
        ) as error:
            raise DataError(
                f"{path} is no XLSX workbook that can be read",
                got=str(error).split("\n")[0].rstrip("."),
                cure="save it again as XLSX, or export it as CSV",
            ) from None
        with reader.archive:
            if not sheets:
                raise DataError(f"{path} has no worksheet", cure="add one")
            yield Workbook(sheets, reader)


def _read_shared_strings(reader: Any, strings: TextList) -> None:
    """Fill ``strings`` from the workbook's table of texts."""
    from openpyxl.cell.text import Text
    from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
    from openpyxl.xml.functions import iterparse

    part = reader.package.find(SHARED_STRINGS)
    reader.shared_strings = strings
    if part is None:
        return
    tag = f"{{{SHEET_MAIN_NS}}}si"
    with reader.archive.open(part.PartName[1:]) as source:
        root = None
        for event, node in iterparse(source, events=("start", "end")):
            if root is None:
                root = node
            if event == "end" and node.tag == tag:
                strings.append(Text.from_tree(node).content.replace("x005F_", ""))
                # The root would otherwise keep every string that was read.
                root.clear()
