"""GTR: names, classes and refused tasks of the authors' files."""

import re

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import WeightsError
from densevit.layouts import find
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import describe
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts.translations import released, whole

CONSTANTS = (
    r"backbone.backbone._model.norm\.|decoder.(anchors|valid_mask|(decoder.)?(up|reg_scale))$|"
    r".*num_points_scale|decoder.enc_(score|bbox)_head\."
)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Random weights of GTR-S with masks; the constants of the file."""
    result = {key: x * 0.1 for key, x in released("gtrseg_s_coco").items()}
    result |= {key: torch.rand(x.shape) + 0.5 for key, x in result.items() if "running_var" in key}
    result["decoder.denoising_class_embed.weight"][-1] = 0.0
    points = torch.tensor([1 / n for n in (3, 6, 3) for _ in range(n)])
    result |= {key: points for key in result if key.endswith("num_points_scale")}
    return result | {key: torch.tensor([4.0]) for key in result if key.endswith("reg_scale")}


def without_masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x for key, x in state.items() if not key.startswith("decoder.decoder.segmentation_head.")}


@pytest.mark.parity("gtr", "gtr-semantic")
def test_every_name_of_the_authors_models_is_read(state):
    layout = find("gtr")
    assert recognise(state) is layout and layout.publishing.licences.clean is None
    whole(state, layout, CONSTANTS, thirds="in_proj_")
    sections = describe(state, layout)
    head = sections["heads"]["detection"]
    assert sections["backbone"] == {"name": "gtr", "variant": "s"} and head["name"] == "gtr_instance"
    assert (head["num_points"], head["num_groups"], head["contrastive_denoising"]) == ((3, 6, 3), 3, 100)
    assert head["neck"]["pyramid_strides"] == (8, 16, 32) and head["transformer"]["feedforward"] == 512
    assert layout.publishing.recipe(sections, {}) == ("start/gtr_masks", {})
    detector = without_masks(state)
    sections = describe(detector, layout)
    assert recognise(detector) is layout and sections["heads"]["detection"]["name"] == "gtr"
    assert layout.publishing.recipe(sections, {}) == ("coco/gtr_s", {})

    semantic = {key: x for key, x in state.items() if key.startswith("backbone") or re.match(r"enc.*s\w*\.0\.", key)}
    norm = {name: torch.rand(192) for name in ("weight", "bias", "running_mean", "running_var")}
    semantic |= {f"head.bn.{name}": x for name, x in norm.items()} | {"head.bn.num_batches_tracked": torch.tensor(1)}
    semantic |= {"head.conv.weight": torch.rand(192, 192, 3, 3), "head.classifier.bias": torch.rand(19)}
    semantic["head.classifier.weight"] = torch.rand(19, 192, 1, 1)
    layout = find("gtr-semantic")
    assert recognise(semantic) is layout and layout.publishing.licences.clean is False
    assert whole(semantic, layout, CONSTANTS).heads["segmentation"].classes[0].name == "road"


@pytest.mark.integration
def test_a_file_gives_the_model_that_it_was_made_of(state, tmp_path):
    """Of its average (EMA), as published; with other classes, the rows of their names; written back and exported."""
    path = tmp_path / "gtr_s_coco.pth"
    zeros = {key: torch.zeros_like(x) for key, x in state.items()}
    torch.save({"model": zeros, "ema": {"module": without_masks(state)}, "last_epoch": 29}, path)
    model = convert(path).model
    assert len(model.classes["detection"]) == 80
    copy = densevit.create_model("coco/gtr_s", weights=str(path), classes=[c.name for c in model.classes["detection"]])
    found, expected = (x.state_dict() for x in (copy, model))
    assert found.keys() == expected.keys() and all(torch.equal(x, expected[key]) for key, x in found.items())

    ours = densevit.create_model("coco/gtr_s", weights=str(path), classes=["owl", "dog", "cat"])
    names = [c.name for c in model.classes["detection"]]
    for key, x in ours.heads["detection"].state_dict().items():
        rows = expected[f"heads.detection.{key}"]
        if "label_head" in key:
            assert torch.equal(x[1:], rows[[names.index("dog"), names.index("cat")]]), key
        elif "label_embedding" not in key:
            assert torch.equal(x, rows), key


REFUSED = {
    "poses": {"decoder.keypoint_embedding.weight": (17, 192)},
    "depth": {"decoder.output_conv2.2.weight": (1, 32, 1, 1), "decoder.refinenet1.out_conv.weight": (128, 128, 1, 1)},
    "oriented boxes": {"decoder.pre_bbox_head.layers.2.bias": (5,)},
}


@pytest.mark.parametrize("models", REFUSED)
def test_models_for_other_tasks_are_refused_in_one_line(models, state, tmp_path):
    others = {
        key: x
        for key, x in without_masks(state).items()
        if models == "oriented boxes" or not key.startswith("decoder.")
    }
    others |= {key: torch.zeros(shape) for key, shape in REFUSED[models].items()}
    torch.save({"model": others}, tmp_path / "gtr.pth")
    with pytest.raises(WeightsError, match=rf"^A GTR for {models}, which is not supported\. Use one for detection.*$"):
        densevit.load(tmp_path / "gtr.pth")
