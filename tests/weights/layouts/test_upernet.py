"""UPerNet: transformers' models on Swin and ConvNeXt with random weights, in its files and in memory."""

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.weights.key_mapping import canonical, translate, translate_back
from densevit.weights.layouts import recognise
from densevit_workbench.interchange.foreign_export import export

pytestmark = pytest.mark.integration

STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
BACKBONES = {
    "swin": lambda transformers: transformers.SwinConfig(
        embed_dim=32, depths=[1, 1, 3, 1], num_heads=[1, 2, 4, 8], window_size=4, image_size=128, **STAGES
    ),
    "convnext": lambda transformers: transformers.ConvNextConfig(
        hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3], layer_scale_init_value=1.0, **STAGES
    ),
}


@torch.no_grad()
def make(backbone):
    import transformers

    torch.manual_seed(5)
    config = transformers.UperNetConfig(
        backbone_config=BACKBONES[backbone](transformers), hidden_size=32, auxiliary_channels=16, num_labels=5
    )
    theirs = transformers.UperNetForSemanticSegmentation(config).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
        elif tensor.is_floating_point() and "bias_table" not in name and "relative_position_bias" not in name:
            tensor.normal_(0, 0.8 * tensor[0].numel() ** -0.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, 1)
    return theirs


@torch.no_grad()
def run(theirs, batch):
    """Their model upsamples logits to the image."""
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((batch["images"] / 255 - mean) / std).masked_fill(batch["padding_mask"][:, None], 0.0)
    return theirs(pixels).logits


def file_of(theirs, folder):
    """The tensors of their file, without a norm that transformers 5 adds and does not use."""
    theirs.save_pretrained(folder)
    return {k: x for k, x in load_file(folder / "model.safetensors").items() if ".swin.layernorm." not in k}


@pytest.mark.parity("transformers-upernet", "transformers-upernet-convnext")
@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_logits_match_transformers(backbone, where, tmp_path, whole, padded_batch):
    theirs = make(backbone)
    state = file_of(theirs, tmp_path) if where == "file" else theirs.state_dict()
    layout = recognise(state)
    assert layout.name == ("transformers-upernet" if backbone == "swin" else "transformers-upernet-convnext")
    state = canonical(state, layout)
    without = r".*relative_position_index$|backbone\.(swin\.)?layernorm\."
    ours = whole(state, layout, without_effect=without)
    batch = padded_batch([(128, 160), (128, 160)])
    outputs = ours(batch)["segmentation"]
    expected = run(theirs, batch)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.heads["segmentation"].maps(outputs, (128, 160)), expected, rtol=1e-4, atol=1e-4)
    back, unknown = translate_back(translate(state, layout).tensors, layout)
    assert unknown == []
    kept = {key for key in state if "relative_position_index" not in key and "backbone.layernorm" not in key}
    assert kept <= set(back) and all(torch.equal(back[key], state[key]) for key in kept)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_load_and_export_of_a_folder(backbone, tmp_path, padded_batch):
    from transformers import UperNetForSemanticSegmentation

    theirs = make(backbone)
    theirs.save_pretrained(tmp_path / "theirs")
    model = densevit.load(tmp_path / "theirs").model.eval()
    densevit.save(model, tmp_path / "ours.safetensors")
    exported = export(tmp_path / "ours.safetensors", "hf")
    exported.write(tmp_path / "back")
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "back").eval()
    batch = padded_batch([(128, 160), (128, 160)])
    expected = run(theirs, batch)
    outputs = model(batch)["segmentation"]
    torch.testing.assert_close(model.heads["segmentation"].maps(outputs, (128, 160)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(again, batch), expected, rtol=1e-4, atol=1e-4)
