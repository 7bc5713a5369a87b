"""Archives in place of a folder: one line with the fix, at every place that takes the path of a data set."""

import tarfile
import zipfile
from pathlib import Path

import pytest

import densevit
from densevit.cli import main

_PLACES = [
    "predict {model} {path} --out {out}",
    "data convert yolo {path} {out}",
    "data convert coco {path} {out}",
    "doctor {path}",
    "train {path}",
    "train detr_swin data={path}",
    "train detr_swin data.name=coco data.root={path}",
    "train detr_swin data.name=label_maps data.root={path}",
    "shard data/coco {out} data.root={path}",
    "shard {path} {out}",
]


_NAMES = ["a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip", "gzip.tar"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *((place, "a.zip") for place in _PLACES),
        *((place, name) for place in _PLACES[:2] for name in _NAMES[:5]),
        (_PLACES[3], "gzip.tar"),
    ],
)
def test_an_archive_is_one_line_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, name: str):
    path, model = tmp_path / name, tmp_path / "m.safetensors"
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.1 0.1")
    if name == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "1.txt", "1.txt")
    else:
        kind = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(name.rpartition(".")[2], "")
        with tarfile.open(path, f"w:{'gz' if name == 'gzip.tar' else kind}") as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "1.txt", "1.txt")
    if "{model}" in place:
        if name == "a.tar":
            pytest.skip("which is read")
        options = {"name": "swin", "variant": "nano"}
        head, classes = {"segmentation": "setr"}, {"segmentation": ["a", "b"]}
        densevit.save(densevit.create_model(options, heads=head, classes=classes), model)
    code = main(place.format(path=path, out=tmp_path / "out", model=model).split())
    error = capsys.readouterr().err.strip()
    assert code in (1, 2) and error.count("\n") == 0, error
    assert str(path) in error and "an archive or a compressed file. Fix: unpack it" in error
