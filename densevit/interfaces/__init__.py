"""The interfaces of plugins, and the data that they exchange, for plugin authors.

In each class, required members come first; the rest has defaults. Methods that only a tool calls are protocols in that
tool's package, listed in docs/reference/protocols.md. `docs/own-backbone.md`, `docs/own-head.md`,
`docs/own-dataset.md`, `docs/own-target.md` and `docs/own-method.md` are tutorials.
"""

from densevit.channels import COLORS, RGB, Channels
from densevit.interfaces.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, ModuleBackbone
from densevit.interfaces.canvases import Canvas, Drawing
from densevit.interfaces.checkpoint_layouts import (
    ZEROS,
    AsAuthors,
    Change,
    CheckpointLayout,
    LayoutOptions,
    Line,
    OtherKeys,
    PublishedModel,
    Publishing,
    Rearrangement,
    SpecialTensors,
    StateDict,
)
from densevit.interfaces.data_types import (
    LABEL_DIVISOR,
    VOID,
    Batch,
    Class,
    Classes,
    Color,
    Losses,
    OptimizerStep,
    Outputs,
    Plot,
    Predictions,
    Sample,
    Size,
    Table,
    Targets,
    Window,
    as_classes,
    color_of,
    image_id,
)
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.evaluators import DEFAULT_THRESHOLD, Evaluator
from densevit.interfaces.heads import DenseHead, Head
from densevit.interfaces.last_blocks import BackboneOutput, LastBlocks, TokenBackbone
from densevit.interfaces.licences import Licences
from densevit.interfaces.methods import Method
from densevit.interfaces.necks import Neck
from densevit.interfaces.target_types import TargetType
from densevit.interfaces.transforms import CropAndSize, Transforms
from densevit.losses.context import LossContext
from densevit.losses.segmentation import IGNORE  # ignore index of `semantic`

__all__ = [
    "COLORS",
    "DEFAULT_THRESHOLD",
    "IGNORE",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LABEL_DIVISOR",
    "RGB",
    "VOID",
    "ZEROS",
    "AsAuthors",
    "Backbone",
    "BackboneOutput",
    "Batch",
    "Canvas",
    "Change",
    "Channels",
    "CheckpointLayout",
    "Class",
    "Classes",
    "Color",
    "CropAndSize",
    "Dataset",
    "DenseHead",
    "Drawing",
    "Evaluator",
    "Head",
    "LastBlocks",
    "LayoutOptions",
    "Licences",
    "Line",
    "LossContext",
    "Losses",
    "Method",
    "ModuleBackbone",
    "Neck",
    "OptimizerStep",
    "OtherKeys",
    "Outputs",
    "Plot",
    "Predictions",
    "PublishedModel",
    "Publishing",
    "Rearrangement",
    "Sample",
    "Size",
    "SpecialTensors",
    "StateDict",
    "Table",
    "TargetType",
    "Targets",
    "TokenBackbone",
    "Transforms",
    "Window",
    "as_classes",
    "color_of",
    "image_id",
]
