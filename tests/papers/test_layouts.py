"""The layouts of the authors' checkpoints of papers: their names, written and read, and files that are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import ade20k_panoptic_classes, cityscapes_panoptic_classes, coco_panoptic_classes
from densevit.weights.layouts import find, recognise
from densevit_papers import deep_vit, kmax_checkpoints
from densevit_papers.max_deeplab_layers import BatchNorm
from densevit_workbench.interchange.foreign_weights import convert
from tests.papers.small_models import randomise

VIL: dict[str, Any] = {"name": "vision_longformer", "variant": "nano", "window_size": 7, "global_tokens": 1}
BLOCK = "blocks.1.conv.conv"
AXIS = "layer2.0.width_block"
# By layout: the options that tell its sizes; modules or tensors of ours and theirs; what a classifier has besides.
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "localvit": (
        {"name": "local_vit", "variant": "nano", "patch_size": 16, "image_size": 64, "se_reduction": 4},
        {
            "embedding.projection": "patch_embed.proj",
            "blocks.1.norm": "blocks.1.norm1",
            "blocks.1.attention.output": "blocks.1.attn.proj",
            "blocks.1.mlp.expand": f"{BLOCK}.0",
            "blocks.1.mlp.expand_norm": f"{BLOCK}.1",
            "blocks.1.mlp.depthwise": f"{BLOCK}.3",
            "blocks.1.mlp.depthwise_norm": f"{BLOCK}.4",
            "blocks.1.mlp.gate.fc1": f"{BLOCK}.6.fc.0",
            "blocks.1.mlp.gate.fc2": f"{BLOCK}.6.fc.2",
            "blocks.1.mlp.contract": f"{BLOCK}.7",
            "blocks.1.mlp.contract_norm": f"{BLOCK}.8",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "deepvit": (
        {"name": "deep_vit", "variant": "nano", "patch_size": 16, "image_size": 64},
        {
            "embedding.conv1": "patch_embed.conv1",
            "embedding.norm2": "patch_embed.bn2",
            "embedding.projection": "patch_embed.proj",
            "blocks.4.norm2": "blocks.4.norm2",
            "blocks.4.attention.output": "blocks.4.attn.proj",
            "blocks.4.attention.mixing": "blocks.4.attn.reatten_matrix",
            "blocks.4.attention.map_norm": "blocks.4.attn.var_norm",
            "blocks.4.mlp.expand": "blocks.4.mlp.fc1",
            "blocks.4.mlp.contract": "blocks.4.mlp.fc2",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "vision-longformer": (
        VIL,
        {
            "stages.1.tokens": "layer2.0.cls_token",
            "stages.1.projection": "layer2.0.proj",
            "stages.1.norm": "layer2.0.norm_embed",
            "stages.1.blocks.0.norm1": "layer2.1.norm",
            "stages.1.blocks.0.norm2": "layer2.2.norm",
            "stages.1.blocks.0.attention.output": "layer2.1.attn.proj",
            "stages.1.blocks.0.mlp.expand": "layer2.2.mlp.fc1",
            "stages.1.blocks.0.mlp.contract": "layer2.2.mlp.fc2",
        },
        ("norm.weight", "norm.bias", "head.weight", "layer1.1.attn.relative_position_index"),
    ),
    "axial-deeplab-axial_resnet": (
        {"name": "attention_resnet", "depth": 26, "width": 0.125, "axial": {"num_heads": 1, "image_size": 64}},
        {
            "bn1": "bn1",
            "layer2.0.conv1": "layer2.0.conv_down",
            "layer2.0.conv3": "layer2.0.conv_up",
            "layer2.0.bn3": "layer2.0.bn2",
            "layer2.0.downsample.0": "layer2.0.downsample.0",
            "layer2.0.conv2.1.relative": f"{AXIS}.relative",
            "layer2.0.conv2.1.qkv": f"{AXIS}.qkv_transform",
            "layer2.0.conv2.1.qkv_norm": f"{AXIS}.bn_qkv",
            "layer2.0.conv2.1.similarity_norm": f"{AXIS}.bn_similarity",
            "layer2.0.conv2.1.output_norm": f"{AXIS}.bn_output",
            "layer2.0.conv2.0.qkv": "layer2.0.hight_block.qkv_transform",
        },
        ("fc.weight", "fc.bias", f"{AXIS}.flatten_index"),
    ),
}


def part_of(state: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors of a module, or a tensor, without shapes."""
    return {key.removeprefix(module): x.flatten() for key, x in state.items() if f"{key}.".startswith(f"{module}.")}


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoints_of_the_authors_are_read_and_written(name):
    options, modules, surplus = LAYOUTS[name]
    layout = find(name)
    ours = randomise(densevit.create_backbone(**options)).state_dict()
    written, unknown = translate_back(ours, layout)
    assert unknown == []
    for own, theirs in modules.items():
        found, expected = part_of(written, theirs), part_of(ours, own)
        assert found.keys() == expected.keys() != set()
        assert all(torch.equal(found[key], x) for key, x in expected.items())
    state = {**written, **{key: torch.zeros(3, 3) for key in surplus}}
    assert recognise(state) is layout
    assert describe(state, layout)["backbone"] == options
    done = translate(state, layout)
    assert done.unknown == done.errors == [] and len(done.left_out) >= len(surplus)
    assert done.tensors.keys() == ours.keys()
    assert all(torch.equal(done.tensors[key], x) for key, x in ours.items())


