"""Corrupt image files in a data set: each is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from tests.robustness.test_coco import document, write
from tests.written_files import encoded

HEIGHT, WIDTH = 40, 56


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


JPEG, PNG = encoded(pixels(), "JPEG", quality=95), encoded(pixels())
REFUSED_AT_THE_START = {
    "empty": b"",
    "half of a JPEG": JPEG[: len(JPEG) // 2],
    "a PNG without its end": PNG[:-12],
    "floating-point TIFF": encoded(np.ones((HEIGHT, WIDTH), np.float32), "TIFF"),
    "another size": encoded(pixels()[:-1]),
}
ENDS_EARLY = JPEG[: len(JPEG) // 2] + b"\xff\xd9"


def replaced(folder: Path, data: bytes) -> None:
    write(folder, document())
    (folder / "train" / "0.png").write_bytes(data)


@pytest.mark.parametrize("case", REFUSED_AT_THE_START)
def test_corrupt_image_is_refused_before_training(case, refused, tmp_path):
    replaced(tmp_path, REFUSED_AT_THE_START[case])
    refused("train", "tiny.yaml", "data.root=.", says=("train/0.png",))


def test_corrupt_pixel_data_stops_training_with_a_message(refused, tmp_path):
    """Its beginning and end are valid; decoding all images first would take as long as an epoch."""
    replaced(tmp_path, ENDS_EARLY)
    arguments = ("data.root=.", "data.batch_size=2", "data.num_workers=1", "--run-dir", "run")
    error = refused("train", "tiny.yaml", *arguments, says=("train/0.png", "damaged", "premature end"))
    assert len([line for line in error.splitlines() if not line.startswith("warning: ")]) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()
