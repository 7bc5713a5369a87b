"""Text in CSV files: what a spreadsheet would run as a formula, as the class `=cmd|...` of somebody else's data set."""

from typing import Any

FORM: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""How CSV files are opened. Names of files that are no UTF-8 keep their bytes."""

_BEGINS_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def escaped(value: Any) -> Any:
    """A cell as it is written: text that a spreadsheet takes for a formula gets a leading apostrophe; others stay.

    Numbers as text stay too. Text that begins with apostrophes before such a sign gets one more, so that `unescaped`
    is the inverse.
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
