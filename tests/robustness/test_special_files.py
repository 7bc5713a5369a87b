"""FIFOs, devices and programs among the files of a data set are named or skipped: reading one may never end."""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from densevit.config import DataSection
from densevit.data.data_builder import DataSplits
from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.data.io.videos import VideoFrames, count_frames
from densevit.errors import DataError, UnreadableFileError
from densevit.inference.input_images import find_images
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from densevit_workbench.interchange.foreign_layouts import foreign_format
from tests.workbench.interchange.files import image

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")

FIFO = "is a FIFO; a regular file is expected"


@pytest.fixture(autouse=True)
def at_most_10_seconds() -> Iterator[None]:
    """A test that waits for a FIFO fails."""

    def fail(*_: object) -> None:
        pytest.fail("a FIFO was opened")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


READERS: tuple[tuple[Callable[[Path], object], str], ...] = (
    (read_image, "jpg"), (image_header, "png"), (read_label, "png"), (label_size_of, "png"), (read_depth, "png"),
    (read_depth, "npz"), (read_depth, "exr"), (read_depth, "pfm"), (depth_size_of, "png"), (depth_size_of, "npy"),
)  # fmt: skip


def test_file_that_is_a_fifo_is_named(tmp_path):
    """Or a device, or a link to one."""
    for read, suffix in READERS:
        path = fifo(tmp_path / f"a.{suffix}")
        with pytest.raises(UnreadableFileError, match=rf"a\.{suffix}: it {FIFO}"):
            read(path)
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for path in (Path("/dev/zero"), tmp_path / "b.png"):
        with pytest.raises(UnreadableFileError, match=f"{path}: it is a device; a regular file is expected"):
            read_image(path)
    path = fifo(tmp_path / "clip.mp4")
    assert count_frames(path) == 0
    with pytest.raises(DataError, match=r"clip\.mp4: no frame could be read"):
        VideoFrames(path, {0}).read(0)


def test_fifo_among_images_without_labels_is_named_or_left_out(tmp_path):
    for name in ("train/a.png", "val/a.png", "train/b.png"):
        image(tmp_path / name)
    fifo(tmp_path / "train" / "c.png")
    values = {"name": "images", "root": str(tmp_path), "image_size": 32, "batch_size": 3, "num_workers": 0}
    with pytest.raises(UnreadableFileError, match=rf"train/c\.png: it {FIFO}"):
        len(DataSplits(DataSection(**values), 0, 32).train)
    data = DataSplits(DataSection(**values, on_error="skip"), 0, 32)
    with pytest.warns(UserWarning, match=r"1 of 3 images will be left out .*c\.png: it is a FIFO"):
        assert len(data.train) == 3
    [batch] = data.train_loader()
    assert len(batch["images"]) == 2 and "c.png" in str(batch["skipped"])


def test_fifo_among_annotations_is_named(tmp_path):
    """And the layout of such a folder is not searched forever."""
    for kind, file in (("labelme", "a.json"), ("voc", "Annotations/a.xml"), ("voc", "ImageSets/Main/train.txt")):
        folder = tmp_path / file.replace("/", "-")
        image(folder / "a.png")
        if file.endswith("txt"):
            (folder / "Annotations").mkdir()
            (folder / "Annotations" / "a.xml").write_text("<annotation/>")
        fifo(folder / file)
        foreign_format(folder)
        with pytest.raises(DataError, match=rf"{Path(file).name} {FIFO}"):
            convert_dataset(kind, folder, tmp_path / "out")


def test_fifo_among_the_inputs_of_predict_is_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "photos" / "a.png")
    for name in ("b.png", "clip.mp4"):
        fifo(tmp_path / "photos" / name)
    for pattern in ("photos", "photos/*"):
        assert [str(found.path) for found in find_images([pattern])] == ["photos/a.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos/a.png\nphotos/clip.mp4\n"))
    found = find_images(["-"])
    assert [str(one.path) for one in found] == ["photos/a.png", "photos/clip.mp4"]  # reported when it is read


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow runs Ghostscript for EPS, whatever a file is called."""
    path, data = tmp_path / "a.png", io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "EPS")
    path.write_bytes(data.getvalue())
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **options: ran.append(given))
    with pytest.raises(UnreadableFileError, match=r"a\.png"):
        read_image(path)
    mask = base64.b64encode(data.getvalue()).decode()
    shape = {"label": "a", "shape_type": "mask", "points": [[0, 0], [7, 7]], "mask": mask}
    image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
    with pytest.raises(DataError, match=r"a\.json"):
        convert_dataset("labelme", tmp_path / "in", tmp_path / "out")
    assert not ran
