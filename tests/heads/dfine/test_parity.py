"""The D-FINE head against transformers' DFineForObjectDetection: same weights and features.

transformers' loss is not the authors': it has no union of matchings, pairs the distributions of a layer with the boxes
of the layer before, and leaves out those of the last layer. `test_criterion.py` compares losses by term.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dfine import Dfine
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions
from tests.heads.rtdetr.test_parity import GivenFeatures

CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0)) for i in range(5)]
LAYERS, QUERIES = 3, 12
CHANNELS, STRIDES = (6, 8, 12, 16), (4, 8, 16, 32)
SIZE = (96, 160)  # transformers' top-down path needs multiples of 32

# transformers' name -> ours, as regular expressions, all applied in turn
NAMES = [
    (r"^model\.", ""),
    (r"^encoder_input_proj\.", "encoder.projections."),
    (r"^encoder\.aifi\.0\.layers\.(\d)\.self_attn_layer_norm\.", r"encoder.attention.\1.residuals.0.norm."),
    (r"^encoder\.aifi\.0\.layers\.(\d)\.final_layer_norm\.", r"encoder.attention.\1.residuals.1.norm."),
    (r"^encoder\.aifi\.0\.layers\.(\d)\.mlp\.layers\.0\.", r"encoder.attention.\1.feedforward.expand."),
    (r"^encoder\.aifi\.0\.layers\.(\d)\.mlp\.layers\.1\.", r"encoder.attention.\1.feedforward.contract."),
    (r"^encoder\.aifi\.0\.layers\.", "encoder.attention."),
    (r"^encoder\.lateral_convs\.", "encoder.laterals."),
    (r"^encoder\.downsample_convs\.(\d)\.conv1\.", r"encoder.downsamples.\1.0."),
    (r"^encoder\.downsample_convs\.(\d)\.conv2\.", r"encoder.downsamples.\1.1."),
    (r"^encoder\.fpn_blocks\.", "encoder.top_down."),
    (r"^encoder\.pan_blocks\.", "encoder.bottom_up."),
    (r"(top_down|bottom_up)\.(\d)\.conv1\.", r"\1.\2.enter."),
    (r"(top_down|bottom_up)\.(\d)\.csp_rep1\.", r"\1.\2.branches.0.0."),
    (r"(top_down|bottom_up)\.(\d)\.conv2\.", r"\1.\2.branches.0.1."),
    (r"(top_down|bottom_up)\.(\d)\.csp_rep2\.", r"\1.\2.branches.1.0."),
    (r"(top_down|bottom_up)\.(\d)\.conv3\.", r"\1.\2.branches.1.1."),
    (r"(top_down|bottom_up)\.(\d)\.conv4\.", r"\1.\2.leave."),
    (r"\.bottlenecks\.(\d)\.conv1\.", r".blocks.\1.wide."),
    (r"\.bottlenecks\.(\d)\.conv2\.", r".blocks.\1.pointwise."),
    (r"(branches\.\d\.0)\.conv1\.", r"\1.enter."),
    (r"(branches\.\d\.0)\.conv2\.", r"\1.bypass."),
    (r"\.conv\.", ".0."),
    (r"^(encoder\.(?!attention).*)\.norm\.", r"\1.1."),
    (r"^decoder_input_proj\.", "projections."),
    (r"^denoising_class_embed\.", "denoising.label_embedding."),
    (r"^enc_output\.0\.", "queries.project."),
    (r"^enc_output\.1\.", "queries.norm."),
    (r"^enc_score_head\.", "queries.label_head."),
    (r"^enc_bbox_head\.", "queries.box_head."),
    (r"^decoder\.query_pos_head\.", "decoder.positions."),
    (r"^decoder\.pre_bbox_head\.", "decoder.initial_box_head."),
    (r"^decoder\.class_embed\.", "decoder.label_heads."),
    (r"^decoder\.bbox_embed\.", "decoder.corner_heads."),
    (r"^decoder\.lqe_layers\.(\d)\.reg_conf\.", r"decoder.qualities.\1.mlp."),
    (r"self_attn\.q_proj\.", "self_attention.query."),
    (r"self_attn\.k_proj\.", "self_attention.key."),
    (r"self_attn\.v_proj\.", "self_attention.value."),
    (r"self_attn\.o_proj\.", "self_attention.output."),
    (r"self_attn_layer_norm\.", "self_attention_norm."),
    (r"final_layer_norm\.", "ffn_norm."),
    (r"encoder_attn\.sampling_offsets\.", "cross_attention.offsets."),
    (r"encoder_attn\.attention_weights\.", "cross_attention.weights."),
    (r"gateway\.", "gate."),
    (r"^(decoder\.layers\.\d\.)mlp\.layers\.0\.", r"\1ffn.expand."),
    (r"^(decoder\.layers\.\d\.)mlp\.layers\.1\.", r"\1ffn.contract."),
]
CONSTANTS = ("points_scale", "decoder.up", "decoder.reg_scale")


def our_name(name: str) -> str:
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    if name.startswith("decoder.layers."):
        return name
    return re.sub(r"\.layers\.(\d)\.", lambda match: f".{2 * int(match[1])}.", name)


@dataclass
class Pair:
    """transformers' model and ours with the same weights, and features."""

    theirs: Any
    ours: Dfine
    features: list[Tensor]


