"""Mask2Former: transformers' models with random weights, in its files and in memory.

All images of a batch have one size: theirs treats padding as a part of the image, ours masks it.
"""

import re

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.weights.key_mapping import canonical
from densevit.weights.label_sets import coco_panoptic_classes
from densevit.weights.layouts import find, recognise
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert

pytestmark = pytest.mark.integration

SIZE = (128, 160)
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
BACKBONES = {
    "swin": {
        "embed_dim": 32, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "image_size": 128,
    },
    "resnet": {
        "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic",
    },
}  # fmt: skip
SMALL = {
    "feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_layers": 2, "decoder_layers": 4,
    "encoder_feedforward_dim": 48, "dim_feedforward": 40, "num_queries": 9, "num_attention_heads": 4,
}  # fmt: skip


@torch.no_grad()
def make(backbone, num_labels=5):
    """A small model; all tensors are random so that errors become visible."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

    torch.manual_seed(5)
    kind = SwinConfig if backbone == "swin" else ResNetConfig
    own = kind(**BACKBONES[backbone], **STAGES)
    config = Mask2FormerConfig(backbone_config=own, num_labels=num_labels, **SMALL)
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    for name, tensor in theirs.named_parameters():
        if "queries_" in name or name.endswith("sampling_offsets.bias"):
            tensor.normal_(0, 1.5)
        elif tensor.ndim == 1:
            norm = "norm" in name or re.search(r"(input_projections\.\d|adapter_1|layer_1)\.1\.", name)
            tensor.normal_(1.0 if norm and name.endswith("weight") else 0.0, 0.2)
        else:
            tensor.normal_(0, 0.8 * tensor[0].numel() ** -0.5)
    for name, tensor in theirs.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return theirs


@torch.no_grad()
def run(theirs, batch):
    """As in their image processor: normalised by ImageNet's mean and std, then padded with 0."""
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    padding = batch["padding_mask"]
    pixels = ((batch["images"] / 255 - mean) / std).masked_fill(padding[:, None], 0.0)
    return theirs(pixels, pixel_mask=(~padding).long())


def same(outputs, reference):
    assert reference.class_queries_logits.std(1).mean() > 0.1
    torch.testing.assert_close(outputs["logits"], reference.class_queries_logits, rtol=1e-4, atol=1e-4)
    scale = reference.masks_queries_logits.abs().max().item()
    torch.testing.assert_close(outputs["masks"], reference.masks_queries_logits, rtol=1e-4, atol=1e-5 * scale)


def file_of(theirs, folder):
    """The tensors of their file, without a norm that transformers 5 adds and does not use."""
    theirs.save_pretrained(folder)
    return {k: x for k, x in load_file(folder / "model.safetensors").items() if ".swin.layernorm." not in k}


@pytest.mark.parity("transformers-mask2former", "transformers-mask2former-resnet")
@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_logits_and_masks_match_transformers(backbone, where, tmp_path, whole, padded_batch):
    theirs = make(backbone)
    state = file_of(theirs, tmp_path)
    if where == "memory":
        state = theirs.state_dict()
    name = "transformers-mask2former" + ("-resnet" if backbone == "resnet" else "")
    layout = recognise(state)
    assert layout.name == name
    state = canonical(state, layout)
    without = r"criterion\.|.*relative_position_index$|.*\.encoder\.layernorm\."
    ours = whole(state, layout, without_effect=without, thirds="in_proj_")
    for sizes in ([SIZE, SIZE], [(61, SIZE[1]), (SIZE[0], 83)]):
        batch = padded_batch(sizes)
        same(ours(batch)["panoptic"], run(theirs, batch))
    ours.heads["panoptic"].pixel_decoder.mask_padding = True
    assert (ours(batch)["panoptic"]["logits"] - run(theirs, batch).class_queries_logits).abs().max() > 0.05


