"""The D-FINE head against transformers' DFineForObjectDetection: same weights and features.

transformers' loss is not the authors': it has no union of matchings, pairs the distributions of a layer with the boxes
of the layer before, and leaves out those of the last layer. `test_criterion.py` compares losses by term.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.set_prediction.transformer import Transformer
from densevit_heads.dfine import Dfine
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions
from tests.heads.padded_batch import make_features
from tests.heads.rtdetr.test_parity import CHANNELS, CLASSES, LAYERS, QUERIES, SIZE, STRIDES, GivenFeatures
from tests.heads.transformers_pairs import gradients, keep_statistics, renamed, same_gradients

CONSTANTS = ("points_scale", "decoder.up", "decoder.reg_scale")
LAYOUT = "transformers-dfine", "detection"


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


def make_pair(width: int = 24, expansion: float = 0.5, blocks: int = 2, reg_scale: float = 4.0) -> tuple[Any, Dfine]:
    """transformers' model and ours with the same weights."""
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config
    from transformers.models.d_fine import modeling_d_fine

    config = DFineConfig(
        backbone_config=HGNetV2Config(), num_labels=len(CLASSES), num_queries=QUERIES, num_denoising=0,
        encoder_in_channels=list(CHANNELS[1:]), encoder_hidden_dim=24, encoder_ffn_dim=20, encoder_attention_heads=4,
        hidden_expansion=expansion, depth_mult=blocks / 3, decoder_in_channels=[24] * 3, d_model=width,
        decoder_layers=LAYERS, decoder_ffn_dim=48, decoder_attention_heads=4, decoder_n_points=[3, 6, 2],
        reg_scale=reg_scale, attn_implementation="eager",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_d_fine, "DFineConvEncoder", lambda _: GivenFeatures([]))
        theirs = DFineForObjectDetection(config).train()
    for name in ("class_embed", "bbox_embed"):  # transformers shares them among the layers unless a file differs
        layers = nn.ModuleList(copy.deepcopy(getattr(theirs.model.decoder, name)[0]) for _ in range(LAYERS))
        setattr(theirs.model.decoder, name, layers)
        delattr(theirs, name)
    transformer = Transformer(width, 4, 1, LAYERS, 48, 0.0)
    ours = Dfine(
        CHANNELS, STRIDES, CLASSES, QUERIES, HybridEncoderOptions(24, 20, expansion), transformer,
        fusion_blocks=blocks, num_points=(3, 6, 2), reg_scale=reg_scale, contrastive_denoising=0,
    )  # fmt: skip
    randomise(theirs)
    ours.load_state_dict(renamed(theirs.state_dict(), *LAYOUT))
    keep_statistics(theirs, ours)
    return theirs, ours


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
    other, own = make_pair(**options)
    features = make_features((CHANNELS, STRIDES), SIZE, B=4)
    inputs = [[x.clone().requires_grad_() for x in features] for _ in range(2)]
    other.model.backbone = GivenFeatures(inputs[0])
    theirs = their_layers(other(torch.zeros(4, 3, *SIZE)))
    outputs = own(inputs[1], torch.zeros(4, *SIZE, dtype=torch.bool))
    ours = outputs["layers"]._asdict()
    generator = torch.Generator().manual_seed(1)
    totals = [torch.zeros(()), torch.zeros(())]
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-4, rtol=1e-4)
        assert expected.std(-2).mean() > 0.01, name
        gradient = torch.randn(expected.shape, generator=generator)
        totals = [total + (x * gradient).mean() for total, x in zip(totals, (expected, ours[name]), strict=True)]
    torch.testing.assert_close(outputs["boxes"], theirs["boxes"][LAYERS - 1], atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # in evaluation, which has the last layer's predictions only
        predicted = other.eval()(torch.zeros(4, 3, *SIZE))
        found_in_evaluation = own.eval()(inputs[1], torch.zeros(4, *SIZE, dtype=torch.bool))
    torch.testing.assert_close(found_in_evaluation["logits"], predicted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_in_evaluation["boxes"], predicted.pred_boxes, atol=1e-4, rtol=1e-4)
    totals[0].backward(), totals[1].backward()
    wanted, found = renamed(gradients(other), *LAYOUT), gradients(own)
    for i, (x, y) in enumerate(zip(inputs[1][1:], inputs[0][1:], strict=True)):
        found[f"features {i}"], wanted[f"features {i}"] = x.grad, y.grad
    same_gradients(wanted, found, rounding="(?!)", least=1e-3, tolerance=1e-3)
