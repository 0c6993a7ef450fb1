"""Text files and the cells of CSV and TSV; what could be read in two ways is refused."""

from __future__ import annotations

import codecs
import csv
import io
import re

from mapolab.errors import UserError

Rows = list[tuple[int, list[str]]]
"""(line in the file, from 1; cells) of each row that is not blank, the header first."""


def decode(content: bytes, source: str) -> str:
    """The text with \\n as its only line end; a carriage return within a line becomes a space."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise UserError(f"{source} is not UTF-8 but UTF-16 or UTF-32 text, by its first bytes. Save it as UTF-8.")
    if content.startswith(b"version https://git-lfs"):
        raise UserError(f"{source} is a pointer of Git LFS and not the file itself. Fetch that: `git lfs pull`.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{source} is not UTF-8 text (byte {error.start}, in line {line}); perhaps it is Latin-1 or Windows-1252. "
            "Save it as UTF-8."
        ) from None
    # Where lines end in \n, a lone \r does not end one; old Macintosh files have nothing else.
    return text.replace("\r\n", "\n").replace("\r", " ") if "\n" in text else text.replace("\r", "\n")


def rows_of_csv(text: str, source: str) -> Rows:
    if told := re.match(r"sep=(.)\n", text):  # Excel's own first line
        rows = _parse(text[told.end() :], told[1], source)
        return [(line + 1, cells) for line, cells in rows]
    return _parse(text, ",", source)


def rows_of_tsv(text: str, source: str) -> Rows:
    """PartiPrompts has quotes as they are, `"G I G G L E" painted`; a spreadsheet puts a cell with a quote, a tab or a
    line end in quotes. Where every line has as many cells as the header, only cells that are all in quotes lose them.
    """
    lines = [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    width = len(lines[0][1]) if lines else 0
    if any(len(cells) != width for _, cells in lines):
        try:
            rows = _parse(text, "\t", source)
        except UserError:
            rows = []
        return rows if rows and all(len(cells) == len(rows[0][1]) for _, cells in rows) else lines
    for number, cells in lines:
        if width == 1 and cells[0].startswith('"') and cells[0].count('"') % 2:
            raise _open_quote(source, number)  # perhaps of a prompt of several lines
    return [(number, [_unquoted(cell.strip()) for cell in cells]) for number, cells in lines]


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if re.fullmatch(r'"([^"]|"")*"', cell) else cell


def _parse(text: str, separator: str, source: str) -> Rows:
    """(line, cells) of each row but blank ones; with the spaces before cells, unless the header has some, too."""
    lines, rows, begin = text.split("\n"), [], 1
    header = next((line for line in lines if line.strip()), "")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=f"{separator} " in header, strict=True
    )
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((begin, cells))
                if _looks_like_rows(lines[begin - 1 : reader.line_num], separator, len(rows[0][1])):
                    raise _open_quote(source, begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        if "limit" in str(error):
            raise UserError(f"Line {begin} of {source} has a cell of more than 131,072 characters. Cut it.") from None
        raise _open_quote(source, begin) from None
    return rows


def _looks_like_rows(lines: list[str], separator: str, width: int) -> bool:
    """Whether the lines of one cell in quotes are rows, swallowed by a quote that was not meant to open a cell and is
    closed by the next such one. In a sentence a space follows a comma."""
    split = [line.split(separator) for line in lines]
    return len(lines) > 1 < width and all(
        len(cells) == width and all(cell and not cell.startswith(" ") for cell in cells) for cells in split
    )


def _open_quote(source: str, line: int) -> UserError:
    return UserError(
        f"A quote in line {line} of {source} is not closed where its cell ends. Put the whole cell in quotes and "
        'double those inside, all on one line: "a 5"" screen".'
    )
