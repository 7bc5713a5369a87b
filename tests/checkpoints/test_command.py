"""Import and export of weights, with files written and loaded by other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.layouts import coco_classes
from densevit.weights.checkpoint_io import read
from tests.checkpoints.layouts import models

NAMES = {one.file_id: one.name for one in coco_classes()}


def run(*arguments):
    assert main(["convert", *map(str, arguments)]) == 0


def refused(capsys, *arguments):
    assert main(["convert", *map(str, arguments)]) == 2
    return capsys.readouterr().err


# ---- complete models ----


@pytest.fixture(scope="module")
def image():
    """Noise of blocks, 96 x 128 pixels."""
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture(scope="module")
@torch.no_grad()
def detr(image, tmp_path_factory):
    """A small DETR with COCO's ids, as transformers saves it: a folder, and the model."""
    from transformers import DetrImageProcessor

    batch = {"images": torch.from_numpy(image).permute(2, 0, 1)[None], "padding_mask": torch.zeros(1, 96, 128).bool()}
    theirs = models.detr("DetrForObjectDetection", batch, **models.coco_names())
    mean = models.run(theirs, batch, *models.IMAGENET).last_hidden_state[0].mean(0)
    theirs.class_labels_classifier.bias.copy_(-theirs.class_labels_classifier.weight @ mean)  # queries differ
    theirs.class_labels_classifier.bias[[i for i in range(91) if i not in NAMES]] = -100.0  # as after training
    theirs.class_labels_classifier.bias[91] -= 3
    folder = tmp_path_factory.mktemp("detr")
    theirs.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(folder)
    return folder, theirs


@torch.no_grad()
def test_imported_detr_detects_what_the_pipeline_of_transformers_does(detr, image, tmp_path, capsys):
    """Boxes, scores, and labels as file ids, sorted by score."""
    from transformers import DetrImageProcessor

    folder, theirs = detr
    run(folder, tmp_path / "run", "data.image_size=[96, 160]")
    message = " ".join(capsys.readouterr().out.split())
    assert "Read as transformers-detr." in message and "a run, for densevit.load, evaluate and predict" in message
    model, processor = densevit.load(tmp_path / "run"), DetrImageProcessor.from_pretrained(folder)
    outputs = theirs(**processor(Image.fromarray(image), return_tensors="pt"))
    [expected] = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[image.shape[:2]])
    order = expected["scores"].sort(descending=True, stable=True).indices
    [found] = model.predict([image], 0)
    torch.testing.assert_close(found["scores"], expected["scores"][order], rtol=1e-3, atol=1e-5)
    inside = expected["boxes"][order].clamp(torch.zeros(4), torch.tensor([128.0, 96.0, 128.0, 96.0]))
    torch.testing.assert_close(found["boxes"], inside, rtol=1e-4, atol=1e-2)
    classes = [model.classes["detection"][label] for label in found["labels"].tolist()]
    file_ids = expected["labels"][order].tolist()
    assert [(one.file_id, one.name) for one in classes] == [(i, NAMES[i]) for i in file_ids] and len({*file_ids}) > 1
    config = configs.load(tmp_path / "run")
    assert config.data.name == "coco" and config.data.transforms.name == "detr" and config.data.image_size == (96, 160)
    assert config.backbone.options["norm"] == "frozen" and config.backbone.mean == (0.485, 0.456, 0.406)


# ---- errors ----


def test_convert_overwrites_nothing_and_leaves_no_partial_files(detr, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "is not empty" in refused(capsys, detr[0], tmp_path / "full")
    assert "mine.txt exists. Name another path" in refused(capsys, detr[0], tmp_path / "full/mine.txt")
    state = {name: value for name, value in read(detr[0]).tensors.items() if "query_position" not in name}
    torch.save(state, tmp_path / "half.pth")
    refused(capsys, tmp_path / "half.pth", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    run(detr[0], tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "half.pth", "empty"}
