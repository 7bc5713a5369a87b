"""Tables as Markdown and as LaTeX."""

from collections.abc import Sequence

from densevit.reporting.html_page import Cell, Table

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--"},
    }
)


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, without a final newline."""
    texts = [[_markdown(cell) for cell in row] for row in [table.header, *table.rows]]
    texts.insert(1, ["---" if cell.left else "---:" for cell in table.header])
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def latex(table: Table) -> str:
    """A LaTeX `tabular` environment for the package booktabs, without a final newline."""
    header, *rows = [f"{' & '.join(map(_latex, row))} \\\\" for row in [table.header, *table.rows]]
    columns = "".join("l" if cell.left else "r" for cell in table.header)
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header, "\\midrule", *rows, "\\bottomrule"]
    return "\n".join([*lines, "\\end{tabular}"])


def number_table(lines: Sequence[Sequence[str]]) -> Table:
    """A table of texts, whose first column is left-aligned. The first line is the header."""
    header, *rows = [[Cell(text, left=n == 0) for n, text in enumerate(line)] for line in lines]
    return Table(header, rows)


def _markdown(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return f"**{text}**" if cell.best else text


def _latex(cell: Cell) -> str:
    text = cell.text.translate(_LATEX)
    return f"\\textbf{{{text}}}" if cell.best else text
