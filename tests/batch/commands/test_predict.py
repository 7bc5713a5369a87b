"""`densevit predict` with a fake model, which predicts one box of the image's size: images, videos, lists, tables."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit_batch.image_file import VideoFrames
from tests.cli.stand_in import StandIn, read, write_video
from tests.drawing.test_point_cloud import read as read_cloud
from tests.inference.test_array_inputs import address  # noqa: F401  # a fixture
from tests.model.test_duplicate_boxes import DETR, IOU


def has_color(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(image.astype(int) - color).sum(axis=2) < 60).any())


def test_images_are_drawn_and_predictions_written_for_coco(model, photos, run):
    assert "found: 4 of 4 images" in run("predict", "RUN", "a", "b", "--out", "found")
    image = np.array(Image.open("found/drawn/a-1.jpg"))
    assert has_color(image, (20, 30, 240)) and not has_color(image, (250, 10, 20)), "the cat is below the threshold"

    images, results = read("found/images.json"), read("found/predictions.json")
    assert [image["id"] for image in images] == ["a/1.jpg", 139, "b/1.jpg", "cat.png"]
    assert images[1] == {"id": 139, "file_name": "b/000139.jpg", "width": 52, "height": 40, "name": "000139"}
    assert results[2] == {"image_id": 139, "category_id": 18, "bbox": [1, 2, 51, 38], "score": 0.75}
    assert len(results) == 8 and results[3]["bbox"][2] == float(np.float32(1 / 3))  # nothing is rounded or omitted


def test_urls_are_downloaded(model: StandIn, photos: Path, address: str, run):  # noqa: F811
    urls = [f"{address}/{path}" for path in ("image.png", "gone.png")]
    said = run("predict", "RUN", "a", *urls, "--out", "found", code=1)
    assert "2 of 3 images; 1 could not be read" in said and f"{urls[1]}: the server answers 404" in said
    entry = {"id": "image.png", "file_name": urls[0], "width": 30, "height": 20, "name": "image"}
    assert read("found/images.json")[1] == entry


def dog_above_cats(height: int, width: int) -> Any:
    """A dog in the image's first row and cats below, all 1.5 m away."""
    dog = (torch.arange(height) == 0)[:, None].expand(height, width)
    return {"semantic": dog.to(torch.uint8), "depth": torch.full((height, width), 1.5)}


def test_maps_have_the_image_size(photos: Path, load_as, run):
    load_as(StandIn(("all",), dog_above_cats))
    run("predict", "RUN", "b", "--out", "found")
    for folder, endings in {"drawn": [".jpg"], "semantic": [".png"], "depth": [".png", ".npy"]}.items():
        names = {f"{name}{ending}" for name in ("000139", "1", "cat") for ending in endings}
        assert {path.name for path in Path("found", folder).iterdir()} == names
    labels = Image.open("found/semantic/cat.png")
    assert labels.mode == "P" and labels.size == Image.open("b/cat.png").size == (53, 40)
    assert (np.array(labels)[0] == 18).all() and (np.array(labels)[1:] == 17).all()
    assert (np.array(Image.open("found/depth/cat.png")) == 384).all()
    assert len(read("found/images.json")) == 3 and not Path("found/predictions.json").exists()


def wall(key: str) -> StandIn:
    """Predicts a wall 2 m away, as a map of this key."""
    return StandIn(("depth",), lambda height, width: {key: torch.full((height, width), 2.0)})


def test_a_focal_length_adds_point_clouds_of_depth_in_metres(cwd: Path, load_as, run):
    Image.fromarray(np.full((3, 5, 3), 7, np.uint8)).save("photo.png")
    load_as(wall("depth"))
    run("predict", "RUN", "photo.png", "--out", "without")
    run("predict", "RUN", "photo.png", "--out", "with", "--focal", "4")
    cloud = read_cloud(Path("with/clouds/photo.ply"))
    assert len(cloud) == 15 and not Path("without/clouds").exists()
    assert (cloud[0], cloud[-1]) == ((-1.0, -0.5, 2.0, 7, 7, 7), (1.0, 0.5, 2.0, 7, 7, 7))
    load_as(wall("inverse_depth"))
    assert "inverse_depth" in run("predict", "RUN", "photo.png", "--focal", "4", code=2)


# ---- videos, lists and tables ----


def video(path: Path) -> Path:
    """37 frames of noise; the red of frame n is about 6 n."""
    noise = [np.random.default_rng(n).integers(0, 30, (48, 64, 3), dtype=np.uint8) for n in range(37)]
    for n, frame in enumerate(noise):
        frame[..., 2] = 6 * n
    return write_video(path, noise, 25)


