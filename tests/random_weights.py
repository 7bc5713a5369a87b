"""Random weights that reveal mistakes."""

from typing import Any

from torch import nn

UNIT = ("pos_embed", "position_embeddings", "position_table", "rel_pos", "bias_table", "_token", "logit_scale")


def randomise(module: nn.Module) -> Any:
    """The module with random parameters and batch statistics, of which none is 0 or a default.

    Matrices keep the scale of their input; tokens and tables of positions have a deviation of 1.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith("running_mean"):
            nn.init.normal_(tensor, 0.0, 0.3)
        elif not isinstance(tensor, nn.Parameter):
            continue
        elif tensor.ndim < 2:
            nn.init.normal_(tensor, 0.0 if name.endswith("bias") else 1.0, 0.3)
        elif any(word in name for word in UNIT):
            nn.init.normal_(tensor, 0.0, 1.0)
        else:
            nn.init.normal_(tensor, 0.0, tensor[0].numel() ** -0.5)
    return module
