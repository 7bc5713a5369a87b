"""Corrupt image files in a data set: each is refused by name."""

import contextlib
import io
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from densevit.cli import main
from densevit.errors import warn_once
from tests.robustness.test_coco import changed, document, write

HEIGHT, WIDTH = 40, 56


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def saved(kind: str, values: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


JPEG, PNG = saved("JPEG", pixels(), quality=95), saved("PNG", pixels())
REFUSED_AT_THE_START = {
    "empty": b"",
    "half of a JPEG": JPEG[: len(JPEG) // 2],
    "a PNG without its end": PNG[:-12],
    "floating-point TIFF": saved("TIFF", np.ones((HEIGHT, WIDTH), np.float32)),
    "another size": saved("PNG", pixels()[:-1]),
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


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_of_other_types_than_8_bits_are_told_with_the_keys_by_all_doors(
    suffix, refused, tiny_run, tmp_path, recwarn, monkeypatch
):
    """Values 373 ... 1841 are 6 grey levels of 8 bits. Four bands have no meaning without names."""
    from densevit.training.run.fit import RunFolder

    deep = np.random.default_rng(0).integers(373, 1842, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    write(tmp_path, of_suffix := changed("images", file_name=f"0.{suffix}"), of_suffix)
    for split in ("train", "val"):
        cv2.imwrite(str(tmp_path / split / f"0.{suffix}"), deep)
    monkeypatch.setattr(RunFolder, "open", Mock(side_effect=InterruptedError))
    keys = "data.channels='[red, green, blue]' data.range=percentile"
    train = ("train", "tiny.yaml", "data.root=.", "data.allow_overlap=true")
    for arguments in (train, ("predict", str(tiny_run), f"val/0.{suffix}")):
        warn_once.cache_clear()
        recwarn.clear()
        with contextlib.suppress(InterruptedError):
            assert main(arguments) == 0
        assert [keys in str(warning.message) for warning in recwarn].count(True) == 1
    if suffix == "tif":
        bands = np.dstack([deep, deep[..., 0]])
        tifffile.imwrite(tmp_path / "train/0.tif", bands, photometric="minisblack", planarconfig="contig")
        refused("train", "tiny.yaml", "data.root=.", says=("train/0.tif: it has 4 channels", "data.channels"))
