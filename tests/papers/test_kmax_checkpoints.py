"""Checkpoints of bytedance/kmax-deeplab, made of random tensors with the names and shapes of the authors' modules."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import ade20k_panoptic_classes, cityscapes_panoptic_classes, coco_panoptic_classes
from densevit.weights.layouts import find, recognise
from densevit_papers.max_deeplab_layers import BatchNorm
from densevit_workbench.interchange.foreign_weights import convert

PIXELS, DECODER = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
RESNET = {"name": "resnet", "depth": 18, "norm": "sync", "norm_eps": 1e-3}
HEAD = {"name": "kmax_deeplab", "num_queries": 7, "layers": [1, 2, 1], "pixel_layers": [1, 2, 1, 1], "width": 16}
HEAD |= {"pixel_width": 4, "num_heads": 4, "align_corners": True, "feedforward": 24}
WIDTH, EMBEDDING, HEADS, SPAN = 16, 8, 4, 509


def weight(*shape):
    """Random, of a size that keeps maps finite."""
    return torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5


def norm(name, channels):
    names = ("weight", "bias", "running_mean", "running_var")
    found = {f"{name}.{part}": torch.rand(channels) + 0.5 for part in names}
    return found | {f"{name}.num_batches_tracked": torch.tensor(3)}


def conv(name, *shape, bias=False):
    """Their ConvBN without a norm."""
    return {f"{name}.conv.weight": weight(*shape)} | ({f"{name}.conv.bias": torch.randn(shape[0])} if bias else {})


def conv_bn(name, *shape, bias=False):
    return conv(name, *shape, bias=bias) | norm(f"{name}.norm", shape[0])


def resnet():
    """detectron2's ResNet-18."""

    def layer(name, *shape):
        return {f"{name}.weight": weight(*shape)} | norm(f"{name}.norm", shape[0])

    state, inputs = layer("backbone.stem.conv1", 64, 3, 7, 7), 64
    for stage, outputs in enumerate((64, 128, 256, 512), 2):
        for block in range(2):
            name = f"backbone.res{stage}.{block}"
            state |= layer(f"{name}.conv1", outputs, inputs, 3, 3) | layer(f"{name}.conv2", outputs, outputs, 3, 3)
            if inputs != outputs:
                state |= layer(f"{name}.shortcut", outputs, inputs, 1, 1)
            inputs = outputs
    return state


