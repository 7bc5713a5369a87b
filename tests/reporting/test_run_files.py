"""densevit/reporting/run_files.py: heads, tables and texts of a run's files."""

from pathlib import Path

from densevit.reporting import run_files

CONFIG = "heads: {a-b: {name: detr}, b: {name: setr}}\n"


def test_files_are_text_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"name: caf\xe9")
    assert run_files.text_of(tmp_path / "config.yaml") == "name: caf\ufffd"
    assert run_files.text_of(tmp_path / "none.yaml") == ""


def test_tables_belong_to_the_longest_name_of_a_head(tmp_path: Path) -> None:
    heads = run_files.heads_of(tmp_path, CONFIG)
    assert heads == ["a-b", "b"]
    for name in ("errors-a-b", "errors-b", "images-b"):
        (tmp_path / f"{name}.csv").write_text("error,count\nmissed,3\n")
    table = [["error", "count"], ["missed", "3"]]
    assert run_files.tables_of(tmp_path, heads) == {"a-b": {"errors": table}, "b": {"errors": table}}


def test_a_config_without_heads_trains_the_backbone_alone() -> None:
    assert run_files.has_no_heads("heads: {}") and not run_files.has_no_heads(CONFIG)
    assert run_files.backbone_name({"name": "timm", "model": "lite0"}) == "lite0"
