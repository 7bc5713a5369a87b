"""Checkpoints of bytedance/kmax-deeplab, made of random tensors with the authors' names."""

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import ade20k_panoptic_classes, cityscapes_panoptic_classes, coco_panoptic_classes
from densevit.weights.layouts import find, recognise
from densevit_papers import kmax_checkpoints
from densevit_papers.max_deeplab_layers import BatchNorm
from densevit_workbench.interchange.foreign_weights import convert
from tests.papers.small_models import randomise

RESNET = {"name": "resnet", "depth": 18, "norm": "sync", "norm_eps": 1e-3}
HEAD = {"name": "kmax_deeplab", "num_queries": 7, "layers": [1, 2, 1], "pixel_layers": [1, 2, 1, 1], "width": 16}
HEAD |= {"pixel_width": 4, "num_heads": 4, "align_corners": True, "feedforward": 24}


def authors_state(classes: int = 5, semantic: bool = True) -> dict[str, Tensor]:
    """A state dict of theirs, of which `PAIRS` has the names."""
    torch.manual_seed(0)
    head = HEAD if semantic else HEAD | {"losses": {"semantic": 0.0}}
    names = [str(number) for number in range(classes)]
    model = densevit.create_model(RESNET, {"panoptic": head}, {"panoptic": names}, pretrained=False)
    model = randomise(model.model) if classes == 5 else model.model
    state, unknown = translate_back(model.state_dict(), find("kmax-deeplab"))
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
def test_the_authors_checkpoints_load_and_are_written_back(semantic, tmp_path):
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
    assert [*model.licences.values()] == ["Apache-2.0 (bytedance/kmax-deeplab)"]
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


def test_other_counts_are_refused():
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
