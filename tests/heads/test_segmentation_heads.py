"""UPerNet beside transformers' heads, and Segmenter beside torch's layers; tests/checkpoints/layouts has SegFormer."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset
from densevit.losses.context import LossContext
from densevit_heads.segmenter import Segmenter
from densevit_heads.upernet import UPerNet
from densevit_heads.upernet.transformers_checkpoints import SWIN
from tests.gradient_comparison import assert_same_with_gradients
from tests.heads.padded_batch import CLASSES, make_features, no_padding, perturbed
from tests.random_weights import randomise

FIVE = [Class(f"class {i}", i, (0, 0, 0)) for i in range(5)]
CHANNELS, STRIDES = (8, 12, 20, 28), (4, 8, 16, 32)


def upernet_pair() -> tuple[nn.Module, nn.Module, UPerNet]:
    """Both heads of transformers and ours, with equal random weights."""
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    from densevit_checkpoints.key_mapping import translate

    config = UperNetConfig(hidden_size=24, auxiliary_channels=16, num_labels=5)
    theirs, auxiliary = (randomise(kind(config, CHANNELS)) for kind in (UperNetHead, UperNetFCNHead))
    state = {f"decode_head.{key}": x for key, x in theirs.state_dict().items()}
    state |= {f"auxiliary_head.{key}": x for key, x in auxiliary.state_dict().items()}
    ours = UPerNet(CHANNELS, STRIDES, FIVE, width=24, auxiliary_width=16, dropout=0.0)
    renamed = translate(state, SWIN).tensors
    ours.load_state_dict({key.removeprefix("heads.segmentation."): x for key, x in renamed.items()})
    return theirs, auxiliary, ours


@pytest.mark.parametrize(("training", "size"), [(False, (224, 160)), (True, (64, 96))], ids=str)
def test_upernet_s_logits_losses_and_gradients_match_transformers(training, size):
    theirs, auxiliary, ours = upernet_pair()
    for module in (theirs, auxiliary, ours):
        module.train(training)
    features = [x.requires_grad_() for x in make_features((CHANNELS, STRIDES), size)]
    copies = [x.detach().clone().requires_grad_() for x in features]
    outputs, expected = ours(features, no_padding(size)), {"logits": theirs(copies)}
    if training:
        expected["auxiliary"] = auxiliary(copies)
    assert outputs.keys() == expected.keys()
    found = [outputs[key] for key in expected]
    if training:  # the losses of UperNetForSemanticSegmentation
        labels = torch.randint(6, (2, *size))
        labels[labels == 5] = 255
        losses = ours.loss(outputs, [{"semantic": x.to(torch.uint8), "size": size} for x in labels], LossContext())
        found.append(torch.stack([losses["cross_entropy"], losses["auxiliary"]]))
        maps = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in expected.values()]
        each = [F.cross_entropy(x, labels, ignore_index=255) for x in maps]
        expected["losses"] = torch.stack([each[0], 0.4 * each[1]])
    assert_same_with_gradients(found, [*expected.values()], features, copies, 1e-4, of_gradients=1e-3)


def test_features_of_one_stride_are_an_error_at_the_start_of_training():
    head = UPerNet((8, 8), (16, 16), FIVE)
    with pytest.raises(ConfigError, match=r"all have stride 16\. Fix: add neck: \{name: simple_pyramid\}"):
        head.check(Dataset())


def test_a_batch_of_one_image_needs_a_group_norm():
    features, mask = make_features((CHANNELS, STRIDES), (64, 64), 1), no_padding((64, 64), 1)
    with pytest.raises(ValueError, match="Fix: set data.batch_size to 2 or more, or norm: group"):
        UPerNet(CHANNELS, STRIDES, FIVE, width=16).train()(features, mask)
    outputs = UPerNet(CHANNELS, STRIDES, FIVE, width=16, norm="group").train()(features, mask)
    assert outputs["logits"].isfinite().all()


WIDTH, K = 32, len(CLASSES)


def segmenter(head: Segmenter, feature: Tensor) -> Tensor:
    """Section 3.2 with torch's pre-norm encoder layers, for one image without padding: logits (1, K, H, W)."""
    x = F.linear(feature.flatten(2).mT, head.project.weight, head.project.bias)
    x = torch.cat([x, head.class_tokens[None]], dim=1)
    for block in head.layers:
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, F.gelu, 1e-5, batch_first=True, norm_first=True)
        own, attention = dict(block.named_parameters()), layer.self_attn
        with torch.no_grad():
            for kind, target in (("weight", attention.in_proj_weight), ("bias", attention.in_proj_bias)):
                target.copy_(torch.cat([own[f"attention.{name}.{kind}"] for name in ("query", "key", "value")]))
        pairs = (("attention.output", attention.out_proj), ("attention_norm", layer.norm1), ("ffn_norm", layer.norm2))
        for name, module in (*pairs, ("ffn.expand", layer.linear1), ("ffn.contract", layer.linear2)):
            module.load_state_dict({kind: own[f"{name}.{kind}"] for kind in ("weight", "bias")})
        x = layer.train()(x)
    x = F.layer_norm(x, (WIDTH,), head.norm.weight, head.norm.bias)
    patches, classes = x[:, :-K] @ head.patch_projection, x[:, -K:] @ head.class_projection
    cosine = F.cosine_similarity(patches[:, :, None], classes[:, None], dim=-1)
    logits = F.layer_norm(cosine, (K,), head.mask_norm.weight, head.mask_norm.bias)
    return logits.mT.unflatten(2, feature.shape[-2:])


def test_segmenter_s_logits_match_the_reference_for_each_image_of_a_padded_batch() -> None:
    head = perturbed(Segmenter((12, 24), (8, 16), CLASSES, width=WIDTH, num_heads=4), 0.2).eval()
    sizes = [(64, 96), (48, 64)]
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    features = [torch.randn(2, 12, 8, 12), torch.randn(2, 24, 4, 6)]
    logits = head(features, mask)["logits"]
    for i, (h, w) in enumerate(sizes):
        rows, columns = h // 16, w // 16
        expected = segmenter(head, features[1][i : i + 1, :, :rows, :columns])
        torch.testing.assert_close(logits[i : i + 1, :, :rows, :columns], expected, rtol=1e-4, atol=1e-5)
