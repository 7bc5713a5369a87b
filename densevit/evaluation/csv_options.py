"""Options for writing and reading CSV files. Cells are written unchanged, including text that begins with `=`."""

from typing import Any

FORM: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""Options for writing. File names that are not valid UTF-8 keep their bytes."""

READ_FORM: Any = {**FORM, "encoding": "utf-8-sig"}
"""Options for reading, with or without a byte-order mark, which spreadsheets write."""
