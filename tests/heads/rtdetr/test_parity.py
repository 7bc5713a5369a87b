"""The RT-DETR head against transformers' RTDetrForObjectDetection and RTDetrV2ForObjectDetection.

They have the same weights, features and targets.

transformers' decoder differs from the authors' in training: the box loss of a layer does not reach the offsets of the
layer before (`look_forward_twice`). Losses are equal; for gradients the comparison detaches ours likewise.
"""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.context import LossContext
from densevit.set_prediction.box_refinement import inverse_sigmoid, refine
from densevit.set_prediction.denoising import DenoisingQueries
from densevit.set_prediction.transformer import Transformer
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr import head as rtdetr_head
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions

CLASSES = [Class(f"class {i}", i + 1, (0, 0, 0)) for i in range(5)]
LAYERS, QUERIES = 3, 12
CHANNELS, STRIDES = (6, 8, 12, 16), (4, 8, 16, 32)
SIZE = (96, 160)  # transformers' top-down path needs multiples of 32
COUNTS = [3, 0, 6, 1]

# transformers' parameter name -> ours, as regular expressions; the first match is used
LAYER = [
    (r"(.*)self_attn\.q_proj\.(.*)", r"\1self_attention.query.\2"),
    (r"(.*)self_attn\.k_proj\.(.*)", r"\1self_attention.key.\2"),
    (r"(.*)self_attn\.v_proj\.(.*)", r"\1self_attention.value.\2"),
    (r"(.*)self_attn\.o_proj\.(.*)", r"\1self_attention.output.\2"),
    (r"(decoder.*)self_attn_layer_norm\.(.*)", r"\1self_attention_norm.\2"),
    (r"(decoder.*)final_layer_norm\.(.*)", r"\1ffn_norm.\2"),
    (r"(decoder.*)encoder_attn_layer_norm\.(.*)", r"\1cross_attention_norm.\2"),
    (r"(decoder.*)encoder_attn\.sampling_offsets\.(.*)", r"\1cross_attention.offsets.\2"),
    (r"(decoder.*)encoder_attn\.attention_weights\.(.*)", r"\1cross_attention.weights.\2"),
    (r"(decoder.*)encoder_attn\.value_proj\.(.*)", r"\1cross_attention.value.\2"),
    (r"(decoder.*)encoder_attn\.output_proj\.(.*)", r"\1cross_attention.output.\2"),
    (r"(decoder.*)mlp\.fc1\.(.*)", r"\1ffn.expand.\2"),
    (r"(decoder.*)mlp\.fc2\.(.*)", r"\1ffn.contract.\2"),
    (r"(encoder.*)self_attn_layer_norm\.(.*)", r"\1residuals.0.norm.\2"),
    (r"(encoder.*)final_layer_norm\.(.*)", r"\1residuals.1.norm.\2"),
    (r"(encoder.*)mlp\.fc1\.(.*)", r"\1feedforward.expand.\2"),
    (r"(encoder.*)mlp\.fc2\.(.*)", r"\1feedforward.contract.\2"),
]
NAMES = [
    (r"model\.encoder_input_proj\.(.*)", r"encoder.projections.\1"),
    (r"model\.encoder\.aifi\.0\.layers\.(.*)", r"encoder.attention.\1"),
    (r"model\.encoder\.lateral_convs\.(.*)", r"encoder.laterals.\1"),
    (r"model\.encoder\.fpn_blocks\.(.*)", r"encoder.top_down.\1"),
    (r"model\.encoder\.downsample_convs\.(.*)", r"encoder.downsamples.\1"),
    (r"model\.encoder\.pan_blocks\.(.*)", r"encoder.bottom_up.\1"),
    (r"model\.decoder_input_proj\.(.*)", r"projections.\1"),
    (r"model\.denoising_class_embed\.(.*)", r"denoising.label_embedding.\1"),
    (r"model\.enc_output\.0\.(.*)", r"queries.project.\1"),
    (r"model\.enc_output\.1\.(.*)", r"queries.norm.\1"),
    (r"model\.enc_score_head\.(.*)", r"queries.label_head.\1"),
    (r"model\.enc_bbox_head\.(.*)", r"queries.box_head.\1"),
    (r"model\.decoder\.query_pos_head\.(.*)", r"query_positions.\1"),
    (r"(?:model\.decoder\.)?class_embed\.(.*)", r"label_heads.\1"),
    (r"(?:model\.decoder\.)?bbox_embed\.(.*)", r"box_heads.\1"),
    (r"model\.decoder\.layers\.(.*)", r"decoder.\1"),
]


def our_name(name: str) -> str:
    name = next(re.sub(theirs, ours, name) for theirs, ours in NAMES if re.fullmatch(theirs, name))
    for theirs, ours in LAYER:
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    if re.match(r"encoder\.(top_down|bottom_up)", name):
        for theirs, ours in {"bottlenecks": "blocks", "conv3": "leave"}.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        first, second = ("wide", "pointwise") if ".blocks." in name else ("enter", "bypass")
        name = name.replace(".conv1.", f".{first}.").replace(".conv2.", f".{second}.")
    name = name.replace(".conv.", ".0.").replace(".norm.", ".1.") if name.startswith("encoder") else name
    return re.sub(r"\.layers\.(\d)\.", lambda match: f".{2 * int(match[1])}.", name)