def axial_attention(name, inputs, key):
    """Their AxialAttention: values are twice as wide as keys."""
    state = conv(f"{name}.qkv_transform", 4 * key, inputs, 1) | norm(f"{name}._batch_norm_qkv", 4 * key)
    for kind, width in (("query", key), ("key", key), ("value", 2 * key)):
        state[f"{name}._{kind}_rpe._embeddings.weight"] = torch.randn(SPAN, width // HEADS)
    state |= norm(f"{name}._batch_norm_similarity", 3 * HEADS)
    return state | norm(f"{name}._batch_norm_retrieved_output", 4 * key)


def block(name, inputs, base, axial):
    """Their SingleBlock."""
    middle = 2 * base if axial else base
    state = conv_bn(f"{name}._conv1_bn_act", middle, inputs, 1, 1)
    if axial:
        for axis in ("height", "width"):
            state |= axial_attention(f"{name}._attention._{axis}_axis", 2 * base, base)
    else:
        state |= conv_bn(f"{name}._conv2_bn_act", base, base, 3, 3)
    state |= conv_bn(f"{name}._conv3_bn", 4 * base, middle, 1, 1)
    return state | (conv_bn(f"{name}._shortcut", 4 * base, inputs, 1, 1) if inputs != 4 * base else {})


def pixel_decoder(counts, bases, features):
    state = {}
    for i, (count, base, channels) in enumerate(zip(counts, bases, features, strict=True)):
        state |= {f"{PIXELS}._in_norms.{i}.{part}": torch.randn(channels) for part in ("weight", "bias")}
        inputs = channels
        if i:
            fuse, inputs = f"{PIXELS}._resized_fuses.{i - 1}", base
            state |= conv_bn(f"{fuse}._conv_bn_low", base, 4 * bases[i - 1], 1, 1)
            state |= conv_bn(f"{fuse}._conv_bn_high", base, channels, 1, 1)
        for j in range(count):
            state |= block(f"{PIXELS}._stages.{i}._blocks.{j}", inputs, base, axial=i < 2)
            inputs = 4 * base
    return state


def predictor(name, pixels, rows):
    """Their kMaXPredictor."""
    name = f"{name}._predcitor"
    state = conv_bn(f"{name}._pixel_space_head_conv0bnact", pixels, 1, 5, 5)
    state |= conv_bn(f"{name}._pixel_space_head_conv1bnact", WIDTH, pixels, 1, 1)
    state |= conv_bn(f"{name}._pixel_space_head_last_convbn", EMBEDDING, WIDTH, 1, 1, bias=True)
    state |= conv_bn(f"{name}._transformer_mask_head", EMBEDDING, WIDTH, 1)
    state |= conv(f"{name}._transformer_class_head", rows, WIDTH, 1, bias=True)
    return state | norm(f"{name}._pixel_space_mask_batch_norm", 1)


def kmax_layer(name, pixels, rows):
    """Their kMaXTransformerLayer."""
    state = conv_bn(f"{name}._query_conv1_bn_act", WIDTH, WIDTH, 1)
    state |= conv_bn(f"{name}._pixel_conv1_bn_act", WIDTH, pixels, 1, 1)
    state |= conv_bn(f"{name}._query_qkv_conv_bn", 2 * WIDTH, WIDTH, 1)
    state |= conv_bn(f"{name}._pixel_v_conv_bn", WIDTH, WIDTH, 1, 1)
    state |= norm(f"{name}._query_self_attention._batch_norm_similarity", HEADS)
    state |= norm(f"{name}._query_self_attention._batch_norm_retrieved_value", WIDTH)
    state |= conv_bn(f"{name}._query_conv3_bn", WIDTH, WIDTH, 1)
    state |= conv_bn(f"{name}._query_ffn_conv1_bn_act", 24, WIDTH, 1)
    state |= conv_bn(f"{name}._query_ffn_conv2_bn", WIDTH, 24, 1)
    state |= norm(f"{name}._kmeans_query_batch_norm_retrieved_value", WIDTH)
    return state | conv_bn(f"{name}._kmeans_query_conv3_bn", WIDTH, WIDTH, 1) | predictor(name, WIDTH, rows)


def semantic_predictor(rows):
    """Their SemanticPredictor, of 512 channels at stride 32, 128 at 8 and 64 at 4."""
    name = f"{DECODER}._auxiliary_semantic_predictor"
    state = conv_bn(f"{name}._aspp._aspp_conv0", WIDTH, 512, 1, 1)
    for i in range(1, 4):
        state |= conv_bn(f"{name}._aspp._aspp_conv{i}", WIDTH, 512, 3, 3)
    state |= conv_bn(f"{name}._aspp._aspp_pool", WIDTH, 512, 1, 1)
    state |= conv_bn(f"{name}._aspp._proj_conv_bn_act", WIDTH, 5 * WIDTH, 1, 1)
    for stride, inputs, lateral in ((8, 128, 64), (4, 64, 32)):
        state |= conv_bn(f"{name}._low_level_projection_os{stride}", lateral, inputs, 1, 1)
        state |= conv_bn(f"{name}._low_level_fusion_os{stride}_conv0_bn_act", WIDTH + lateral, 1, 5, 5)
        state |= conv_bn(f"{name}._low_level_fusion_os{stride}_conv1_bn_act", WIDTH, WIDTH + lateral, 1, 1)
    state |= conv_bn(f"{name}.conv_block_0", WIDTH, 1, 5, 5) | conv_bn(f"{name}.conv_block_1", WIDTH, WIDTH, 1, 1)
    return state | conv(f"{name}.final_conv", rows, WIDTH, 1, 1, bias=True)


def authors_state(
    classes=5,
    semantic=True,
    counts=(1, 2, 1, 1),
    bases=(32, 16, 8, 4),
    features=(512, 256, 128, 64),
    layers=(0, 1, 1, 2),
):
    """A state dict of theirs. layers: the stages that the k-means layers attend to."""
    torch.manual_seed(0)
    state = resnet() | pixel_decoder(counts, bases, features)
    for i, stage in enumerate(layers):
        state |= kmax_layer(f"{DECODER}._kmax_transformer_layers.{i}", 4 * bases[stage], classes + 1)
    state[f"{DECODER}._cluster_centers.weight"] = torch.randn(WIDTH, 7)
    for kind in ("class", "mask"):
        state |= conv_bn(f"{DECODER}._{kind}_embedding_projection", WIDTH, WIDTH, 1)
    state |= predictor(DECODER, 4 * bases[-1], classes + 1)
    return state | (semantic_predictor(classes + 1) if semantic else {})


# Ours and theirs, of tensors that their shape does not tell apart.
ATTENTION, LAYER = f"{PIXELS}._stages.1._blocks.1._attention", f"{DECODER}._kmax_transformer_layers.2"
SEMANTIC = f"{DECODER}._auxiliary_semantic_predictor"
PAIRS = {
    "pixel_decoder.stages.1.1.attention": {
        "columns.positions.0": f"{ATTENTION}._height_axis._query_rpe._embeddings.weight",
        "columns.positions.1": f"{ATTENTION}._height_axis._key_rpe._embeddings.weight",
        "rows.positions.0": f"{ATTENTION}._width_axis._query_rpe._embeddings.weight",
        "rows.qkv.1.bias": f"{ATTENTION}._width_axis._batch_norm_qkv.bias",
        "rows.norm_values.bias": f"{ATTENTION}._width_axis._batch_norm_retrieved_output.bias",
    },
    "layers.2": {
        "reduce_queries.0.weight": f"{LAYER}._query_conv1_bn_act.conv.weight",
        "expand_attended.0.weight": f"{LAYER}._query_conv3_bn.conv.weight",
        "expand_update.0.weight": f"{LAYER}._kmeans_query_conv3_bn.conv.weight",
        "norm_update.bias": f"{LAYER}._kmeans_query_batch_norm_retrieved_value.bias",
        "self_attention.norm_values.bias": f"{LAYER}._query_self_attention._batch_norm_retrieved_value.bias",
        "predictor.label_head.bias": f"{LAYER}._predcitor._transformer_class_head.conv.bias",
    },
    "predictor": {"label_head.bias": f"{DECODER}._predcitor._transformer_class_head.conv.bias"},
    "class_queries": {"0.weight": f"{DECODER}._class_embedding_projection.conv.weight"},
    "mask_queries": {"0.weight": f"{DECODER}._mask_embedding_projection.conv.weight"},
    "semantic_head": {
        "branches.0.0.weight": f"{SEMANTIC}._aspp._aspp_conv0.conv.weight",
        "branches.2.0.weight": f"{SEMANTIC}._aspp._aspp_conv2.conv.weight",
        "pooled.0.weight": f"{SEMANTIC}._aspp._aspp_pool.conv.weight",
    },
}


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
    assert [*found.licences.values()] == ["Apache-2.0 (bytedance/kmax-deeplab)"]
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    assert {module.eps for module in norms} == {1e-3} and {type(module) for module in norms} > {BatchNorm}

    ours, done = model.state_dict(), translate(theirs, layout)
    assert (done.unknown, done.left_out, done.errors) == ([], {}, [])
    assert done.tensors.keys() == ours.keys()
    for module, names in PAIRS.items():
        for key, name in names.items() if semantic or module != "semantic_head" else ():
            assert torch.equal(ours[f"heads.panoptic.{module}.{key}"], theirs[name]), key
    batch = {"images": torch.rand(1, 3, 40, 50) * 255, "padding_mask": torch.zeros(1, 40, 50, dtype=torch.bool)}
    with torch.no_grad():
        assert all(model(batch)["panoptic"][name].isfinite().all() for name in ("logits", "masks"))
    back, unmatched = translate_back(ours, layout)
    assert not unmatched and back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        if ".final_conv." in key:  # without the row of void
            tensor = torch.cat([tensor[:-1], torch.zeros_like(tensor[-1:])])
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize(
    ("count", "known", "options"),
    [
        (133, coco_panoptic_classes, {}),
        (19, cityscapes_panoptic_classes, {}),
        (150, ade20k_panoptic_classes, {"drop_path": 0.0, "thing_threshold": 0.4, "stuff_threshold": 0.4}),
    ],
)
def test_the_number_of_classes_tells_the_data_set(count, known, options):
    with torch.device("meta"):
        theirs = authors_state(count)
    layout = find("kmax-deeplab")
    sections, classes = describe(theirs, layout), layout.classes(theirs, {})
    assert sections["heads"]["panoptic"] == HEAD | options
    assert classes == {"panoptic": known()}
    _, others = layout.publishing.recipe(sections, classes)
    assert others["data"].get("preset") == ("ade20k" if count == 150 else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": (1,) * 5, "bases": (32, 16, 8, 4, 2), "features": (512, 256, 128, 64, 64)}, "5 stages; expected 4"),
        ({"bases": (32, 16, 8, 8)}, r"\[128, 64, 32, 32\] channels"),
        ({"layers": (0, 2, 1)}, r"\[128, 32, 64\] channels; expected .* \[128, 64, 32\]"),
        ({"layers": (0, 3)}, r"\[128, 16\] channels"),
    ],
)
def test_other_counts_are_refused(options, message):
    with torch.device("meta"):
        theirs = authors_state(**options)
    with pytest.raises(WeightsError, match=message):
        describe(theirs, find("kmax-deeplab"))
