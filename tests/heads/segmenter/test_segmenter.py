"""The Segmenter head beside a reference of torch's own layers, in a padded batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class
from densevit_heads.segmenter import Segmenter
from tests.heads.padded_batch import perturbed

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
WIDTH, K = 32, len(CLASSES)


def reference(head: Segmenter, feature: Tensor) -> Tensor:
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


def test_logits_match_the_reference_for_each_image_of_a_padded_batch() -> None:
    head = perturbed(Segmenter((12, 24), (8, 16), CLASSES, width=WIDTH, num_heads=4), 0.2).eval()
    sizes = [(64, 96), (48, 64)]
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    features = [torch.randn(2, 12, 8, 12), torch.randn(2, 24, 4, 6)]
    logits = head(features, mask)["logits"]
    for i, (h, w) in enumerate(sizes):
        rows, columns = h // 16, w // 16
        expected = reference(head, features[1][i : i + 1, :, :rows, :columns])
        torch.testing.assert_close(logits[i : i + 1, :, :rows, :columns], expected, rtol=1e-4, atol=1e-5)
