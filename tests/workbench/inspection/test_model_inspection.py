"""`densevit inspect`: objects' attention beside transformers' DETR, files and messages."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.model import DenseModel
from tests.checkpoints.layouts import models

SMALL_TRANSFORMER = {"width": 32, "encoder_layers": 1, "decoder_layers": 2}
CLASSES = [densevit.Class("cat", 1, (200, 0, 0)), densevit.Class("dog", 2, (0, 200, 0))]


def example_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def of_backbone(backbone: densevit.Backbone) -> DenseModel:
    head = densevit.create_head("detr", backbone.channels, backbone.strides, CLASSES, transformer=SMALL_TRANSFORMER)
    return DenseModel(backbone, {"detection": head})


@pytest.mark.integration
def test_objects_attention_equals_transformers_detr(tmp_path):
    from transformers import DetrImageProcessor

    pixels = example_image(96, 128)
    batch = {"images": torch.from_numpy(pixels).permute(2, 0, 1)[None], "padding_mask": torch.zeros(1, 96, 128).bool()}
    theirs = models.detr("DetrForObjectDetection", batch, attn_implementation="eager", num_labels=5)
    with torch.no_grad():
        theirs.class_labels_classifier.bias[-1] -= 3  # few queries are "no object"
    theirs.save_pretrained(tmp_path)
    processor = DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        outputs = theirs(**processor(Image.fromarray(pixels), return_tensors="pt"), output_attentions=True)
    maps = outputs.cross_attentions[-1][0].mean(0).unflatten(1, (3, 4))  # (7, 3, 4)
    scores = outputs.logits[0].softmax(-1)[:, :-1].amax(1)
    order = scores.argsort(descending=True)

    found = densevit.inspect_model(densevit.load(tmp_path).with_resize(DefaultTransforms(None)), pixels)
    [objects] = found.objects.values()
    assert len(objects) == int((scores >= 0.5).sum()) > 2
    for one, query in zip(objects, order, strict=False):
        assert one.score == pytest.approx(float(scores[query]), rel=1e-3)
        torch.testing.assert_close(one.map, maps[query], rtol=1e-3, atol=1e-5)
    assert maps.std() > 0.02


@pytest.mark.parametrize(
    ("name", "options", "sections"),
    [
        ("swin", {"variant": "nano", "window_size": 4}, {"Detected objects: detection"}),
        (
            "vit",
            {"variant": "nano", "patch_size": 8, "image_size": 64},
            {"Position embeddings", "Mean attention distance"},
        ),
        ("mvit", {"variant": "nano", "version": 1}, {"Position embeddings", "Mean attention distance"}),
        ("resnet", {"depth": 18}, {"Image", "Attention"}),
    ],
)
def test_page_is_self_contained(name, options, sections, tmp_path):
    own = of_backbone(densevit.create_backbone(name, **options)).train()
    found = densevit.inspect_model(own, example_image(70, 90), at=(45, 35))
    assert own.training and own.backbone.training, "the model is as before"
    assert name != "resnet" or (found.size, found.point) == ((96, 96), pytest.approx((35 / 96, 45 / 96)))  # padded
    files = found.save(tmp_path)
    page = (tmp_path / "inspect.html").read_text()
    assert sections <= set(re.findall(r"<h2>(.*?)</h2>", page))
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}

    images = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    for data in images:
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    assert len(images) == sum(path.suffix == ".png" for path in files) >= 1
    assert not re.search(r'srcset=|="http|[^:]href="[^#]|src="(?!data:)', page)
    assert len(page) < 5e6


def test_command(cwd, run):
    head = {"name": "detr", "transformer": SMALL_TRANSFORMER}
    own = densevit.create_model({"name": "swin", "variant": "nano", "window_size": 4}, {"detection": head}, CLASSES)
    densevit.save(own, "model.safetensors")
    Image.fromarray(example_image(64, 96)).save("street.png")
    inspect = ("inspect", "model.safetensors", "street.png", "--out", "a")
    for wrong, said in (
        ((*inspect, "--at", "96,10"), "the point 96,10 is outside"),
        ((*inspect, "--at", "here"), "expected X,Y in pixels"),
        (("inspect", "model.safetensors", "no.png", "--out", "a"), "no.png"),
    ):
        assert said in run(*wrong, code=2) and not (cwd / "a").exists()
    printed = json.loads(run(*inspect, "--json"))
    assert [layer["window"] for layer in printed["layers"]] == [4] * 6
    assert printed["layers"][0]["grid"] == [16, 24] and printed["objects"]["detection"]
    assert "not empty" in run(*inspect, code=2)
