"""`densevit predict` removes duplicate boxes as `model.predict`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import densevit
from densevit.cli import main
from tests.model.test_duplicate_boxes import IOU, detector_and_image, kept, rounded


@pytest.mark.integration
def test_boxes_of_the_command_are_those_that_nms_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, image = detector_and_image()
    expected = kept(plain.predict(image, threshold=0))
    without = plain.with_inference({"nms": IOU})
    densevit.save(plain, "plain.safetensors")
    densevit.save(without, "without.safetensors")
    with pytest.warns(UserWarning, match=f"inference options nms={IOU}.*apply NMS"):
        densevit.export(without, "without.onnx", quiet=True)
    for words in (["plain.safetensors", "--nms", str(IOU)], ["without.safetensors"], ["without.onnx"]):
        out = Path(f"found-{words[0]}")
        assert main(["predict", words[0], "image.png", *words[1:], "--out", str(out), "--quiet"]) == 0
        objects = json.loads((out / "predictions.json").read_text())
        boxes = torch.tensor([entry["bbox"] for entry in objects])
        assert np.allclose(rounded(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)), expected, atol=0.11)
