"""NaN in the outputs of every head is an error, and looking for it waits for no device."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit import registry
from densevit.errors import WeightsError
from densevit.model import DenseModel, nan_checked
from densevit.targets.types import TargetTypes
from densevit_workbench.testing.targets import random_targets
from tests.counted_dataset import CountedDataset
from tests.heads.cases import CASES, CLASSES
from tests.model.small_models import batch_of as images_of
from tests.small_models import FourMaps
from tests.strict_device import DEVICE, Accelerator, moved

NAN = float("nan")
FIRST = {case.head: name for name, case in reversed(CASES.items())}
SIZE = (64, 96)


class Levels(FourMaps):
    """The first maps of `FourMaps`."""

    size_divisor = 32

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.channels, self.strides = self.channels[:levels], self.strides[:levels]

    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(images)[: len(self.channels)]


def model_of(name: str) -> DenseModel:
    """A model with a case of `CASES` as its head "h"."""
    torch.manual_seed(0)
    case, kind = CASES[name], registry.load("heads", CASES[name].head)
    takes_tokens = "tokens" in case.options or "eomt" in case.head or "pmt" in case.head
    backbone = densevit.create_backbone("vit", variant="nano") if takes_tokens else Levels(case.levels)
    classes = () if kind.task == "depth" else CLASSES
    head = densevit.create_head(case.head, backbone.channels, backbone.strides, classes, **case.options)
    return DenseModel(backbone, {"h": head}).eval()


class Labelled(CountedDataset):
    """Two images with random labels of a head's targets."""

    length = 2

    def __init__(self, head: Any) -> None:
        self.provides, self.classes = head.required_targets, {head.task: head.classes}

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(index)
        labels = random_targets(self.provides, SIZE, 4, generator, 3, index, types=TargetTypes())
        image = torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        return {"image": image, "targets": labels}


@pytest.mark.integration
@pytest.mark.parametrize("part", ["backbone", "head"])
@pytest.mark.parametrize("name", FIRST.values())
def test_no_head_is_silent_about_nan(name: str, part: str) -> None:
    """In predict and evaluate; without NaN, both accept images of padding and of one cell."""
    model = model_of(name)
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    data = Labelled(model.heads["h"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few images
        model.infer(images_of(model, SIZE, (33, 70), (1, 1)))
        for parameter in (model.backbone if part == "backbone" else model.heads["h"]).parameters():
            parameter.fill_(NAN)
        for predict in (partial(model.predict, image), partial(densevit.evaluate, model, data)):
            with pytest.raises(WeightsError, match=r"^heads\.h: outputs are NaN for image .*, first in the output of "):
                predict()


def on_device(batch: Any) -> Any:
    return {**batch, **{key: batch[key].to(DEVICE) for key in ("images", "padding_mask")}}


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for head, name in FIRST.items() if head != "faster_rcnn"])  # its anchors wait
def test_an_inference_waits_no_more_than_its_predictions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # torch's raises for the device
    tested = model_of(name)
    with torch.no_grad(), Accelerator() as accelerator:
        moved(tested)
        batch = on_device(images_of(tested, SIZE, (64, 70)))
        tested.predictions(tested(batch), batch["targets"])  # fills caches
        accelerator.waits.clear()
        tested.predictions(tested(batch), batch["targets"])
        expected = dict(accelerator.waits)
        accelerator.waits.clear()
        with nan_checked(tested):
            tested.infer(batch)
            assert dict(accelerator.waits) == expected
