"""Checkpoints of bytedance/kmax-deeplab, made of random tensors with the authors' names."""

import pytest
import torch
from torch import Tensor

import densevit
from densevit.layouts import find
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import describe, translate, translate_back
from densevit_checkpoints.recognition import recognise
from tests.random_weights import randomise

RESNET = {"name": "resnet", "depth": 18, "norm": "sync", "norm_eps": 1e-3, "norm_momentum": 0.01}
HEAD = {
    "name": "kmax_deeplab",
    "num_queries": 7,
    "layers": [1, 2, 1],
    "pixel_layers": [1, 2, 1, 1],
    "width": 16,
    "pixel_width": 4,
    "num_heads": 4,
    "align_corners": True,
    "feedforward": 24,
    "semantic_void": True,
}


def authors_state() -> dict[str, Tensor]:
    """A state dict of theirs, of which `PAIRS` has the names."""
    torch.manual_seed(0)
    model = densevit.create_model(RESNET, {"panoptic": HEAD}, {"panoptic": [*"01234"]}, pretrained=False)
    state, unknown = translate_back(randomise(model).state_dict(), find("kmax-deeplab"))
    assert unknown == []
    return state


# The authors' names of one of each kind of our modules, relative to the head; a convolution and its norm are one pair.
PIXELS, DECODER = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
STAGE, LAYER = f"{PIXELS}._stages.1._blocks.1", f"{DECODER}._kmax_transformer_layers.2"
SEMANTIC = f"{DECODER}._auxiliary_semantic_predictor"
PAIRS = {
    "pixel_decoder.norms.1": f"{PIXELS}._in_norms.1",
    "pixel_decoder.fuses.0.coarse.1": f"{PIXELS}._resized_fuses.0._conv_bn_low",
    "pixel_decoder.stages.2.0.convolution": f"{PIXELS}._stages.2._blocks.0._conv2_bn_act",
    "pixel_decoder.stages.1.1.attention.columns.qkv.0": f"{STAGE}._attention._height_axis.qkv_transform.conv",
    "pixel_decoder.stages.1.1.attention.rows.norm_scores": f"{STAGE}._attention._width_axis._batch_norm_similarity",
    "layers.2.qkv": f"{LAYER}._query_qkv_conv_bn",
    "layers.2.self_attention.norm_values": f"{LAYER}._query_self_attention._batch_norm_retrieved_value",
    "layers.2.norm_update": f"{LAYER}._kmeans_query_batch_norm_retrieved_value",
    "layers.2.predictor.pixel_head.2": f"{LAYER}._predcitor._pixel_space_head_last_convbn",
    "predictor.label_head": f"{DECODER}._predcitor._transformer_class_head.conv",
    "class_queries": f"{DECODER}._class_embedding_projection",
    "semantic_head.branches.2": f"{SEMANTIC}._aspp._aspp_conv2",
    "semantic_head.laterals.1": f"{SEMANTIC}._low_level_projection_os4",
    "semantic_head.fusions.1.1": f"{SEMANTIC}._low_level_fusion_os4_conv1_bn_act",
    "semantic_head.classifier.1": f"{SEMANTIC}.final_conv.conv",
}
POSITIONS = {0: "query", 1: "key", 2: "value"}  # of an axial attention


def assert_pairs(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for own, name in PAIRS.items():
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
def test_the_authors_checkpoints_load_and_are_written_back(tmp_path):
    theirs = authors_state()
    layout = find("kmax-deeplab")
    assert recognise(theirs) is layout
    torch.save({"model": theirs, "iteration": 5}, tmp_path / "model_final.pth")
    found = convert(tmp_path / "model_final.pth")
    model, config = found.model, found.model.config
    assert describe(theirs, layout) == {"backbone": RESNET, "heads": {"panoptic": HEAD}}
    assert config.backbone.mean == config.backbone.std == (0.5, 0.5, 0.5)
    assert (config.data.image_size, config.data.transforms.name) == (1281, "lsj")
    assert [*model.licences.values()] == [layout.publishing.licences]

    ours, done = model.state_dict(), translate(theirs, layout)
    assert (done.unknown, done.ignored_keys, done.errors) == ([], {}, [])
    assert done.tensors.keys() == ours.keys()
    assert_pairs(ours, theirs)
    back, unmatched = translate_back(ours, layout)
    assert not unmatched and back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(back[key], tensor), key
