"""`DenseModel.predict` on folders, patterns and videos: an iterator of results with their paths."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.errors import DataError
from tests.cli.stand_in import write_video
from tests.inference.test_predicting import Thirds, random_image
from tests.model.small_models import Averaged, Mean, of_heads
from tests.written_files import save_image


@pytest.fixture
def photos(cwd: Path) -> Path:
    for n, name in enumerate(("photos/c.png", "photos/a.png", "photos/b.png", "photos/sub/d.png")):
        save_image(Path(name), random_image(16 + 8 * n, 24))
    Path("photos/notes.txt").touch()
    return cwd


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi", (np.full((48, 64, 3), 30 * n, np.uint8) for n in range(7)))


def names(results: Iterator[Any]) -> list[str]:
    return [Path(result.path).name for result in results]


def test_a_folder_and_a_pattern_are_predicted_in_order(photos: Path):
    predictor = of_heads(Averaged(), detection=Mean)
    results = list(predictor.predict("photos"))
    assert names(results) == ["a.png", "b.png", "c.png"]
    for result in results:
        assert result.size == np.asarray(Image.open(result.path)).shape[:2]
        assert result.mean.tolist() == predictor.predict(result.path).mean.tolist()
    assert names(predictor.predict("photos/**/*.png")) == ["a.png", "b.png", "c.png", "d.png"]


def test_a_video_s_frames_have_its_path_and_their_number(clip: Path):
    results = list(of_heads(Averaged(), things=Thirds).predict(clip, batch_size=1, threshold=0.5))
    assert [(result.path, result.frame) for result in results] == [(clip, n) for n in range(7)]
    assert [round(float(result.image.mean()), -1) for result in results] == [30 * n for n in range(7)]
    assert all(len(result.boxes) == 2 for result in results)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "empty: no images in this folder"),
        ("photos/*.tif", r"photos/\*\.tif: the pattern"),
        (["clip.avi"], r"clip\.avi is a video .*Fix: pass it alone"),
        ("nowhere.mp4", r"nowhere\.mp4: there is no such"),
        ("rtsp://nowhere/1", "streams are not supported"),
    ],
)
def test_what_is_no_source_is_an_error_at_once(photos: Path, clip: Path, source: Any, message: str):
    Path("empty").mkdir()
    predictor = of_heads(Averaged(), detection=Mean)
    with pytest.raises(DataError, match=message):
        predictor.predict(source)
