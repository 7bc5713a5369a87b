"""The D-FINE head beyond the contract of all heads: layers of the training, distributions and export."""

from typing import Any

import pytest
import torch

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dfine import Dfine
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions
from tests.heads.padded_batch import padded_batch, perturbed, step
from tests.heads.transformers_pairs import keep_statistics

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
SMALL = {
    "num_queries": 7,
    "encoder": HybridEncoderOptions(16, 24, 0.5),
    "transformer": Transformer(16, 2, 1, 3, 24, 0.0),
    "fusion_blocks": 1,
    "num_points": (2, 3, 1),
    "contrastive_denoising": 10,
}


def make_head(**options: Any) -> Any:
    return perturbed(Dfine((6, 10), (8, 16), CLASSES, **SMALL | options))


def make_batch(*counts: int) -> Any:
    return padded_batch(counts, ((6, 8), (10, 16)), num_classes=len(CLASSES))


def test_outputs_have_a_row_for_each_layer_the_initial_boxes_and_the_proposals():
    """With as many queries as cells; in full precision under autocast."""
    head = make_head(num_queries=90, num_bins=8, reg_scale=8.0).train()
    with torch.autocast("cpu", dtype=torch.float16):
        outputs, losses = step(head, *make_batch(3, 0, 5))
    Q = 6 * 8 + 3 * 4 + 2 * 2
    assert outputs["layers"].logits.shape == (5, 3, Q, 4) and outputs["layers"].boxes.shape == (5, 3, Q, 4)
    assert outputs["layers"].corners.shape == (3, 3, Q, 4 * 9)
    assert outputs["boxes"].dtype == outputs["layers"].corners.dtype == torch.float32
    assert all(losses[name] > 0 for name in ("l1", "giou", "proposals", "ddf", "fgl"))


@pytest.mark.parametrize("scale", [1, 2])
def test_layers_of_the_training_change_no_prediction(scale: int):
    """The authors' `eval_idx`: predictions are those of the layer before, in training as in evaluation."""
    head = make_head(training_layers=2, layer_scale=scale, contrastive_denoising=0)
    features, mask, _ = make_batch(1, 1)
    keep_statistics(head)
    trained, evaluated = head.train()(features, mask), head.eval()(features, mask)
    assert len(trained["layers"].corners) == 5 and len(evaluated["layers"].corners) == 3
    for name in ("logits", "boxes"):
        torch.testing.assert_close(trained[name], evaluated[name])
    perturbed(head.decoder.layers[3:], 1.0)  # type: ignore[arg-type]  # a list of layers
    torch.testing.assert_close(head(features, mask)["boxes"], evaluated["boxes"])


def test_the_box_loss_of_a_layer_reaches_the_distributions_of_all_layers_before():
    """Logits of distributions add up over the layers, with their gradient."""
    head = make_head(contrastive_denoising=0).train()
    features, mask, _ = make_batch(1)
    layers = head(features, mask)["layers"]
    parameters = [layer.last.weight for layer in head.decoder.corner_heads]
    gradients = torch.autograd.grad(layers.boxes[1].sum(), parameters, allow_unused=True)
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [True, True, False]
