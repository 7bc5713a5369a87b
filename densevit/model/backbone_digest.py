"""A hash that identifies the features of a backbone."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from densevit.constructor_call import signature
from densevit.model.dense import DenseModel


def backbone_settings(model: DenseModel) -> dict[str, Any]:
    """What determines a frozen backbone's features of an image, apart from its tensors: its class and options, with
    defaults, and the channels and normalisation of images."""
    backbone, channels = model.backbone, model.channels
    parameters = signature(type(backbone)).parameters.values()
    options = {p.name: p.default for p in parameters if p.default is not p.empty}
    options |= model.sections.backbone.options
    options.pop("pretrained", None)  # its weights are among the tensors
    return {
        "class": type(backbone).__qualname__,
        **{key: tuple(x) if isinstance(x, list) else x for key, x in sorted(options.items())},
        "channels": (channels.names, channels.dtype, channels.range, channels.nodata),
        "mean": tuple(backbone.mean),
        "std": tuple(backbone.std),
        **({"black_padding": True} if backbone.black_padding else {}),
    }


def backbone_digest(model: DenseModel) -> str:
    """32 hexadecimal digits of a backbone's settings, parameters and buffers. Backbones with the same digest compute
    the same features in evaluation mode."""
    digest = hashlib.blake2b(repr(backbone_settings(model)).encode(), digest_size=16)
    for name, value in model.backbone.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(as_bytes(value))
    return digest.hexdigest()


def as_bytes(value: Tensor) -> Any:
    """The bytes of a tensor, for hashes."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