@torch.no_grad()
def randomise(theirs: nn.Module) -> None:
    """All parameters and batch statistics random, also those that start at 0; the scale of features is kept."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if name.endswith(CONSTANTS) or not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.ndim == 1:
            tensor.copy_((1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.3 * noise)
        else:
            tensor.copy_(noise * 1.5 / tensor[0].numel() ** 0.5)


def make_pair(width: int = 24, expansion: float = 0.5, blocks: int = 2, reg_scale: float = 4.0) -> Pair:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config
    from transformers.models.d_fine import modeling_d_fine

    config = DFineConfig(
        backbone_config=HGNetV2Config(),
        num_labels=len(CLASSES),
        num_queries=QUERIES,
        encoder_in_channels=list(CHANNELS[1:]),
        encoder_hidden_dim=24,
        encoder_ffn_dim=20,
        encoder_attention_heads=4,
        hidden_expansion=expansion,
        depth_mult=blocks / 3,
        decoder_in_channels=[24, 24, 24],
        d_model=width,
        decoder_ffn_dim=48,
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_n_points=[3, 6, 2],
        reg_scale=reg_scale,
        num_denoising=0,
        attn_implementation="eager",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_d_fine, "DFineConvEncoder", lambda _: GivenFeatures([]))
        theirs = DFineForObjectDetection(config).train()
    for name in ("class_embed", "bbox_embed"):  # transformers shares them among the layers unless a file differs
        layers = nn.ModuleList(copy.deepcopy(getattr(theirs.model.decoder, name)[0]) for _ in range(LAYERS))
        setattr(theirs.model.decoder, name, layers)
        delattr(theirs, name)
    ours = Dfine(
        CHANNELS,
        STRIDES,
        CLASSES,
        QUERIES,
        HybridEncoderOptions(24, 20, expansion),
        Transformer(width, 4, 1, LAYERS, 48, 0.0),
        fusion_blocks=blocks,
        num_points=(3, 6, 2),
        reg_scale=reg_scale,
        contrastive_denoising=0,
    )
    randomise(theirs)
    state = {our_name(key): x for key, x in theirs.state_dict().items() if not key.endswith(CONSTANTS)}
    ours.load_state_dict(state)
    for module in [*theirs.modules(), *ours.modules()]:  # running statistics, also in training
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(4, count, SIZE[0] // stride, SIZE[1] // stride, generator=generator)
        for count, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    return Pair(theirs, ours, features)


def their_layers(output: Any) -> dict[str, Tensor]:
    """By name as of `LayerOutputs`; their first boxes and logits are the initial ones."""
    logits, boxes = (x.transpose(0, 1) for x in (output.intermediate_logits, output.intermediate_reference_points))
    return {
        "logits": torch.cat([logits[1:], logits[:1], output.enc_topk_logits[None]]),
        "boxes": torch.cat([boxes[1:], boxes[:1], output.enc_topk_bboxes[None]]),
        "corners": output.intermediate_predicted_corners.transpose(0, 1),
    }


@pytest.mark.parametrize(
    "options", [{}, {"width": 32, "expansion": 1.0, "blocks": 1, "reg_scale": 8.0}], ids=["same width", "projected"]
)
def test_outputs_and_gradients_match_transformers(options: dict[str, Any]):
    pair = make_pair(**options)
    inputs = [[x.clone().requires_grad_() for x in pair.features] for _ in range(2)]
    pair.theirs.model.backbone = GivenFeatures(inputs[0])
    theirs = their_layers(pair.theirs(torch.zeros(4, 3, *SIZE)))
    outputs = pair.ours(inputs[1], torch.zeros(4, *SIZE, dtype=torch.bool))
    ours = outputs["layers"]._asdict()
    generator = torch.Generator().manual_seed(1)
    totals = [torch.zeros(()), torch.zeros(())]
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-4, rtol=1e-4)
        assert expected.std(-2).mean() > 0.01, name
        gradient = torch.randn(expected.shape, generator=generator)
        totals = [total + (x * gradient).mean() for total, x in zip(totals, (expected, ours[name]), strict=True)]
    torch.testing.assert_close(outputs["boxes"], theirs["boxes"][LAYERS - 1], atol=1e-4, rtol=1e-4)
    totals[0].backward(), totals[1].backward()
    own = {name: parameter.grad for name, parameter in pair.ours.named_parameters()}
    for name, parameter in pair.theirs.named_parameters():
        if name.endswith(CONSTANTS):
            continue
        gradient, found = parameter.grad, own.pop(our_name(name))
        assert gradient is not None, name
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found, gradient, atol=1e-4 * max(scale, 1e-3), rtol=1e-3, msg=lambda m, n=name: n + m
        )
    assert not own
    for x, y in zip(*inputs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
@torch.no_grad()
def test_predictions_match_transformers(size: tuple[int, int]):
    pair = make_pair()
    pair.theirs.eval(), pair.ours.eval()
    features = [
        x[:1, :, : size[0] // stride, : size[1] // stride] for x, stride in zip(pair.features, STRIDES, strict=True)
    ]
    pair.theirs.model.backbone = GivenFeatures(features)
    theirs = pair.theirs(torch.zeros(1, 3, *size))
    outputs = pair.ours(features, torch.zeros(1, *size, dtype=torch.bool))
    torch.testing.assert_close(outputs["logits"], theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["boxes"], theirs.pred_boxes, atol=1e-4, rtol=1e-4)
