"""densevit/training/run/fit.py: what a run has in Python."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import densevit
from densevit.interfaces import Sample, as_classes
from tests.counted_dataset import CountedDataset
from tests.training.runs import assert_same, plain, without_report


def test_a_run_has_its_path_metrics_model_and_tables(run: Any) -> None:
    assert not run.stopped
    assert plain(run.metrics) == json.loads((run.path / "metrics.json").read_text())
    assert run.model is run.model and not run.model.training
    state = {name: value.cpu() for name, value in run.model.state_dict().items()}
    assert_same(state, load_file(run.path / "model.safetensors"))
    header, *rows = run.tables["classes-surfaces"]
    assert header[:2] == ["class", "pixels"]
    assert [row[0] for row in rows] == [one.name for one in run.model.classes["surfaces"]]
    assert sum(row[1] for row in rows) <= 3 * 32 * 32 and isinstance(rows[0][1], int)  # pixels of three images


class Stripes(CountedDataset):
    """Label maps of two classes. heights: of the images, in turn."""

    classes: ClassVar = {"segmentation": as_classes(["a", "b"])}
    provides = ("semantic",)
    length = 4

    def __init__(self, heights: tuple[int, ...] = (40,)) -> None:
        self.heights = heights

    def __getitem__(self, index: int) -> Sample:
        semantic = torch.arange(64).div(32, rounding_mode="floor").repeat(self.heights[index % len(self.heights)], 1)
        image = (100 * semantic + index).repeat(3, 1, 1)
        return {"image": image.byte(), "targets": {"image_id": index, "semantic": semantic.byte()}}


@pytest.mark.integration
def test_predict_resizes_to_the_size_of_training_where_all_images_have_it(tmp_path: Path) -> None:
    """Without `data.image_size`, which another training of the model measures again."""
    model = densevit.create_model(
        {"name": "swin", "variant": "nano"}, {"map": {"name": "setr", "width": 8}}, ["a", "b"]
    )
    keys = {"max_steps": 1, "batch_size": 2, "num_workers": 0, "accelerator": "cpu", "allow_overlap": True}

    def trained(name: str, *heights: int) -> densevit.Run:
        with without_report():
            return densevit.fit(model, train=Stripes(heights), val=Stripes(heights), run_dir=tmp_path / name, **keys)

    run = trained("one", 40)
    large = np.zeros((400, 640, 3), np.uint8)
    grids = list[tuple[int, ...]]()
    for predictor in (model, run.model, densevit.load(tmp_path / "one", trust=True)):
        predictor.backbone.register_forward_pre_hook(lambda module, inputs: grids.append((*inputs[0].shape[2:],)))
        assert predictor.predict(large).semantic.shape == (400, 640)
    assert {*grids} == {(64, 64)}  # 40 x 64, padded
    assert densevit.evaluate(run, Stripes()) == pytest.approx(run.metrics, nan_ok=True)
    for part in ("images", "labels"):
        (tmp_path / "set" / part / "val").mkdir(parents=True)
    for index in range(4):
        sample, file = Stripes()[index], Path("val", f"{index}.png")
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(tmp_path / "set" / "images" / file)
        Image.fromarray(sample["targets"]["semantic"].numpy()).save(tmp_path / "set" / "labels" / file)
    with pytest.warns(UserWarning, match=r"set is read as data\.name=label_maps"):  # by the head, not as COCO's files
        assert densevit.evaluate(run, tmp_path / "set") == pytest.approx(run.metrics, nan_ok=True)
    run = trained("several", 40, 32)
    assert (run.model.resize.image_size, run.model.training_record.sizes) == (None, [(32, 64), (40, 64)])
    with pytest.warns(UserWarning, match="trained on images of 32 x 64 to 40 x 64 pixels.*400 x 640, 10 times"):
        run.model.predict(large)
