"""Archives in place of a folder: one line with the fix, at every place that takes the path of a data set."""

import shutil
from pathlib import Path

import pytest

import densevit
from densevit.cli import main


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("predict {model} {path} --out {out}", "zip"),
        ("data convert yolo {path} {out}", "gztar"),
        ("doctor {path}", "tar"),
        ("train {path}", "zip"),
        ("train detr_swin data={path}", "zip"),
        ("train detr_swin data.name=coco data.root={path}", "xztar"),
        ("shard data/coco {out} data.root={path}", "zip"),
    ],
)
def test_an_archive_is_one_line_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, kind: str):
    model = tmp_path / "m.safetensors"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.txt").write_text("0 0.5 0.5 0.1 0.1")
    path = shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "set")
    if "{model}" in place:
        options = {"name": "swin", "variant": "nano"}
        head, classes = {"segmentation": "setr"}, {"segmentation": ["a", "b"]}
        densevit.save(densevit.create_model(options, heads=head, classes=classes), model)
    code = main(place.format(path=path, out=tmp_path / "out", model=model).split())
    error = capsys.readouterr().err.strip()
    assert code in (1, 2) and error.count("\n") == 0, error
    assert path in error and "an archive or a compressed file. Fix: unpack it" in error
