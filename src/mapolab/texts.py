"""What a text may hold, and how it is written where some of its signs would mean something: one function a medium.

Names, prompts, paths and the keys of weights come from files of strangers. In HTML jinja2 escapes by itself, and
matplotlib is told to take no text for a formula; control signs are shown in both as in the terminal.
"""

import re
import sys
from typing import Any

# Control characters but for tab and line ends, and half a surrogate pair: "\ud800" in JSON, or bytes of a command line
# that are no UTF-8.
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# What moves a terminal's cursor, recolours or rewrites what stands there, or turns the text around it: control
# characters but for tab and line feed, marks of direction, and what no file can hold. A zero-width joiner makes emojis.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]"
)
# A spreadsheet takes a cell that begins so for a formula; the first of the apostrophes before it is ours.
FORMULA = re.compile("'*[\t\r\n]*[=+\\-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
                     "\N{FULLWIDTH COMMERCIAL AT}]")  # fmt: skip
PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf", re.ASCII)

# Letters that are commands of LaTeX, or become other letters; brackets and stars would be arguments of the line break
# before.
LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {letter: f"{{{letter}}}" for letter in "[]*`'"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {
    "\N{HYPHEN}": "{-}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{INFINITY}": r"$\infty$",
}


def odd_character(text: str) -> str | None:
    """The first character that a text may not hold, as `U+D800`; None where there is none."""
    found = ODD.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def one_line(text: str) -> str:
    """The text with line ends and tabs as spaces, and without spaces or byte order marks around it."""
    return " ".join(text.splitlines()).replace("\t", " ").strip().strip("\ufeff").strip()


def brief(value: object, length: int = 120) -> str:
    """What a file says, for a message: on one line, and cut where it is long."""
    text = one_line(str(value))
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def visible(text: str) -> str:
    r"""For the terminal, the page and plots: signs that act instead of being seen, as `\x1b` or `\u202e`."""
    return HIDDEN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def rich_text(text: str, style: str = "") -> Any:
    """For rich's tables, trees and print: `visible`, in which no [tag] and no :emoji: is a mark."""
    from rich.text import Text

    return Text(visible(text), style)


def say(text: str, to_errors: bool = False) -> None:
    """Print a line, `visible`, at once."""
    print(visible(text), file=sys.stderr if to_errors else sys.stdout, flush=True)


def markdown(text: str) -> str:
    """For Markdown: one line in which nothing is a mark, a tag, a link or the end of a table's cell."""
    signs = r"([\\`*|~]|<(?=[A-Za-z/!?])|(?<=[^\s>])>|\](?=[(\[:])|!(?=\[)|(?<!\w)_|_(?!\w)|&(?=#?\w+;))"
    line = re.sub(signs, r"\\\1", visible(" ".join(text.split())))
    # A web address becomes a link by itself; as does www.
    return re.sub(r"(?i)\b(https?|ftp)(?=://)|\bwww(?=\.)", lambda found: f"{found[0]}&#8203;", line)


def latex(text: str) -> str:
    """For LaTeX: one line in which nothing is a command."""
    line = re.sub("(?<=-)-", "\N{HYPHEN}", visible(" ".join(text.split())))  # two in a row would be a dash
    return "".join(LATEX.get(letter, letter) for letter in line)


def with_apostrophe(text: str) -> str:
    """For a cell of a CSV file, in which it is no formula; a number stays one. `without_apostrophe` reads it again."""
    return f"'{text}" if FORMULA.match(text) and not PLAIN_NUMBER.fullmatch(text) else text


def without_apostrophe(cell: str) -> str:
    """What `with_apostrophe` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