def test_vil_s_attention_is_in_parts_of_queries_keys_and_biases():
    vil = randomise(densevit.create_backbone(**VIL))
    state, _ = translate_back(vil.state_dict(), find("vision-longformer"))
    block, theirs = vil.stages[1].blocks[0].attention, "layer2.1.attn."
    for kind in ("weight", "bias"):
        parts = [state[f"{theirs}{part}.{kind}"] for part in ("query", "kv")]
        assert torch.equal(getattr(block.qkv, kind), torch.cat(parts))
        assert torch.equal(state[f"{theirs}kv_global.{kind}"], parts[1])
    assert torch.equal(block.token_bias[:2], state[theirs + "g2l_relative_position_bias"])
    assert torch.equal(block.token_bias[2, :, 0], state[theirs + "g2g_relative_position_bias"][:, 0, 0])


def full_attention(grid: int) -> dict[str, Tensor]:
    """A classifier of ViL with full attention in its last two stages, of grids of 2 * grid and grid."""
    state, _ = translate_back(randomise(densevit.create_backbone(**VIL)).state_dict(), find("vision-longformer"))
    for key in [key for key in state if key.startswith(("layer3", "layer4")) and "_global." in key]:
        del state[key]
    for key in [key for key in state if key.startswith(("layer3", "layer4"))]:
        if ".attn.query." in key:
            parts = state.pop(key), state.pop(key.replace("query", "kv"))
            state[key.replace("query", "qkv")] = torch.cat(parts)
        elif key.endswith("local_relative_position_bias_table"):
            side = 2 * (2 * grid if key.startswith("layer3") else grid) - 1
            state[key] = torch.randn(side**2, state[key].shape[1])
    return state


