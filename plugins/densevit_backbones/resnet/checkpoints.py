"""torchvision's ResNets, ResNeXts and wide ResNets, whose keys densevit uses, and timm's ResNets."""

from dataclasses import replace

from densevit.interfaces import CheckpointLayout, LayoutOptions, Line, Publishing, SpecialTensors
from densevit_backbones import licences
from densevit_backbones.resnet.inferred_options import describe
from densevit_backbones.resnet.published_models import TORCHVISION as MODELS

TORCHVISION = CheckpointLayout(
    name="torchvision-resnet",
    signature_keys=("conv1.weight", "bn1.weight", "layer1.{i}.conv1.weight", "layer4.{i}.conv1.weight"),
    lines=(Line("conv1.*", "conv1.*"), Line("bn1.*", "bn1.*"), Line("layer{i}.*", "layer{i}.*")),
    describe=describe,
    special=SpecialTensors(no_effect={"fc.*": "the classification head"}),
    options=LayoutOptions(project_defaults=("norm_eps",)),
    publishing=Publishing(licences=licences.TORCHVISION, files=licences.TORCHVISION_FILES, models=MODELS),
)
# The signature keys are of variant "d"; others have torchvision's keys and are recognised as such.
TIMM = replace(
    TORCHVISION,
    name="timm-resnet",
    signature_keys=(
        "conv1.0.weight",
        "conv1.6.weight",
        "bn1.weight",
        "layer1.{i}.conv1.weight",
        "layer4.{i}.conv1.weight",
    ),
    publishing=Publishing(licences=licences.TIMM, files=licences.TIMM_FILES),
)
