"""RT-DETR and D-FINE with the authors' names: transformers' models renamed, the released lists, and special tensors."""

import re

import pytest
import torch

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, saved_options, translate
from densevit.weights.label_sets import coco_classes, instance_classes, objects365_classes
from densevit.weights.layouts import find, recognise
from densevit_heads.rtdetr.checkpoints import RTDETR, RTDETRV2
from densevit_workbench.interchange.foreign_weights import convert
from tests.weights.authors_files import write_in_layout
from tests.weights.layouts import models
from tests.weights.layouts.models import NONE, THREE_LEVELS, TWO_LEVELS, assert_same, run

pytestmark = pytest.mark.integration

HEAD = "heads.detection"
SIZE = (64, 96)
STAGE = r"^backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)"
RESNET = [  # transformers' names in memory -> the authors', as in transformers' conversion script
    (r"^backbone\.model\.embedder\.embedder\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}."),
    (rf"{STAGE}\.layer\.(\d)\.", lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.branch2{'abc'[int(m[3])]}."),
    (rf"{STAGE}\.shortcut\.1\.", r"backbone.res_layers.\1.blocks.\2.short.conv."),
    (rf"{STAGE}\.shortcut\.", r"backbone.res_layers.\1.blocks.\2.short."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
]
HGNET = [
    (r"^backbone\.model\.embedder\.", "backbone.stem."),
    (r"^backbone\.model\.encoder\.", "backbone."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.bn."),
    (r"^encoder\.downsample_convs\.(\d)\.conv(\d)\.", r"encoder.downsample_convs.\1.0.cv\2."),
    (r"(fpn|pan)_blocks\.(\d)\.conv1\.", r"\1_blocks.\2.cv1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep1\.", r"\1_blocks.\2.cv2.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv2\.", r"\1_blocks.\2.cv2.1."),
    (r"(fpn|pan)_blocks\.(\d)\.csp_rep2\.", r"\1_blocks.\2.cv3.0."),
    (r"(fpn|pan)_blocks\.(\d)\.conv3\.", r"\1_blocks.\2.cv3.1."),
    (r"(fpn|pan)_blocks\.(\d)\.conv4\.", r"\1_blocks.\2.cv4."),
]
TRANSFORMER = [
    (r"^encoder_input_proj\.", "encoder.input_proj."),
    (r"^encoder\.aifi\.", "encoder.encoder."),
    (r"^decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^decoder\.(?!query_pos_head|pre_bbox_head|dec_)", "decoder.decoder."),
    (r"\.encoder_attn\.n_points_scale", ".cross_attn.num_points_scale"),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.mlp\.layers\.0\.", ".linear1."),
    (r"\.mlp\.layers\.1\.", ".linear2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^decoder_input_proj\.(\d)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^decoder_input_proj\.(\d)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^(enc_output|enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
]  # fmt: skip
NOT_IN_V1 = [
    (r"^encoder\.input_proj\.(\d)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^encoder\.input_proj\.(\d)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
]


def authors_state(theirs):
    """The state dict of transformers' model with the authors' names; query, key and value in one tensor."""
    kind = type(theirs).__name__
    names = (HGNET if "DFine" in kind else RESNET) + TRANSFORMER + ([] if "RTDetrFor" in kind else NOT_IN_V1)
    state = {}
    for key, tensor in theirs.state_dict().items():
        if key.startswith("model."):  # others are copies
            name = key.removeprefix("model.")
            for pattern, replacement in names:
                name = re.sub(pattern, replacement, name)
            state[name] = tensor
    for key in [key for key in state if ".q_proj." in key]:
        parts = [state.pop(key.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        state[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    if "DFine" in kind:
        return state | {f"decoder.{name}": state[f"decoder.decoder.{name}"] for name in ("up", "reg_scale")}
    return state | {"decoder.anchors": torch.zeros(1, 9, 4), "decoder.valid_mask": torch.ones(1, 9, 1)}


CASES = {  # model, layout, classes
    "rtdetr": (lambda: models.rtdetr(1, "bottleneck", hidden_expansion=1.0), "rtdetr", coco_classes()),
    "rtdetrv2": (lambda: models.rtdetr(2), "rtdetrv2", coco_classes()),
    "dfine": (lambda: models.dfine(THREE_LEVELS), "dfine", coco_classes()),
    "dfine, Objects365": (lambda: models.dfine(TWO_LEVELS, num_labels=366), "dfine", instance_classes(366)),
}


@pytest.mark.parity("rtdetr", "rtdetrv2", "dfine")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_and_boxes_match_with_the_authors_names(name, tmp_path, padded_batch, written_back):
    """Their files have the averaged weights as `ema.module` in training."""
    make, layout, classes = CASES[name]
    theirs = make()
    state = authors_state(theirs)
    assert recognise(state) is find(layout)
    done = translate(state, find(layout))
    constants = {"anchors", "valid_mask", "num_points_scale", "up", "reg_scale"}
    assert {key.rpartition(".")[2] for key in done.left_out} <= constants
    written_back(state, done, find(layout))
    if layout == "rtdetr":  # deeper backbones are frozen, as in the authors' configs
        assert describe(state, find(layout))["backbone"]["frozen_stages"] == 1
    trained = {key: x + 1 for key, x in state.items()}
    torch.save({"model": trained, "ema": {"module": state, "updates": 5}, "last_epoch": 3}, tmp_path / "theirs.pth")
    ours = convert(tmp_path / "theirs.pth", overrides=[f"{HEAD}.num_queries=17"]).model.eval()
    assert (ours.backbone.mean, ours.backbone.std) == NONE
    assert ours.classes["detection"] == classes
    batch = padded_batch([SIZE, SIZE])
    assert_same(ours(batch)["detection"], run(theirs, batch, *NONE))


@pytest.mark.parity("rtdetr-resnet")
@torch.no_grad()
def test_the_backbone_alone_is_read_with_the_authors_names(loaded):
    theirs = models.rtdetr()
    state = authors_state(theirs)
    state = {key.removeprefix("backbone."): x for key, x in state.items() if key.startswith("backbone.")}
    assert describe(state, find("rtdetr-resnet")) == {"backbone": {"name": "resnet", "depth": 18, "variant": "vd"}}
    images = torch.randn(2, 3, 64, 96)
    expected = theirs.model.backbone.model(images).feature_maps
    for x, y in zip(loaded(state, "rtdetr-resnet")(images)[-len(expected) :], expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "layout"), [("rtdetr_r18vd", RTDETR), ("rtdetrv2_r18vd", RTDETRV2)])
def test_every_name_of_the_authors_model_is_read(name, layout, released):
    state = released(name)
    for key in state:
        if key.endswith("num_points_scale"):
            state[key] = torch.full((12,), 0.25)
    assert recognise(state) is layout
    done = translate(state, layout)
    assert done.unknown == [] and done.errors == []
    sections = describe(state, layout)
    model = densevit.create_model(sections["backbone"], sections["heads"], [one.name for one in coco_classes()]).model
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    assert {key: x.shape for key, x in done.tensors.items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 20_184_208


# ---- special tensors ----


@pytest.mark.parametrize(("counts", "expected"), [([4, 4, 4], 4), ([1, 1, 1], 1), ([3, 6, 3], [3, 6, 3])])
def test_points_of_each_level_are_read_from_version_2s_buffer(counts, expected):
    scale = torch.tensor([1 / count for count in counts for _ in range(count)])
    state = {"decoder.decoder.layers.0.cross_attn.num_points_scale": scale}
    assert saved_options(state, RTDETRV2, {}) == {f"{HEAD}.num_points": expected}


def test_wrong_points_and_an_unknown_hgnet_are_refused():
    state = {"decoder.decoder.layers.0.cross_attn.num_points_scale": torch.tensor([0.25, 0.0])}
    with pytest.raises(WeightsError, match="expected 1 / points"):
        saved_options(state, RTDETRV2, {})
    state = authors_state(models.rtdetr())
    state = {key: x[:-1] if "attention_weights" in key else x for key, x in state.items()}
    with pytest.raises(WeightsError, match="Attention weights of 95 rows for 3 levels: expected 8 heads"):
        describe(state, RTDETR)
    state = {key: x for key, x in authors_state(models.dfine(TWO_LEVELS)).items() if ".lab." not in key}
    with pytest.raises(WeightsError, match="stem of 16 and a first stage of 64 channels, without learnable affine"):
        describe(state, find("dfine"))


def test_heads_that_layers_share_are_stored_once():
    """As transformers 5 does for a model whose config has `tie_word_embeddings`."""
    state = models.dfine(TWO_LEVELS).state_dict()
    for key in state:
        if match := re.fullmatch(r"(?:model\.decoder\.)?((?:class|bbox)_embed)\.\d\.(.*)", key):
            state[key] = state[f"{match[1]}.0.{match[2]}"]
    once = {key: x for key, x in state.items() if not re.search(r"model\.decoder\.(class|bbox)_embed|_embed\.1\.", key)}
    assert len(once) < len(state)
    found, expected = (translate(one, find("transformers-dfine")) for one in (once, state))
    assert (found.unknown, found.errors) == ([], [])
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(x, found.tensors[key]) for key, x in expected.tensors.items())


def test_classes_of_366_rows_are_objects365s_unless_config_json_has_others(tmp_path):
    """As on the Hub, and own ones."""
    theirs = models.dfine(TWO_LEVELS, num_labels=366)
    hub = ["None", "Person", "Sneakers", "Chair", *(one.name for one in objects365_classes()[3:])]
    for labels in (hub, [f"part {i}" for i in range(366)]):
        theirs.config.id2label = dict(enumerate(labels))
        theirs.save_pretrained(tmp_path)
        found = convert(tmp_path).model.classes["detection"]
        assert [one.name for one in found[:4]] == labels[:4] and [one.file_id for one in found] == [*range(366)]


@pytest.mark.parametrize("layout", ["rtdetr", "rtdetrv2", "dfine"])
def test_a_model_of_the_usual_points_is_restored_from_the_authors_file(layout, tmp_path):
    head = "dfine" if layout == "dfine" else "rtdetr"
    small = {"width": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40, "dropout": 0.0}
    encoder = {"width": 16, "feedforward": 24, "expansion": 0.5 if head == "dfine" else 1.0}
    backbone = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    backbone |= {"name": "timm", "model": "hgnetv2_b0"} if head == "dfine" else {"name": "resnet", "depth": 18}
    backbone |= {} if head == "dfine" else {"variant": "vd"}
    section = {"name": head, "transformer": small, "encoder": encoder}
    model = densevit.create_model(backbone, heads={"detection": section}, classes=["a", "b"]).model
    densevit.save(model, tmp_path / "model.safetensors")
    write_in_layout(tmp_path / "model.safetensors", layout, tmp_path / "out.pth")
    back = convert(tmp_path / "out.pth").model.state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())
