"""RT-DETRv4: outputs recorded from the authors' code (RT-DETRs/RT-DETRv4, df44122), with random weights.

A small S: 64 channels, two decoder layers, 20 queries. On the rectangle, their AIFI has positions of rows and columns
(`aifi_positions`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import densevit
from densevit.layouts import coco_classes, find
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import describe, translate
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts.originals.weights import detr_image, random_weights
from tests.checkpoints.layouts.recordings import recorded, size_of
from tests.checkpoints.layouts.translations import whole

CONSTANTS = {
    "up": torch.tensor([0.5]),
    "reg_scale": torch.tensor([4.0]),
    "num_points_scale": torch.tensor([1 / n for n in (3, 6, 3) for _ in range(n)]),
}


def state_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    state = random_weights(shapes)
    for name, x in state.items():
        state[name] = 1 + x if name.endswith("lab.scale") else CONSTANTS.get(name.rpartition(".")[2], x)
        if "bbox_head.layers.2.weight" in name and "dec" not in name.split(".")[1]:
            state[name] = 0.1 * x
    state["decoder.denoising_class_embed.weight"][-1] = 0.0
    return state


@pytest.mark.integration
@pytest.mark.parity("rtdetrv4")
def test_a_file_computes_as_the_authors_code(tmp_path: Path) -> None:
    shapes, outputs = recorded("rtdetrv4")
    state, layout = state_of(shapes), find("rtdetrv4")
    assert recognise(state) is layout and recognise(
        {key: x for key, x in state.items() if "feature_projector" not in key}
    ) is find("dfine")
    whole(state, layout, r"encoder.feature_projector|decoder.(decoder.)?(up|reg_scale)$|.*num_points_scale", "in_proj_")
    sections = describe(state, layout)
    sections["heads"]["detection"]["num_queries"] = 20
    sections["backbone"] |= {"mean": layout.publishing.mean, "std": layout.publishing.std}
    model = densevit.create_model(**sections, classes=coco_classes(), pretrained=False).eval()
    model.load_state_dict(translate(state, layout).tensors)
    for key, expected in outputs.items():
        size, name = size_of(key), key.partition(".")[2]
        batch = {"images": detr_image(*size)[None], "padding_mask": torch.zeros(1, *size, dtype=torch.bool)}
        with torch.no_grad():
            result = model({**batch, "targets": [{"size": size, "original_size": size}]})["detection"]
        assert expected.std(1).mean() > 0.1
        torch.testing.assert_close(result[name], expected, rtol=1e-4, atol=1e-4)

    torch.save({"ema": {"module": state}, "model": state, "last_epoch": 131}, tmp_path / "RTv4-S-hgnet.pth")
    model = convert(tmp_path / "RTv4-S-hgnet.pth").model
    assert model.heads["detection"].criterion.classification == "mal"
    assert layout.publishing.models["RTv4-S-hgnet.pth"].recipe == "coco/rtdetrv4_s"
