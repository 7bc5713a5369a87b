"""Escapes text in CSV files that a spreadsheet would run as a formula, such as a class named `=cmd|...`."""

from typing import Any

FORM: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""Options with which CSV files are written. File names that are not valid UTF-8 keep their bytes."""

READ_FORM: Any = {**FORM, "encoding": "utf-8-sig"}
"""Options with which they are read: a spreadsheet may have saved them with a byte-order mark."""

_BEGINS_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def escaped(value: Any) -> Any:
    """Adds a leading apostrophe to text that a spreadsheet would take for a formula; other values are unchanged.

    Numbers as text are unchanged too. Text with leading apostrophes before the first character of a formula gets one
    more, so that `unescaped` is the inverse.
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value.lstrip("'")) else value


def unescaped(text: str) -> str:
    """Inverse of `escaped`."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(_BEGINS_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
