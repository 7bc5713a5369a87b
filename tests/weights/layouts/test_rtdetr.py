"""The authors' checkpoints of RT-DETR and RT-DETRv2: transformers' models with the authors' names."""

import re

import pytest
import torch

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, saved_options, translate, translate_back
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import find, recognise
from densevit_heads.rtdetr.checkpoints import RTDETR, RTDETRV2
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert
from tests.weights.layouts.test_transformers_rtdetr import MODES, SIZE, make, run, same

pytestmark = pytest.mark.integration

STAGE = r"backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d+)"
AUTHORS = [  # transformers' names in memory -> the authors', as in transformers' conversion script
    (r"backbone\.model\.embedder\.embedder\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}."),
    (rf"{STAGE}\.layer\.(\d)\.", lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.branch2{'abc'[int(m[3])]}."),
    (rf"{STAGE}\.shortcut\.1\.", r"backbone.res_layers.\1.blocks.\2.short.conv."),
    (rf"{STAGE}\.shortcut\.", r"backbone.res_layers.\1.blocks.\2.short."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
    (r"^encoder_input_proj\.", "encoder.input_proj."),
    (r"^encoder\.aifi\.", "encoder.encoder."),
    (r"^decoder_input_proj\.(\d)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^decoder_input_proj\.(\d)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^decoder\.layers\.", "decoder.decoder.layers."),
    (r"^(decoder\.decoder.*)\.encoder_attn\.n_points_scale", r"\1.cross_attn.num_points_scale"),
    (r"^(decoder\.decoder.*)\.encoder_attn_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\.decoder.*)\.encoder_attn\.", r"\1.cross_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"^(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^(enc_output|enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
    (r"^decoder\.query_pos_head\.", "decoder.query_pos_head."),
    (r"^decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
]
V2 = [
    (r"^encoder\.input_proj\.(\d)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^encoder\.input_proj\.(\d)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
]


def authors(theirs, version):
    """The state dict of transformers' model with the authors' names; query, key and value in one tensor."""
    state = {}
    for key, tensor in theirs.state_dict().items():
        if not key.startswith("model."):  # a copy
            continue
        name = key.removeprefix("model.")
        for pattern, replacement in AUTHORS + (V2 if version == 2 else []):
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    for key in [key for key in state if ".q_proj." in key]:
        parts = [state.pop(key.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        state[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    state["decoder.anchors"], state["decoder.valid_mask"] = torch.zeros(1, 9, 4), torch.ones(1, 9, 1)
    return state


@pytest.mark.parity("rtdetr", "rtdetrv2")
@pytest.mark.parametrize("mode", ["basic", "bottlenecks", "v2"])
@torch.no_grad()
def test_logits_and_boxes_match_transformers_with_the_authors_names(mode, tmp_path, randomise, padded_batch):
    theirs, _ = make(mode, randomise)
    version = MODES[mode][0]
    state = authors(theirs, version)
    layout = {1: RTDETR, 2: RTDETRV2}[version]
    assert recognise(state) is layout
    torch.save({"ema": {"module": state, "updates": 5}, "last_epoch": 3}, tmp_path / "rtdetr.pth")
    ours = convert(tmp_path / "rtdetr.pth", overrides=["heads.detection.num_queries=17"]).model
    assert ours.backbone.mean == (0.0, 0.0, 0.0) and ours.backbone.std == (1.0, 1.0, 1.0)
    assert ours.classes["detection"] == coco_classes()
    batch = padded_batch([SIZE, SIZE])
    same(ours.eval()(batch)["detection"], run(theirs, batch))


@pytest.mark.parametrize("mode", ["basic", "v2"])
def test_every_tensor_is_used_and_written_back(mode, randomise):
    theirs, _ = make(mode, randomise)
    version = MODES[mode][0]
    state, layout = authors(theirs, version), {1: RTDETR, 2: RTDETRV2}[version]
    done = translate(state, layout)
    assert done.unknown == [] and done.errors == []
    assert {re.sub(r"\d", "0", key) for key in done.left_out} == {
        "decoder.anchors",
        "decoder.valid_mask",
        *(["decoder.decoder.layers.0.cross_attn.num_points_scale"] if version == 2 else []),
    }
    back, unknown = translate_back(done.tensors, layout)
    assert unknown == [] and set(back) == set(state) - set(done.left_out)
    label = "decoder.denoising_class_embed.weight"
    assert all(torch.equal(back[key], state[key]) for key in back if key != label)
    assert torch.equal(back[label][:-1], state[label][:-1]) and not back[label][-1].any()


@pytest.mark.parametrize(("name", "version"), [("rtdetr", 1), ("rtdetrv2", 2)])
@torch.no_grad()
def test_a_model_of_ours_is_restored_from_the_authors_file(name, version, tmp_path, randomise):
    small = {"width": 32, "num_heads": 8, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 40, "dropout": 0.0}
    encoder = {"width": 16, "feedforward": 24, "expansion": 1.0}
    model = densevit.create_model(
        {"name": "resnet", "depth": 18, "variant": "vd", "mean": [0, 0, 0], "std": [1, 1, 1]},
        heads={"detection": {"name": "rtdetr", "transformer": small, "encoder": encoder}},
        classes=[f"thing {i}" for i in range(5)],
    ).model
    randomise(model)
    densevit.save(model, tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", name).write(tmp_path / "out.pth")
    back = convert(tmp_path / "out.pth").model.state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("counts", "expected"), [([4, 4, 4], 4), ([1, 1, 1], 1), ([3, 6, 3], [3, 6, 3]), ([2, 1, 1], [2, 1, 1])]
)
def test_points_of_each_level_are_read_from_version_2s_buffer(counts, expected):
    scale = torch.tensor([1 / count for count in counts for _ in range(count)])
    state = {"decoder.decoder.layers.0.cross_attn.num_points_scale": scale}
    assert saved_options(state, RTDETRV2, {}) == {"heads.detection.num_points": expected}


def test_a_buffer_that_is_no_number_of_points_is_refused():
    state = {"decoder.decoder.layers.0.cross_attn.num_points_scale": torch.tensor([0.25, 0.0])}
    with pytest.raises(WeightsError, match="expected 1 / points, once for each point"):
        saved_options(state, RTDETRV2, {})


def test_points_that_differ_without_the_buffer_are_refused(randomise):
    theirs, _ = make("basic", randomise)
    state = authors(theirs, 1)
    for key in [key for key in state if "attention_weights" in key]:
        state[key] = state[key][:-1]
    with pytest.raises(WeightsError, match="Attention weights of 95 rows for 3 levels: expected 8 heads"):
        describe(state, RTDETR)


@pytest.mark.parity("rtdetr-resnet")
@torch.no_grad()
def test_the_backbone_alone_is_read_with_the_authors_names(randomise, loaded):
    theirs, _ = make("basic", randomise)
    state = {key.removeprefix("backbone."): x for key, x in authors(theirs, 1).items() if key.startswith("backbone.")}
    assert recognise(state) is find("rtdetr-resnet")
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
    assert all(key.endswith(("anchors", "valid_mask", "num_points_scale")) for key in done.left_out)
    sections = describe(state, layout)
    model = densevit.create_model(sections["backbone"], sections["heads"], [one.name for one in coco_classes()]).model
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    assert {key: x.shape for key, x in done.tensors.items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 20_184_208
