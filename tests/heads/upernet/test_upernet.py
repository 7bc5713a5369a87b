"""UPerNet beside transformers' heads; pooling in padded batches, and options."""

import pytest
import torch

from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset
from densevit_heads.upernet import UPerNet
from densevit_heads.upernet.transformers_checkpoints import SWIN
from tests.heads.padded_batch import make_features, no_padding

CLASSES = [Class(f"class {i}", i, (0, 0, 0)) for i in range(150)]
CHANNELS, STRIDES = (8, 12, 20, 28), (4, 8, 16, 32)


def pair():
    """Both heads of transformers and ours, with equal random weights."""
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    from densevit.weights.key_mapping import translate

    config = UperNetConfig(hidden_size=24, auxiliary_channels=16, num_labels=5)
    theirs, auxiliary = UperNetHead(config, CHANNELS), UperNetFCNHead(config, CHANNELS)
    state = {f"decode_head.{key}": x for key, x in theirs.state_dict().items()}
    state |= {f"auxiliary_head.{key}": x for key, x in auxiliary.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        elif tensor.is_floating_point():
            tensor.normal_(0, tensor[0].numel() ** -0.5)
    ours = UPerNet(CHANNELS, STRIDES, CLASSES[:5], width=24, auxiliary_width=16, dropout=0.0)
    renamed = translate(state, SWIN).tensors
    ours.load_state_dict({key.removeprefix("heads.segmentation."): x for key, x in renamed.items()})
    return theirs, auxiliary, ours


@pytest.mark.parametrize(("training", "size"), [(False, (224, 160)), (True, (64, 96))], ids=str)
def test_logits_and_gradients_match_transformers(training, size):
    torch.manual_seed(0)
    theirs, auxiliary, ours = pair()
    for module in (theirs, auxiliary, ours):
        module.train(training)
    features = [x.requires_grad_() for x in make_features((CHANNELS, STRIDES), size)]
    copies = [x.detach().clone().requires_grad_() for x in features]
    outputs = ours(features, no_padding(size))
    expected = {"logits": theirs(copies)} | ({"auxiliary": auxiliary(copies)} if training else {})
    assert outputs.keys() == expected.keys()
    weights = {key: torch.randn_like(x) for key, x in expected.items()}
    for key, x in expected.items():
        assert x.std() > 0.1
        torch.testing.assert_close(outputs[key], x, rtol=1e-4, atol=1e-4)
    for result in (outputs, expected):
        torch.stack([(result[key] * weights[key]).mean() for key in weights]).sum().backward()
    for x, y in zip(features, copies, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_each_image_of_a_padded_batch_is_pooled_over_its_own_cells():
    torch.manual_seed(0)
    theirs, _, ours = pair()
    theirs.eval(), ours.eval()
    x = torch.randn(2, 28, 7, 9)
    maps = ours.pooling(x, torch.tensor([7, 4]), torch.tensor([9, 5]))
    for image, (h, w) in enumerate([(7, 9), (4, 5)]):
        expected = theirs.psp_modules(x[image : image + 1, :, :h, :w])
        for found, reference in zip(maps, expected, strict=True):
            torch.testing.assert_close(found[image : image + 1, :, :h, :w], reference, rtol=1e-4, atol=1e-5)


def test_features_of_one_stride_are_an_error_at_the_start_of_training():
    head = UPerNet((8, 8), (16, 16), CLASSES)
    with pytest.raises(ConfigError, match=r"all have stride 16\. Fix: add neck: \{name: simple_pyramid\}"):
        head.check(Dataset())


def test_a_batch_of_one_image_needs_a_group_norm():
    features, mask = make_features((CHANNELS, STRIDES), (64, 64), 1), no_padding((64, 64), 1)
    with pytest.raises(ValueError, match="Fix: set data.batch_size to 2 or more, or norm: group"):
        UPerNet(CHANNELS, STRIDES, CLASSES, width=16).train()(features, mask)
    outputs = UPerNet(CHANNELS, STRIDES, CLASSES, width=16, norm="group").train()(features, mask)
    assert outputs["logits"].isfinite().all()
