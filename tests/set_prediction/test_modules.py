"""Each module of set prediction has a file of tests."""

from pathlib import Path


def test_each_module_has_a_file_of_its_name(project: Path):
    modules = {path.stem for path in (project / "densevit" / "set_prediction").glob("*.py")} - {"__init__"}
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules == tested - {"modules"}
