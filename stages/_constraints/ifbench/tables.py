"""The group `custom`, as far as tables are asked for: rows of values, divided by a mark."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from stages._constraints.constraint import Constraint, kind


@kind(
    "custom:csv_city",
    "Write CSV, divided by commas, with the columns ID, Country, City, Year and Count, and 7 rows.",
)
class CsvCity(Constraint):
    """A header and seven rows of five values."""

    def check(self, text: str) -> bool:
        """See the class."""
        table = _table(text)
        return len(table) == 8 and table[0] == ["ID", "Country", "City", "Year", "Count"] and (
            all(len(row) == 5 for row in table)
        )  # fmt: skip


@kind(
    "custom:csv_special_character",
    "Write CSV, divided by commas, with the columns ProductID, Category, Brand, Price and Stock, "
    "and 14 rows. One value must have a special character and stand in double quotes.",
)
class CsvSpecialCharacter(Constraint):
    """A header and 14 rows; a quoted value with a special character, and rows before it of five."""

    def check(self, text: str) -> bool:
        """See the class."""
        if not _has_header(text, ("ProductID", "Category", "Brand", "Price", "Stock"), r",[ \t]*"):
            return False
        table = _table(text.replace('"', '"""'))
        if len(table) != 15:
            return False
        for row in table[1:]:
            if len(row) != 5:
                return False
            if any(re.match(r'".*[^\d\w\s].*"', value) for value in row):
                return True
        return False


@kind(
    "custom:csv_quotes",
    "Write a table, divided by tabs, with the columns StudentID, Subject, Grade, Semester and "
    "Score, and 3 rows. Every value must stand in double quotes.",
)
class CsvQuotes(Constraint):
    """A header and three rows of five quoted values, divided by tabs."""

    def check(self, text: str) -> bool:
        """See the class."""
        if not _has_header(text, ("StudentID", "Subject", "Grade", "Semester", "Score"), r"\t *"):
            return False
        table = _table(text.replace('"', '"""'), "\t")
        return len(table) == 4 and all(
            len(row) == 5 and all(re.fullmatch(r'(?s)"(?:.*")?', v.strip()) for v in row)
            for row in table
        )


def _table(text: str, delimiter: str = ",") -> list[list[str]]:
    """The rows of a table; none where it cannot be read."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _has_header(text: str, names: Sequence[str], delimiter: str) -> bool:
    pattern = delimiter.join(f'(?:{name}|"{name}")' for name in names)
    return re.fullmatch(pattern, text.split("\n")[0].strip()) is not None
