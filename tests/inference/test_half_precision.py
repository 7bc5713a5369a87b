"""`.half()` and `.to(torch.bfloat16)` on the CPU: results as in float32."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.inference.predictor import Predictor
from densevit.interfaces import Class, Head
from densevit.layers.selection import recorded
from densevit.model import DenseModel
from tests.model.small_models import Pixels

IMAGE = np.kron(np.random.default_rng(0).integers(0, 256, (10, 13, 3)), np.ones((8, 8, 1))).astype(np.uint8)
TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.05}  # of the largest value
NANO = {
    "resnet": {"name": "resnet", "depth": 18},
    "swin": {"name": "swin", "variant": "nano"},
    "vit": {"name": "vit", "variant": "nano"},
    "windowed_vit": {"name": "windowed_vit", "variant": "nano", "features": [1, 2, 3, 6]},
}
DETR = {"name": "detr", "num_queries": 9, "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 2}}
RF_DETR = {
    "name": "rf_detr",
    "neck": {"name": "projector", "width": 32},
    "num_queries": 9,
    "transformer": {"width": 32, "decoder_layers": 2},
}
MODELS = {
    "detr-resnet": (NANO["resnet"], DETR),
    "setr-vit": (NANO["vit"], {"name": "setr", "width": 32}),
    "dpt-swin": (NANO["swin"], {"name": "dpt", "width": 16, "output": "sigmoid"}),
    "rf_detr-windowed_vit": (NANO["windowed_vit"], RF_DETR),
}


def predictor_of(name: str) -> Predictor:
    torch.manual_seed(0)
    backbone, head = MODELS[name]
    return densevit.create_model(backbone, {"x": head}, None if head["name"] == "dpt" else ["a", "b", "c"])


@torch.no_grad()
def outputs_of(predictor: Predictor, selected: list[Tensor]) -> dict[str, Tensor]:
    """selected: the selections of queries, which are repeated; those of the model are added to an empty list."""
    images = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, 80:] = mask[:, :, 104:] = True
    batch: Any = {"images": nn.functional.pad(images, (0, 24, 0, 16)), "padding_mask": mask, "targets": [{}]}
    with recorded(predictor.model, selected) as selections:
        outputs = predictor.model(batch)["x"]
    selected[:] = [selection.indices for selection in selections]
    return {key: value for key, value in outputs.items() if isinstance(value, Tensor) and value.is_floating_point()}


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, (torch.float16, torch.bfloat16)[n % 2]) for n, name in enumerate(MODELS)]
)
def test_every_head_predicts_in_half_precision_as_in_float32(name: str, dtype: torch.dtype):
    predictor = predictor_of(name)
    selected: list[Tensor] = []
    expected, result = outputs_of(predictor, selected), predictor.predict(IMAGE)
    half = predictor.half() if dtype == torch.float16 else predictor.to(dtype)
    assert half is predictor and {p.dtype for p in predictor.parameters()} == {dtype}
    for key, value in outputs_of(predictor, selected).items():
        error = (value.double() - expected[key].double()).abs().max() / expected[key].double().abs().max()
        assert error < TOLERANCE[dtype], key
    found = predictor.predict(IMAGE)
    for key, value in found.items():
        assert value.dtype == result[key].dtype and value.shape == result[key].shape
        if key == "semantic":
            assert (value == result[key]).double().mean() > 0.97
        elif key in ("scores", "depth"):
            torch.testing.assert_close(value, result[key], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


class Recorded(Head):
    """A head that returns its features, nested, and records what it decodes."""

    task, needs = "segmentation", ("semantic",)

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0], "auxiliary": [{"logits": features[0]}], "count": torch.tensor(3)}

    def predict(self, outputs, targets):
        self.decoded = outputs
        return [{"semantic": logits.argmax(0)} for logits in outputs["logits"]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pixels_are_normalised_and_heads_decode_in_float32(dtype: torch.dtype):
    model = DenseModel(Pixels(), {"x": Recorded((3,), (1,), [Class("a", 0, (0, 0, 0))])})
    images, mask = torch.from_numpy(IMAGE).permute(2, 0, 1)[None], torch.zeros(1, *IMAGE.shape[:2], dtype=torch.bool)
    exact, mean = model.normalise(images, mask), model.mean.clone()
    predictor = Predictor(model).to(dtype)
    assert torch.equal(model.normalise(images, mask), exact.to(dtype))
    predictor.predict(IMAGE)
    decoded = model.heads["x"].decoded
    assert decoded["logits"].dtype == decoded["auxiliary"][0]["logits"].dtype == torch.float32
    assert decoded["count"].dtype == torch.int64
    assert torch.equal(predictor.to(torch.float32).model.mean, mean)
    assert torch.equal(model.normalise(images, mask), exact)
    assert model.double().normalise(images, mask).dtype == torch.float64
