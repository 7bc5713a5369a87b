"""The combinations of a ViT's options that published models have; others are refused."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

_PLAIN = {"layer_scale": (None,), "qk_norm": (False,), "swiglu": (False,), "key_bias": (True,), "registers": (0,)}
_ADDED = ("learned", "sine1d", "sine2d", "none")  # positions that are added to the tokens


class PublishedCombination(NamedTuple):
    """A value of an option, and the values of other options in all published models that have it.

    models: the models, for messages. options: options that are not named here are free.
    """

    option: str
    value: Any
    models: str
    options: Mapping[str, tuple[Any, ...]]


PARTS = (
    PublishedCombination("stem", "patch", "ViT, DeiT, DINOv2 and RF-DETR", {"patch_size": (8, 12, 14, 16, 32)}),
    PublishedCombination(
        "stem",
        "conv",
        "early convolutions, Xiao et al. 2021",
        {"patch_size": (8, 16, 32), "positions": _ADDED, "distillation_token": (False,), **_PLAIN},
    ),
    PublishedCombination(
        "stem",
        "resnet",
        "the hybrids of ViT, Dosovitskiy et al. 2021, and DPT, Ranftl et al. 2021",
        {
            **{"patch_size": (16,), "positions": ("learned",), "class_token": (True,), "distillation_token": (False,)},
            **{"windows": (None,), **_PLAIN},
        },
    ),
    PublishedCombination("weight_standardization", "std", "the hybrids of ViT and DPT", {"stem": ("resnet",)}),
    PublishedCombination(
        "distillation_token",
        True,
        "DeiT, Touvron et al. 2021",
        {"class_token": (True,), "registers": (0,), "positions": _ADDED, "key_bias": (True,)},
    ),
    PublishedCombination("readout", "add", "DPT, Ranftl et al. 2021", {"class_token": (True,)}),
    PublishedCombination("readout", "project", "DPT, Ranftl et al. 2021", {"class_token": (True,)}),
    PublishedCombination("qk_norm", True, "ViT-22B, Dehghani et al. 2023", {"positions": _ADDED, "key_bias": (True,)}),
    PublishedCombination(
        "positions", "relative", "BEiT, Bao et al. 2022; ViTDet, Li et al. 2022", {"swiglu": (False,)}
    ),
    PublishedCombination(
        "key_bias",
        False,
        "BEiT; DINOv3, Siméoni et al. 2025; LW-DETR, Chen et al. 2024",
        {"positions": ("learned", "relative", "rotary")},
    ),
    PublishedCombination(
        "gelu",
        "tanh",
        "Google's ViT, Dosovitskiy et al. 2021, and ViT-22B",
        {
            **{"swiglu": (False,), "layer_scale": (None,), "registers": (0,), "distillation_token": (False,)},
            **{"key_bias": (True,), "positions": ("learned", "sine2d", "none")},
        },
    ),
)


def check_combination(**options: Any) -> None:
    """Raises ValueError for a combination of options that no published model has."""
    for part in PARTS:
        for name, values in part.options.items():
            if options[part.option] == part.value and options[name] not in values:
                raise ValueError(
                    f"{name} is {_yaml(options[name])}; with {part.option} {_yaml(part.value)} ({part.models}) it must "
                    f"be {' or '.join(map(_yaml, values))}."
                )


def _yaml(value: Any) -> str:
    return json.dumps(value, default=str).replace('"', "'")
