"""Feed-forward layers and MLPs beside their products written out."""

import torch
from torch.nn import functional as F

from densevit.layers.mlp import FeedForward, Mlp


def test_feed_forward_s_dropout_is_off_in_evaluation():
    layer = FeedForward(4, 64, dropout=0.5)
    x = torch.randn(2, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_mlp_has_relu_between_layers_and_none_at_the_end():
    mlp = Mlp(2, 3, 1, 2)
    x = torch.randn(5, 2)
    expected = F.relu(x @ mlp[0].weight.T + mlp[0].bias) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(mlp(x), expected)
    assert len(Mlp(2, 3, 1, 1)) == 1 and Mlp(8, 16, 4, 3)[2].in_features == 16
