"""What a text may hold: everything that UTF-8 files, tables and terminals take as it is."""

import re

# Control characters but for tab and line ends, and half a surrogate pair: "\ud800" in JSON, or bytes of a command line
# that are no UTF-8.
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


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
