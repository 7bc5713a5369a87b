"""Text, YAML and JSON files of other programs."""

import codecs
from pathlib import Path

import pytest

from densevit.data.io.text_files import read_json, read_text
from densevit.errors import DataError
from densevit_workbench.interchange.yaml_text import read_yaml_as_text


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + "chat é\n".encode(),
        codecs.BOM_UTF16_LE + "chat é\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "chat é\n".encode("utf-16-be"),
    ],
)
def test_byte_order_marks_are_no_part_of_the_text(tmp_path: Path, content: bytes):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == "chat é\n"


def test_yaml_scalars_stay_as_they_are_written(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(codecs.BOM_UTF8 + b"names: [no, 001, 010, null, ~, 12:30, 1e3, '2']\nnc: 8\n")
    names = ["no", "001", "010", "null", "~", "12:30", "1e3", "2"]
    assert read_yaml_as_text(tmp_path / "a.yaml") == {"names": names, "nc": "8"}


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_text, b"caf\xe9", "a.file cannot be read as UTF-8 text: "),
        (read_json, b"{", "a.file is not valid JSON: "),
        (read_text, None, "a.file cannot be read as UTF-8 text: No such file"),
        (read_yaml_as_text, b"a: [", "a.file is not valid YAML: "),
    ],
)
def test_errors_name_the_file(tmp_path: Path, read, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / "a.file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.file")
