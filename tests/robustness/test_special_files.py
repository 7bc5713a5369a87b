"""FIFOs, devices and programs among the files of a data set are named: reading one may never end."""

import base64
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError, UnreadableFileError
from densevit_batch.image_file import VideoFrames, count_frames
from densevit_workbench.interchange.dataset_conversion import convert_dataset
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
        VideoFrames(path).read(0)


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
