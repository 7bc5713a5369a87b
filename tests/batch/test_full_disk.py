"""A full disk in `densevit predict`: the message names the folder or the file, whichever file is written."""

import errno
import re

import pytest

WRITERS = {
    "drawings": "PIL.Image.Image.save",
    "blocks": "gzip.GzipFile.write",
    "lists": "densevit_batch.joining.JsonList.write",
    "tables": "densevit_batch.joining.CsvTable.write",
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_names_the_predictions(writer, model, photos, run, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, full)
    written = run("predict", "model", "b", "--out", "found", code=2)
    assert re.search(r"\bfound(/[\w.]+)?: No space left on device\.$", written)
