"""DPT backbone and head against transformers with shared random weights: maps, and gradients of the images.

tests/weights/layouts/test_transformers_dpt.py has the hybrids and padded batches.
"""

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Class
from densevit.weights.key_mapping import translate
from densevit.weights.layouts import find
from densevit_backbones.vit import ViT
from densevit_heads.dpt import DptDepth, DptSegmentation

K, SIDE = 7, 64
CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(K)]


def randomise(module: nn.Module) -> None:
    """Randomises parameters and statistics so that errors become visible."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
        elif any(word in name for word in ("cls_token", "position_embeddings")):
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)


def pair(task: str) -> tuple[ViT, DptDepth | DptSegmentation, nn.Module]:
    """Our backbone and head, and transformers' DPT with the width of our nano, whose weights they have."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation

    config = DPTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        layer_norm_eps=1e-6,
        image_size=SIDE,
        backbone_out_indices=[1, 2, 4, 5],
        neck_hidden_sizes=[32, 64, 128, 128],
        fusion_hidden_size=64,
        num_labels=K,
        use_batch_norm_in_fusion_residual=task == "segmentation",
    )
    reference = (DPTForDepthEstimation if task == "depth" else DPTForSemanticSegmentation)(config).eval()
    randomise(reference)
    vit = ViT("nano", image_size=SIDE, readout="project", feature_norm=False, position_resizing="bilinear").eval()
    head: DptDepth | DptSegmentation = (
        DptDepth(vit.channels, vit.strides, width=64)
        if task == "depth"
        else DptSegmentation(vit.channels, vit.strides, CLASSES, width=64)
    )
    layout = "transformers-dpt" if task == "depth" else "transformers-dpt-segmentation"
    tensors = translate(reference.state_dict(), find(layout)).tensors
    for prefix, own in (("backbone.", vit), (f"heads.{task}.", head)):
        own.load_state_dict({key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)})
    return vit, head.eval(), reference


def of_any_size(reference: nn.Module, size: tuple[int, int]) -> None:
    """Allows images that are not square, by passing the token grid."""
    reference.dpt.embeddings.image_size = size
    stage = reference.neck.reassemble_stage
    stage.register_forward_pre_hook(lambda module, inputs: (inputs[0], size[0] // 16, size[1] // 16))


@pytest.mark.parametrize(("task", "size"), [("depth", (SIDE, SIDE)), ("segmentation", (64, 96))])
def test_maps_and_gradients_match_transformers(task: str, size: tuple[int, int]) -> None:
    """Maps in fp32; gradients of a random sum in fp64, where no rounding flips a ReLU."""
    vit, head, reference = pair(task)
    if size[0] != size[1]:
        of_any_size(reference, size)
    mask, images = torch.zeros(1, *size, dtype=torch.bool), torch.randn(1, 3, *size)

    def ours(images: Tensor) -> Tensor:
        maps = head.maps(head(vit(images), mask), size)
        return maps[:, 0] if task == "depth" else maps

    def theirs(images: Tensor) -> Tensor:
        found = reference(images)
        return found.predicted_depth if task == "depth" else found.logits

    with torch.no_grad():
        found, expected = ours(images), theirs(images)
        assert expected.std() > 0.1 and (expected != 0).float().mean() > 0.2
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        if task == "segmentation":  # the second classifier is transformers', on the map that the paper says
            fused = head.decode(vit(images), size)[2]
            assert fused.shape == (1, 64, size[0] // 4, size[1] // 4)
            torch.testing.assert_close(head.auxiliary(fused), reference.auxiliary_head(fused), atol=1e-4, rtol=1e-4)
    for module in (vit, head, reference):
        module.double()
    weight, gradients = torch.randn_like(found.double()), []
    for function in (ours, theirs):
        own = images.double().requires_grad_()
        (function(own) * weight).mean().backward()
        gradients.append(own.grad)
    scale = 1 / gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] * scale, gradients[1] * scale, atol=1e-4, rtol=1e-3)
