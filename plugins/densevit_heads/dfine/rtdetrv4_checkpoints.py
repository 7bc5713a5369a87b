"""RT-DETRs/RT-DETRv4 (Liao et al. 2025): complete models on an HGNetv2, as trained on COCO.

D-FINE with SiLU in the decoder, trained with DEIM's losses and the features of a foundation model (the method
`semantic_injection`); their projection is not part of the model. AIFI's positions differ from the authors' on
rectangles, as D-FINE's.

The weights are on a file-sharing page only: the table of github.com/RT-DETRs/RT-DETRv4 links to it, and a person
downloads RTv4-S-hgnet.pth there, with the states of the optimiser 162 MB, and 304, 482 and 964 MB of M, L and X. The
authors state no digest. A file without the projection, as after an export of the weights alone, and a DEIM have
D-FINE's keys; they need heads.detection.activation=silu.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from densevit.interfaces import Class, Licences, PublishedModel, SpecialTensors, StateDict
from densevit_heads.dfine.checkpoints import DFINE, HEAD, UNSAVED
from densevit_heads.dfine.checkpoints import describe as describe_dfine
from densevit_heads.dfine.checkpoints import recipe as dfine_recipe

_LICENCES = Licences(
    "Apache-2.0",
    "unknown",
    "ImageNet, COCO",
    "SSLD's (backbone), DINOv3 ViT-B",
    "https://github.com/RT-DETRs/RT-DETRv4/blob/df44122/README.md",
    "2026-11-30",
)
_ACTIVATION = f"{HEAD}.activation"


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config sections of an RT-DETRv4, from tensors with densevit's keys."""
    sections = describe_dfine(tensors)
    sections["heads"]["detection"] |= {"activation": "silu", "classification": "mal"}
    return sections


def recipe(sections: Mapping[str, Any], classes: Mapping[str, Sequence[Class]]) -> tuple[str, dict[str, Any]]:
    """The recipe of training and evaluation on COCO; of S for a narrower model."""
    name, changes = dfine_recipe(sections, classes)
    return name.replace("dfine_n", "dfine_s").replace("dfine", "rtdetrv4"), changes


RTDETRV4 = replace(
    DFINE,
    name="rtdetrv4",
    signature_keys=(*DFINE.signature_keys, "encoder.feature_projector.0.weight"),
    describe=describe,
    special=SpecialTensors(
        no_effect={
            **DFINE.special.no_effect,
            "encoder.feature_projector.0.*": "the projection to the teacher's features, in training only",
        }
    ),
    options=replace(
        DFINE.options,
        unsaved=tuple(option for option in UNSAVED if option != _ACTIVATION),
        project_defaults=(_ACTIVATION,),
    ),
    publishing=replace(
        DFINE.publishing,
        licences=replace(_LICENCES, data="unknown", teacher="unknown"),
        files={"RTv4-?-hgnet*.pth": _LICENCES},
        models={
            f"RTv4-{size}-hgnet.pth": PublishedModel(
                "detection", parameters, {"box AP, COCO": score}, f"coco/rtdetrv4_{size.lower()}"
            )
            for size, parameters, score in (
                ("S", 10_321_619, 0.498),
                ("M", 19_589_806, 0.537),
                ("L", 31_289_590, 0.554),
                ("X", 62_715_222, 0.57),
            )
        },
        recipe=recipe,
    ),
)
