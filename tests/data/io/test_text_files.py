"""Text and JSON files of other programs."""

import codecs
from pathlib import Path

import pytest

from densevit.data.datasets.color_tables import read_labelmap
from densevit.data.io.text_files import read_json, read_text
from densevit.errors import DataError
from densevit.evaluation import tables_file


def test_byte_order_marks_are_no_part_of_the_text(tmp_path):
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("\ufeffchat é\n".encode(encoding))
        assert read_text(tmp_path / "a.txt") == "chat é\n", encoding


def test_readers_of_text_accept_files_of_windows(tmp_path):
    """With a byte-order mark, two bytes per character and carriage returns."""

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"))
        return tmp_path / name

    labelmap = read_labelmap(write("labelmap.txt", "road:1,2,3::\ntree:4,5,6::\n"))
    assert [one["name"] for one in labelmap] == ["road", "tree"]
    (tmp_path / "table.csv").write_bytes(codecs.BOM_UTF8 + b"image,score\r\na.png,0.5\r\n")
    assert tables_file.read(tmp_path / "table.csv") == [["image", "score"], ["a.png", "0.5"]]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match="a.file cannot be read as UTF-8 text: No such file"):
        read_text(tmp_path / "a.file")
    for read, content, message in (
        (read_text, b"caf\xe9", "a.file cannot be read as UTF-8 text: "),
        (read_json, b"{", "a.file is not valid JSON: "),
    ):
        (tmp_path / "a.file").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read(tmp_path / "a.file")