def without_duration(path: Path) -> Path:
    """Replaces a webm's element Duration (0x4489, 8 bytes) by one that is skipped, as in a recorded stream."""
    before, _, after = path.read_bytes().partition(b"\x44\x89\x88")
    path.write_bytes(before + b"\xec\x89" + bytes(9) + after[8:])
    return path


def announced(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


@pytest.mark.parametrize("name", ["clip.webm", "clip.mp4"])
def test_all_frames_are_predicted_whatever_the_file_announces(name, model, tmp_path, run, recwarn):
    is_mp4 = name == "clip.mp4"
    path = video(tmp_path / name) if is_mp4 else without_duration(video(tmp_path / name))
    assert (announced(path) == 37) == is_mp4
    command = ["predict", "run", path, "--out", tmp_path / "found"]
    assert "37 of 37 images" in run(*command)
    assert not [str(warning.message) for warning in recwarn.list if name in str(warning.message)]
    names = [image["file_name"] for image in read(str(tmp_path / "found" / "images.json"))]
    assert names == [f"{path.as_posix()}#{n}" for n in range(37)]
    assert {file.name for file in (tmp_path / "found" / "drawn").iterdir()} == {f"clip_{n:06}.jpg" for n in range(37)}
    assert abs(VideoFrames(path).read(36)[..., 0].mean() - 6 * 36) < 6  # the last one
    assert "37 of 37 images; 0 are left" in run(*command, "--resume")


def test_a_video_that_is_cut_short_is_predicted_up_to_there_with_a_warning(model: StandIn, tmp_path: Path, run) -> None:
    path = video(tmp_path / "clip.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert announced(path) == 37
    with pytest.warns(UserWarning, match=r"clip\.avi: 1\d frames can be decoded, of 37 announced"):
        run("predict", "run", path, "--out", tmp_path / "found")
    capture = cv2.VideoCapture(str(path))
    decoded = sum(capture.read()[0] for _ in range(37))
    assert len(read(str(tmp_path / "found" / "images.json"))) == decoded in range(12, 20)


def test_lines_of_stdin_are_sources(model, photos, monkeypatch, run):
    def predict(lines: str, *options: str, code: int = 0) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return run("predict", "run", "-", *options, code=code)

    said = {"out": "found", "images": 2, "threshold": {"detection": 0.5}, "problems": []}
    assert json.loads(predict("b/cat.png\n\na/1.jpg\n", "--out", "found", "--json")) == said
    assert [image["file_name"] for image in read("found/images.json")] == ["b/cat.png", "a/1.jpg"]
    Path("clip.mp4").write_text("no video")
    problems = predict("a/1.jpg\nnone.png\nclip.mp4\n", "--out", "again", code=1)  # the other one is predicted
    assert "none.png" in problems and "clip.mp4: no frame could be read" in problems
    assert len(read("again/images.json")) == 1
    predict("\n", code=2)


def test_objects_above_the_threshold_are_rows_of_a_table(model: StandIn, photos: Path, run) -> None:
    tables = []
    for threshold, images in ((0.1, ["b/cat.png"]), (0.7, ["b/cat.png", "a/1.jpg"]), (1, ["b/cat.png"])):
        run("predict", "run", *images, "--out", f"found{threshold}", "--threshold", threshold)
        with open(f"found{threshold}/predictions.csv", newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
        assert len(read(f"found{threshold}/predictions.json")) == 2 * len(images), "all"
    assert [row["class"] for row in tables[0]] == ["dog", "cat"] and [len(rows) for rows in tables] == [2, 2, 0]
    first, numbers = tables[0][0], ("score", "x", "y", "width", "height")
    assert (first["image"], first["image_id"]) == ("b/cat.png", "cat.png")
    assert [float(first[key]) for key in numbers] == [0.75, 1, 2, 52, 38]  # 53 x 40 pixels
    assert "add --resume to continue in it" in run("predict", "run", "b/cat.png", "--out", "found1", code=2)


@pytest.mark.integration
def test_boxes_are_those_that_nms_keeps(cwd: Path, run) -> None:
    """As in Python."""
    backbone = {"name": "swin", "variant": "nano", "window_size": 4}
    model = densevit.create_model(backbone, {"cells": DETR}, ["a", "b"])
    for parameter in model.heads["cells"].parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    densevit.save(model, "model.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save("image.png")
    run("predict", "model.safetensors", "image.png", "--nms", IOU, "--out", "found")
    boxes = torch.tensor([entry["bbox"] for entry in read("found/predictions.json")])
    expected, every = (model.predict("image.png", 0, inference=options).boxes for options in ({"nms": IOU}, None))
    torch.testing.assert_close(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), expected, rtol=0, atol=0.01)
    assert 3 < len(boxes) < len(every) - 3