def test_full_attention_of_vil_is_read_as_windows():
    """Stage 3 has the same offsets; stage 4 those up to 6, in the centre of the table."""
    state, layout = full_attention(7), find("vision-longformer")
    done = translate(state, layout)
    assert done.unknown == done.errors == []
    vil = densevit.create_backbone(**describe(state, layout)["backbone"])
    vil.load_state_dict(done.tensors)
    for key, value in {"layer3.3.": vil.stages[2].blocks[1], "layer4.1.": vil.stages[3].blocks[0]}.items():
        assert torch.equal(value.attention.qkv.weight, state[key + "attn.qkv.weight"])
        table = state[key + "attn.local_relative_position_bias_table"].T
        side, found = math.isqrt(table.shape[1]), value.attention.offset_bias.T.unflatten(1, (27, 27))
        border = (27 - side) // 2
        assert torch.equal(found[:, border : 27 - border, border : 27 - border].flatten(1), table)
        assert torch.equal(found[:, 0, 0], table[:, 0]) and torch.equal(found[:, 26, 13], table[:, -(side // 2) - 1])


def test_checkpoints_of_unknown_sizes_are_refused():
    with pytest.raises(WeightsError, match=r"bias tables .*\[27, 27, 47, 27\]"):
        describe(full_attention(12), find("vision-longformer"))
    deepvit = densevit.create_backbone(**LAYOUTS["deepvit"][0]).state_dict()
    with pytest.raises(WeightsError, match="DeepViT of 100 channels and 8 blocks is not a known variant"):
        deep_vit.describe({**deepvit, "norm.weight": torch.ones(100)})


RESNET = {"name": "resnet", "depth": 18, "norm": "sync", "norm_eps": 1e-3}
HEAD = {"name": "kmax_deeplab", "num_queries": 7, "layers": [1, 2, 1], "pixel_layers": [1, 2, 1, 1], "width": 16}
HEAD |= {"pixel_width": 4, "num_heads": 4, "align_corners": True, "feedforward": 24}


def authors_state(classes: int = 5, semantic: bool = True) -> dict[str, Tensor]:
    """A state dict of theirs, of which `PAIRS` has the names."""
    torch.manual_seed(0)
    head = HEAD if semantic else HEAD | {"losses": {"semantic": 0.0}}
    names = [str(number) for number in range(classes)]
    model = densevit.create_model(RESNET, {"panoptic": head}, {"panoptic": names}, pretrained=False)
    state, unknown = translate_back(randomise(model.model).state_dict(), find("kmax-deeplab"))
    assert unknown == []
    return state


# The authors' names of one of each kind of our modules, relative to the head; a convolution and its norm are one pair.
PIXELS, DECODER = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
STAGE, LAYER = f"{PIXELS}._stages.1._blocks.1", f"{DECODER}._kmax_transformer_layers.2"
SEMANTIC = f"{DECODER}._auxiliary_semantic_predictor"
PAIRS = {
    "pixel_decoder.norms.1": f"{PIXELS}._in_norms.1",
    "pixel_decoder.fuses.0.coarse.1": f"{PIXELS}._resized_fuses.0._conv_bn_low",
    "pixel_decoder.fuses.0.fine.1": f"{PIXELS}._resized_fuses.0._conv_bn_high",
    "pixel_decoder.stages.1.1.reduce": f"{STAGE}._conv1_bn_act",
    "pixel_decoder.stages.2.0.convolution": f"{PIXELS}._stages.2._blocks.0._conv2_bn_act",
    "pixel_decoder.stages.1.1.expand": f"{STAGE}._conv3_bn",
    "pixel_decoder.stages.1.0.shortcut": f"{PIXELS}._stages.1._blocks.0._shortcut",
    "pixel_decoder.stages.1.1.attention.columns.qkv.0": f"{STAGE}._attention._height_axis.qkv_transform.conv",
    "pixel_decoder.stages.1.1.attention.rows.qkv.1": f"{STAGE}._attention._width_axis._batch_norm_qkv",
    "pixel_decoder.stages.1.1.attention.rows.norm_scores": f"{STAGE}._attention._width_axis._batch_norm_similarity",
    "pixel_decoder.stages.1.1.attention.rows.norm_values": (
        f"{STAGE}._attention._width_axis._batch_norm_retrieved_output"
    ),
    "layers.2.reduce_queries": f"{LAYER}._query_conv1_bn_act",
    "layers.2.reduce_pixels": f"{LAYER}._pixel_conv1_bn_act",
    "layers.2.qkv": f"{LAYER}._query_qkv_conv_bn",
    "layers.2.pixel_value": f"{LAYER}._pixel_v_conv_bn",
    "layers.2.self_attention.norm_scores": f"{LAYER}._query_self_attention._batch_norm_similarity",
    "layers.2.self_attention.norm_values": f"{LAYER}._query_self_attention._batch_norm_retrieved_value",
    "layers.2.expand_attended": f"{LAYER}._query_conv3_bn",
    "layers.2.ffn.0": f"{LAYER}._query_ffn_conv1_bn_act",
    "layers.2.ffn.1": f"{LAYER}._query_ffn_conv2_bn",
    "layers.2.norm_update": f"{LAYER}._kmeans_query_batch_norm_retrieved_value",
    "layers.2.expand_update": f"{LAYER}._kmeans_query_conv3_bn",
    "layers.2.predictor.pixel_head.0": f"{LAYER}._predcitor._pixel_space_head_conv0bnact",
    "layers.2.predictor.pixel_head.1": f"{LAYER}._predcitor._pixel_space_head_conv1bnact",
    "layers.2.predictor.pixel_head.2": f"{LAYER}._predcitor._pixel_space_head_last_convbn",
    "layers.2.predictor.kernel_head": f"{LAYER}._predcitor._transformer_mask_head",
    "layers.2.predictor.label_head": f"{LAYER}._predcitor._transformer_class_head.conv",
    "layers.2.predictor.norm_masks": f"{LAYER}._predcitor._pixel_space_mask_batch_norm",
    "predictor.label_head": f"{DECODER}._predcitor._transformer_class_head.conv",
    "class_queries": f"{DECODER}._class_embedding_projection",
    "mask_queries": f"{DECODER}._mask_embedding_projection",
    "semantic_head.branches.0": f"{SEMANTIC}._aspp._aspp_conv0",
    "semantic_head.branches.2": f"{SEMANTIC}._aspp._aspp_conv2",
    "semantic_head.pooled": f"{SEMANTIC}._aspp._aspp_pool",
    "semantic_head.project.0": f"{SEMANTIC}._aspp._proj_conv_bn_act",
    "semantic_head.laterals.0": f"{SEMANTIC}._low_level_projection_os8",
    "semantic_head.laterals.1": f"{SEMANTIC}._low_level_projection_os4",
    "semantic_head.fusions.0.0": f"{SEMANTIC}._low_level_fusion_os8_conv0_bn_act",
    "semantic_head.fusions.1.1": f"{SEMANTIC}._low_level_fusion_os4_conv1_bn_act",
    "semantic_head.classifier.0.0": f"{SEMANTIC}.conv_block_0",
}
POSITIONS = {0: "query", 1: "key", 2: "value"}  # of an axial attention


def assert_pairs(ours: dict[str, Tensor], theirs: dict[str, Tensor], semantic: bool) -> None:
    for own, name in PAIRS.items():
        if not semantic and own.startswith("semantic"):
            continue
        module, found = f"heads.panoptic.{own}.", 0
        for key, x in ours.items():
            if key.startswith(module):
                part = key.removeprefix(module)
                part = {"0.": "conv.", "1.": "norm."}[part[:2]] + part[2:] if part[1] == "." else part
                assert torch.equal(x.flatten(), theirs[f"{name}.{part}"].flatten()), key
                found += 1
        assert found > 0, own
    for number, kind in POSITIONS.items():
        table = theirs[f"{STAGE}._attention._height_axis._{kind}_rpe._embeddings.weight"]
        own = ours[f"heads.panoptic.pixel_decoder.stages.1.1.attention.columns.positions.{number}"]
        assert torch.equal(own.flatten(), table.flatten())
    assert torch.equal(ours["backbone.layer2.0.downsample.0.weight"], theirs["backbone.res3.0.shortcut.weight"])
    assert torch.equal(ours["backbone.bn1.bias"], theirs["backbone.stem.conv1.norm.bias"])


@pytest.mark.integration
@pytest.mark.parametrize("semantic", [True, False])
def test_checkpoints_of_kmax_deeplab_load_and_are_written_back(semantic, tmp_path):
    theirs = authors_state(semantic=semantic)
    layout = find("kmax-deeplab")
    assert recognise(theirs) is layout
    torch.save({"model": theirs, "iteration": 5}, tmp_path / "model_final.pth")
    found = convert(tmp_path / "model_final.pth")
    model, config = found.model, found.config
    options = {} if semantic else {"losses": {"semantic": 0.0}}
    assert describe(theirs, layout) == {"backbone": RESNET, "heads": {"panoptic": HEAD | options}}
    assert config.backbone.mean == config.backbone.std == (0.5, 0.5, 0.5)
    assert (config.data.image_size, config.data.transforms.name) == (1281, "lsj")
    assert [*found.licences.values()] == ["Apache-2.0 (bytedance/kmax-deeplab)"]
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    assert {module.eps for module in norms} == {1e-3} and {type(module) for module in norms} > {BatchNorm}

    ours, done = model.state_dict(), translate(theirs, layout)
    assert (done.unknown, done.left_out, done.errors) == ([], {}, [])
    assert done.tensors.keys() == ours.keys()
    assert_pairs(ours, theirs, semantic)
    batch = {"images": torch.rand(1, 3, 40, 50) * 255, "padding_mask": torch.zeros(1, 40, 50, dtype=torch.bool)}
    with torch.no_grad():
        assert all(model(batch)["panoptic"][name].isfinite().all() for name in ("logits", "masks"))
    back, unmatched = translate_back(ours, layout)
    assert not unmatched and back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        if ".final_conv." in key:  # without the row of void
            tensor = torch.cat([tensor[:-1], torch.zeros_like(tensor[-1:])])
        assert torch.equal(back[key], tensor), key


def test_the_number_of_classes_tells_the_data_set():
    layout = find("kmax-deeplab")
    of_ade20k = {"drop_path": 0.0, "thing_threshold": 0.4, "stuff_threshold": 0.4}
    for known, options in (
        (coco_panoptic_classes, {}), (cityscapes_panoptic_classes, {}), (ade20k_panoptic_classes, of_ade20k),
    ):  # fmt: skip
        theirs = authors_state(len(known()))
        sections, classes = describe(theirs, layout), layout.classes(theirs, {})
        assert sections["heads"]["panoptic"] == HEAD | options
        assert classes == {"panoptic": known()}
        _, others = layout.publishing.recipe(sections, classes)
        assert others["data"].get("preset") == ("ade20k" if options else None)


def test_other_counts_of_kmax_deeplab_are_refused():
    pixels, layers = ("heads.panoptic.pixel_decoder.stages", "heads.panoptic.layers")
    ours = translate(authors_state(), find("kmax-deeplab")).tensors
    first, second = (ours[f"{layers}.{i}.reduce_pixels.0.weight"] for i in (0, 1))
    for changed, facts in (
        ({f"{pixels}.4.0.expand.0.weight": torch.empty(8, 2, 1, 1)}, "5 stages; expected 4"),
        ({f"{pixels}.3.0.expand.0.weight": torch.empty(32, 8, 1, 1)}, r"\[128, 64, 32, 32\] channels"),
        (
            {f"{layers}.0.reduce_pixels.0.weight": second, f"{layers}.1.reduce_pixels.0.weight": first},
            r"\[64, 128, 64, 32\] channels; expected .* \[128, 64, 32\]",
        ),
        ({f"{layers}.3.reduce_pixels.0.weight": torch.empty(16, 16, 1, 1)}, r"\[128, 64, 64, 16\] channels"),
    ):
        with pytest.raises(WeightsError, match=facts):
            kmax_checkpoints.describe(ours | changed)
