"""Convolutional stem, an alternative to patch embedding."""

from torch import nn


def conv_stem(width: int, stride: int, in_channels: int = 3) -> nn.Sequential:
    """Pairs of 3x3 convolutions with batch norm, the first of each pair with stride 2, then a 1x1 convolution.

    Transformers converge faster with it from random weights (Xiao et al. 2021, section 4). stride: a power of 2;
    channels double with each pair up to `width`. (B, in_channels, H, W) -> (B, width, h, w), rounded up.
    """
    layers: list[nn.Module] = []
    inputs, step = in_channels, 2
    while step <= stride:
        outputs = width * step // stride
        layers += _conv(inputs, outputs, 2) + _conv(outputs, outputs, 1)
        inputs, step = outputs, step * 2
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def _conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