@pytest.mark.parity("transformers-mask2former-instance", "transformers-mask2former-semantic")
@pytest.mark.parity("transformers-mask2former-resnet-instance", "transformers-mask2former-resnet-semantic")
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@torch.no_grad()
def test_a_model_of_ours_exports_and_comes_back(backbone, task, tmp_path, padded_batch):
    """Through files, as `densevit convert RUN OUT --to hf`, with options that differ from the defaults."""
    from transformers import Mask2FormerForUniversalSegmentation

    transformer = {"width": 64, "num_heads": 4, "decoder_layers": 2, "feedforward": 40}
    head = {"num_queries": 7, "transformer": transformer, "pixel_decoder": {"layers": 1, "feedforward": 24}}
    section = {"name": "swin", "variant": "nano", "window_size": 4}
    section = section if backbone == "swin" else {"name": "resnet", "depth": 18, "norm": "frozen"}
    names = [f"class {i}" for i in range(5)]
    plugin = f"mask2former{'' if task == 'panoptic' else f'_{task}'}"
    model = densevit.create_model(section, heads={"masks": {"name": plugin, **head}}, classes=names).model
    for parameter in model.heads.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    densevit.save(model, tmp_path / "model.safetensors")
    base = f"mask2former{'-resnet' if backbone == 'resnet' else ''}{'' if task == 'panoptic' else f'-{task}'}"
    for to, name, out in (("hf", f"transformers-{base}", "folder"), (base, base, "theirs.pth")):
        exported = export(tmp_path / "model.safetensors", to)
        assert exported.layout.name == name
        exported.write(tmp_path / out)
        back = convert(tmp_path / out, layout=name).model
        [(key, own)] = back.heads.items()
        assert type(own) is type(model.heads["masks"])
        renamed = {k.replace("heads.masks.", f"heads.{key}."): x for k, x in model.state_dict().items()}
        assert all(torch.equal(x, back.state_dict()[k]) for k, x in renamed.items())
    again = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "folder").eval()
    batch = padded_batch([SIZE, SIZE])
    same(model.eval()(batch)["masks"], run(again, batch))


def test_a_model_of_80_classes_is_recognised_as_one_of_cocos_instances():
    head = "sem_seg_head.predictor.class_embed.bias"
    marks = [mark.replace("{i}", "0") for mark in find("mask2former").marks]
    for rows, name in ((134, "mask2former"), (81, "mask2former-instance"), (151, "mask2former")):
        assert recognise({mark: torch.zeros(1) for mark in marks} | {head: torch.zeros(rows)}).name == name


def test_classes_by_their_number():
    layout = find("mask2former")
    row = "sem_seg_head.predictor.class_embed.bias"
    coco = layout.classes({row: torch.zeros(134)}, {})["panoptic"]
    assert coco == coco_panoptic_classes() and len(coco) == 133
    assert (coco[79].name, coco[80].name, coco[132].file_id, coco[132].thing) == ("toothbrush", "banner", 200, False)
    things = find("mask2former-instance").classes({row: torch.zeros(81)}, {})["detection"]
    assert [one.file_id for one in things] == [one.file_id for one in coco[:80]]
    assert len(find("mask2former-semantic").classes({row: torch.zeros(151)}, {})["segmentation"]) == 150

    ade = layout.classes({row: torch.zeros(151)}, {})["panoptic"]  # register_ade20k_panoptic.py
    assert [(one.name, one.file_id, one.thing) for one in ade[6:9]] == [
        ("road", 6, False), ("bed", 7, True), ("window", 8, True)
    ]  # fmt: skip
    assert sum(one.thing for one in ade) == 100
    things = find("mask2former-instance").classes({row: torch.zeros(101)}, {})["detection"]
    assert things == tuple(one for one in ade if one.thing)
    city = layout.classes({row: torch.zeros(20)}, {})["panoptic"]
    assert [one.name for one in city if one.thing] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    assert [(one.name, one.file_id) for one in city[:2]] == [("road", 7), ("sidewalk", 8)]
    own = layout.classes({row: torch.zeros(20)}, {"classes": [f"part {i}" for i in range(19)]})["panoptic"]
    assert [one.name for one in own[:2]] == ["part 0", "part 1"] and own[0].thing