class GivenFeatures(nn.Module):
    """A backbone of transformers that returns given features, and 0 at padding."""

    intermediate_channel_sizes = CHANNELS[1:]

    def __init__(self, features: list[Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, None]]:
        return [(x, None) for x in self.features[1:]]


@dataclass
class Pair:
    """transformers' model and ours with the same weights, and a batch."""

    theirs: Any
    ours: RtDetr
    features: list[Tensor]
    labels: list[dict[str, Tensor]]  # for transformers
    targets: list[Targets]  # for ours

    def run_theirs(self) -> tuple[Any, dict[str, Tensor], list[Tensor]]:
        features = [x.clone().requires_grad_() for x in self.features]
        self.theirs.model.backbone = GivenFeatures(features)
        output = self.theirs(torch.zeros(len(COUNTS), 3, *SIZE), labels=self.labels)
        return output, output.loss_dict, features

    def run_ours(self) -> tuple[Any, dict[str, Tensor], list[Tensor]]:
        features = [x.clone().requires_grad_() for x in self.features]
        padding_mask = torch.zeros(len(COUNTS), *SIZE, dtype=torch.bool)
        outputs = self.ours(features, padding_mask, self.targets)
        return outputs, self.ours.loss(outputs, self.targets, LossContext()), features


def randomise(theirs: nn.Module) -> None:
    """All parameters and batch statistics random; score biases low, so that classes are not equal to noise."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if "points_scale" in name or not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.2)
            elif "norm" in name and name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(noise / (tensor[0].numel() if tensor.ndim > 1 else 4) ** 0.5)


def make_pair(
    counts: list[int] = COUNTS,
    expansion: float = 0.5,
    denoising: int = 0,
    version: int = 1,
    sampling: str = "grid_sample",
) -> Pair:
    from transformers import (
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrResNetConfig,
        RTDetrV2Config,
        RTDetrV2ForObjectDetection,
    )
    from transformers.models.rt_detr import modeling_rt_detr
    from transformers.models.rt_detr_v2 import modeling_rt_detr_v2

    options: dict[str, Any] = {}
    if version == 2:
        options["decoder_method"] = "default" if sampling == "grid_sample" else sampling
    config = (RTDetrConfig if version == 1 else RTDetrV2Config)(
        backbone_config=RTDetrResNetConfig(
            embedding_size=4, hidden_sizes=list(CHANNELS), depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        ),
        num_labels=len(CLASSES),
        num_queries=QUERIES,
        encoder_in_channels=list(CHANNELS[1:]),
        encoder_hidden_dim=24,
        encoder_ffn_dim=20,
        encoder_attention_heads=4,
        hidden_expansion=expansion,
        decoder_in_channels=[24, 24, 24],
        d_model=32,
        decoder_ffn_dim=48,
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_n_points=3,
        num_denoising=denoising,
        attn_implementation="eager",
        **options,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_rt_detr, "RTDetrConvEncoder", lambda _: GivenFeatures([]))
        patch.setattr(modeling_rt_detr_v2, "RTDetrV2ConvEncoder", lambda _: GivenFeatures([]))
        theirs = (RTDetrForObjectDetection if version == 1 else RTDetrV2ForObjectDetection)(config).train()
    for module in theirs.modules():  # running statistics, also in training
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    ours = RtDetr(
        CHANNELS,
        STRIDES,
        CLASSES,
        QUERIES,
        HybridEncoderOptions(24, 20, expansion),
        Transformer(32, 4, 1, LAYERS, 48, 0.0),
        num_points=3,
        sampling=sampling,
        contrastive_denoising=denoising,
    )
    randomise(theirs)
    load(ours, theirs)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(len(counts), count, SIZE[0] // stride, SIZE[1] // stride, generator=generator)
        for count, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    labels, targets = [], []
    for image, count in enumerate(counts):
        boxes = torch.rand(count, 4, generator=generator) * 0.4 + 0.2
        if count == max(counts):
            boxes[0, 2] = 0.0  # a degenerate box
        classes = torch.randint(len(CLASSES), (count,), generator=generator)
        labels.append({"class_labels": classes, "boxes": boxes})
        height, width = SIZE
        xyxy = to_corners(boxes) * torch.tensor([width, height, width, height])
        targets.append({"boxes": xyxy, "labels": classes, "size": SIZE, "original_size": SIZE, "image_id": image})
    return Pair(theirs, ours, features, labels, targets)


def load(ours: nn.Module, theirs: nn.Module) -> None:
    own = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        if "points_scale" in name:
            continue
        target = our_name(name)
        own[target] = tensor[:-1] if target == "denoising.label_embedding.weight" else tensor
    ours.load_state_dict(own)
    mapped = {our_name(name) for name in theirs.state_dict() if "points_scale" not in name}
    assert mapped == set(own), mapped ^ set(own)


def detached_refinement(head: nn.Module, x: Tensor, reference: Tensor, undetached: Tensor, eps: float):
    boxes = refine(head, x, reference, eps)
    return boxes, boxes


@pytest.fixture
def as_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients as in transformers: boxes are refined from detached ones."""
    monkeypatch.setattr(rtdetr_head, "look_forward_twice", detached_refinement)


