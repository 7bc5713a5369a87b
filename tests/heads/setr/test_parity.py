"""SETR's decoders match mmsegmentation's with the same weights, in evaluation and training.

The references follow its `setr_up_head`, `mla_neck`, `setr_mla_head` and `fcn_head` in operations and names, which the
layout of its checkpoints translates.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit_heads.setr import Setr
from tests.heads.transformers_pairs import gradients, renamed, same_gradients

WIDTH, BRANCH, CHANNELS, K = 8, 6, 12, 5
CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(K)]
FEATURES = 4


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def upsampled(x: Tensor, scale: int) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def tokens_normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return norm(x.reshape(n, c, h * w).transpose(2, 1)).transpose(1, 2).reshape(n, c, h, w)


class SETRUPHead(nn.Module):
    """Naive and progressive head."""

    def __init__(self, num_convs, up_scale, kernel):
        super().__init__()
        self.up_scale = up_scale
        self.norm = nn.LayerNorm(CHANNELS, eps=1e-6)
        self.up_convs = nn.ModuleList(
            nn.ModuleList([ConvModule(WIDTH if i else CHANNELS, WIDTH, kernel)]) for i in range(num_convs)
        )
        self.conv_seg = nn.Conv2d(WIDTH, K, 1)

    def forward(self, x):
        x = tokens_normalised(self.norm, x)
        for stage in self.up_convs:
            x = upsampled(stage[0](x), self.up_scale)
        return self.conv_seg(x)


class MLAModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.channel_proj = nn.ModuleList(ConvModule(CHANNELS, WIDTH, 1) for _ in range(FEATURES))
        self.feat_extract = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3) for _ in range(FEATURES))


class MLANeck(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(CHANNELS, eps=1e-6) for _ in range(FEATURES))
        self.mla = MLAModule()

    def forward(self, inputs):
        """From the deepest map to the first."""
        projected = [
            conv(tokens_normalised(norm, x))
            for x, norm, conv in zip(inputs, self.norm, self.mla.channel_proj, strict=True)
        ]
        middle: list[Tensor] = []
        for x in projected[::-1]:
            middle.append(middle[-1] + x if middle else x)
        return [conv(x) for x, conv in zip(middle, self.mla.feat_extract, strict=True)]


class SETRMLAHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_convs = nn.ModuleList(
            nn.Sequential(ConvModule(WIDTH, BRANCH, 3), ConvModule(BRANCH, BRANCH, 3)) for _ in range(FEATURES)
        )
        self.conv_seg = nn.Conv2d(FEATURES * BRANCH, K, 1)

    def forward(self, inputs):
        return self.conv_seg(
            torch.cat([upsampled(conv(x), 4) for x, conv in zip(inputs, self.up_convs, strict=True)], dim=1)
        )


class Fcn(nn.Module):
    """An FCN head without convolutions."""

    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(WIDTH, K, 1)

    def forward(self, x):
        return self.conv_seg(x)


class Reference(nn.Module):
    """A published model without its backbone: logits, and those of the auxiliary heads by feature."""

    def __init__(self, decoder):
        super().__init__()
        self.neck = MLANeck() if decoder == "mla" else None
        if decoder == "mla":
            self.decode_head, count = SETRMLAHead(), FEATURES
        else:
            self.decode_head, count = SETRUPHead(*((1, 4, 1) if decoder == "naive" else (4, 2, 3))), FEATURES - 1
        auxiliary_kind = {"naive": lambda: SETRUPHead(1, 4, 1), "pup": lambda: SETRUPHead(2, 4, 3), "mla": Fcn}[decoder]
        self.auxiliary_head = nn.ModuleList(auxiliary_kind() for _ in range(count))

    def forward(self, features):
        if self.neck is None:
            main = self.decode_head(features[-1])
        else:
            features = self.neck(features)
            main = self.decode_head(features)
        auxiliary = [head(x) for head, x in zip(self.auxiliary_head, features, strict=False)]
        return main, auxiliary[::-1] if self.neck is not None else auxiliary


LAYOUTS = {"naive": "mmseg-setr-naive", "pup": "mmseg-setr", "mla": "mmseg-setr-mla"}


def our_weights(weights: dict[str, Tensor], decoder: str) -> dict[str, Tensor]:
    return renamed(weights, LAYOUTS[decoder], "segmentation")


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_logits_losses_and_gradients_match_mmsegmentation(decoder):
    """Logits are resized to the labels, and auxiliary losses weighted by 0.4, as in its configs."""
    theirs = Reference(decoder)
    with torch.no_grad():
        for name, x in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if x.is_floating_point():
                x.copy_(0.5 + torch.rand_like(x) if x.ndim == 1 and "bias" not in name else 0.3 * torch.randn_like(x))
    ours = Setr((CHANNELS,) * FEATURES, (16,) * FEATURES, CLASSES, decoder, width=WIDTH, branch_width=BRANCH)
    ours.load_state_dict(our_weights(theirs.state_dict(), decoder), strict=True)
    features = [torch.randn(3, CHANNELS, 3, 5).requires_grad_() for _ in range(FEATURES)]
    own = [x.detach().clone().requires_grad_() for x in features]
    padding = torch.zeros(3, 48, 80, dtype=torch.bool)

    with torch.no_grad():
        expected, found = theirs.eval()(features)[0], ours.eval()(own, padding)
    assert found.keys() == {"logits"}
    scale = 16 if decoder == "pup" else 4
    assert expected.shape[-2:] == (3 * scale, 5 * scale)
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-5)

    theirs.train(), ours.train()
    labels = torch.randint(K, (3, 48, 80), dtype=torch.uint8)
    labels[:, 20:30] = 255
    main, auxiliary = theirs(features)
    terms = []
    for logits in (main, *auxiliary):
        resized = F.interpolate(logits, size=(48, 80), mode="bilinear", align_corners=False)
        terms.append(F.cross_entropy(resized, labels.long(), ignore_index=255))
    (terms[0] + 0.4 * sum(terms[1:])).backward()
    outputs = ours(own, padding, [])
    assert len(outputs["auxiliary"]) == len(auxiliary) == (4 if decoder == "mla" else 3)
    losses = ours.loss(outputs, [{"semantic": x, "size": (48, 80)} for x in labels], LossContext())
    torch.testing.assert_close(losses["cross_entropy"], terms[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["auxiliary"], 0.4 * sum(terms[1:]), rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    wanted, found = our_weights(gradients(theirs), decoder), gradients(ours)
    for i, (x, y) in enumerate(zip(features, own, strict=True)):
        wanted[f"features {i}"], found[f"features {i}"] = x.grad, y.grad
    same_gradients(wanted, found, rounding="(?!)", least=1e-3, tolerance=1e-3)
    statistics = our_weights(dict(theirs.named_buffers()), decoder)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, statistics[name], rtol=1e-5, atol=1e-6, msg=name)
