"""`.half()` and `.to(torch.bfloat16)` on the CPU: results as in float32."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.layers.selection import recorded
from densevit.model import DenseModel

IMAGE = np.kron(np.random.default_rng(0).integers(0, 256, (10, 13, 3)), np.ones((8, 8, 1))).astype(np.uint8)
TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.05}  # of the largest value
NANO = {
    "resnet": {"name": "resnet", "depth": 18},
    "swin": {"name": "swin", "variant": "nano"},
}
DETR = {"name": "detr", "num_queries": 9, "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 2}}
MODELS = {
    "detr-resnet": (NANO["resnet"], DETR),
    "dpt-swin": (NANO["swin"], {"name": "dpt", "width": 16, "output": "sigmoid"}),
}


def predictor_of(name: str) -> DenseModel:
    torch.manual_seed(0)
    backbone, head = MODELS[name]
    return densevit.create_model(backbone, {"x": head}, None if head["name"] == "dpt" else ["a", "b", "c"]).eval()


@torch.no_grad()
def outputs_of(predictor: DenseModel, selected: list[Tensor]) -> dict[str, Tensor]:
    """selected: the selections of queries, which are repeated; those of the model are added to an empty list."""
    images = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, 80:] = mask[:, :, 104:] = True
    batch: Any = {"images": nn.functional.pad(images, (0, 24, 0, 16)), "padding_mask": mask, "targets": [{}]}
    with recorded(predictor, selected) as selections:
        outputs = predictor(batch)["x"]
    selected[:] = [selection.indices for selection in selections]
    return {key: value for key, value in outputs.items() if isinstance(value, Tensor) and value.is_floating_point()}


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, (torch.float16, torch.bfloat16)[n % 2]) for n, name in enumerate(MODELS)]
)
def test_heads_predict_in_half_precision_as_in_float32(name: str, dtype: torch.dtype):
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
        if key in ("scores", "depth"):
            torch.testing.assert_close(value, result[key], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