def assert_losses_match(losses: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """theirs: `_aux_i` of the layers before the last and, at the end, the selected cells; `_dn_i` by layer."""
    terms = ("loss_vfl", "loss_bbox", "loss_giou")

    def total(*suffixes: str) -> Tensor:
        return torch.stack([theirs[f"{term}{suffix}"] for term in terms for suffix in suffixes]).sum()

    for name, term in zip(("label", "l1", "giou"), terms, strict=True):
        torch.testing.assert_close(losses[name], theirs[term], atol=1e-4, rtol=1e-4)
    expected = {
        "auxiliary": total(*(f"_aux_{i}" for i in range(LAYERS - 1))),
        "proposals": total(f"_aux_{LAYERS - 1}"),
    }
    if "loss_vfl_dn_0" in theirs:
        expected["denoising"] = total(*(f"_dn_{i}" for i in range(LAYERS)))
    for name, term in expected.items():
        torch.testing.assert_close(losses[name], term, atol=1e-4, rtol=1e-4)


def assert_gradients_match(pair: Pair, ours: Tensor, theirs: Tensor, features: tuple[list[Tensor], list[Tensor]]):
    pair.ours.zero_grad(), pair.theirs.zero_grad()
    ours.backward(), theirs.backward()
    own = {name: p.grad for name, p in pair.ours.named_parameters()}
    compared = 0
    for name, parameter in pair.theirs.named_parameters():
        gradient = parameter.grad
        target = our_name(name)
        if target == "denoising.label_embedding.weight":
            gradient = gradient if gradient is None else gradient[:-1]
        if gradient is None:
            assert own[target] is None or not own[target].any(), name
            continue
        if own[target] is None:
            assert "sampling_offsets" in name and not gradient.any()  # frozen with discrete sampling
            continue
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(
            own[target], gradient, atol=1e-4 * scale, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
        compared += 1
    assert compared > 100
    for a, b in zip(features[0][1:], features[1][1:], strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"expansion": 1.0}, {"version": 2}, {"version": 2, "sampling": "discrete"}],
    ids=["v1", "v1 wide", "v2", "v2 discrete"],
)
@pytest.mark.usefixtures("as_transformers")
def test_outputs_losses_and_gradients(options: dict[str, Any]):
    pair = make_pair(**options)
    theirs, their_losses, their_features = pair.run_theirs()
    outputs, losses, features = pair.run_ours()
    torch.testing.assert_close(outputs["logits"], theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["boxes"], theirs.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["proposals"][0], theirs.enc_topk_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs["proposals"][1], theirs.enc_topk_bboxes, atol=1e-4, rtol=1e-4)
    assert_losses_match(losses, their_losses)
    assert_gradients_match(pair, sum(losses.values()), theirs.loss, (features, their_features))


@pytest.mark.usefixtures("as_transformers")
def test_denoising_with_the_same_noise(monkeypatch: pytest.MonkeyPatch):
    """With as many objects in each image: transformers also has a loss on denoising queries that pad a batch."""
    from transformers.models.rt_detr import modeling_rt_detr

    pair = make_pair([3, 3, 3, 3], denoising=7)
    noised: list[DenoisingQueries] = []

    def keep(module: nn.Module, inputs: Any, queries: DenoisingQueries) -> None:
        noised.append(queries)

    pair.ours.denoising.register_forward_hook(keep)
    outputs, losses, features = pair.run_ours()
    [queries] = noised
    groups, count = 2, 3
    contents_at = queries.contents.detach()

    def given(targets: Any, num_classes: int, num_queries: int, class_embed: nn.Embedding, **_: Any):
        labels = (contents_at[:, :, None] - class_embed.weight[:-1]).abs().sum(-1).argmin(-1)  # (B, D)
        positive = torch.cat([torch.arange(count) + 2 * count * group for group in range(groups)])
        meta = {
            "dn_positive_idx": [positive] * len(targets),
            "dn_num_group": groups,
            "dn_num_split": [contents_at.shape[1], num_queries],
        }
        return class_embed(labels), inverse_sigmoid(queries.boxes, 1e-5), queries.attention_bias, meta

    monkeypatch.setattr(modeling_rt_detr, "get_contrastive_denoising_training_group", given)
    theirs, their_losses, their_features = pair.run_theirs()
    torch.testing.assert_close(outputs["logits"], theirs.logits[:, -QUERIES:], atol=1e-4, rtol=1e-4)
    assert_losses_match(losses, their_losses)
    assert_gradients_match(pair, sum(losses.values()), theirs.loss, (features, their_features))
