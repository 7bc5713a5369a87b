"""Options with which CSV files are written and read. Cells are written as they are, also text that begins with `=`."""

from typing import Any

FORM: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""Options with which CSV files are written. File names that are not valid UTF-8 keep their bytes."""

READ_FORM: Any = {**FORM, "encoding": "utf-8-sig"}
"""Options with which they are read: a spreadsheet may have saved them with a byte-order mark."""
