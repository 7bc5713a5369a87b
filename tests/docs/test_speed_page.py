"""The table of docs/comparison.md has the ratios of all machines on which backbones were measured."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_the_table_has_the_ratios_of_every_machine() -> None:
    """Of the sizes and the step that all machines have."""
    expected: dict[str, list[str]] = {}
    for name, *cells in rows("development/speed.md"):
        match = re.fullmatch(r"([\w/-]+), (?:fp32|bf16)", name)
        if match and len(cells) == 4:
            expected.setdefault(match[1], []).append(cells[2].split()[0])
    cpus = [row for row in rows("development/cpus.md") if row[0] in expected]
    expected = {name: expected[name] for name, *_ in cpus}
    for name, *cells in cpus:
        avx2, avx512 = (re.findall(r"\(([\d.]+),", cell)[0] for cell in cells)
        expected[name] += [avx512, avx2]
    assert len(expected) == 5
    shown = {name.partition(",")[0]: cells for name, _, *cells in rows("comparison.md") if len(cells) == 4}
    assert {name: shown[name] for name in expected} == expected
