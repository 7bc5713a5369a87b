"""The config schema: all keys with their types, defaults and meaning. An unknown key is an error.

A section with a plugin also holds the plugin's options (`options`), which `check_plugins` checks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from densevit.config.data_schema import DataSection
from densevit.config.model_schema import BackboneSection, EvaluationSection, Heads, InferenceSection, ModelSections
from densevit.config.sources import Sources
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.config.values import RANDOM, Int, Patterns, PluginSection, Section, Source

if TYPE_CHECKING:
    from densevit.model.architecture import Architecture
    from densevit.model.inference_options import Inference


class Config(Section):
    """The config of a training run, from `densevit.config.load`."""

    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Seed of weights, data order and augmentation."""
    weights: Source | None = None
    """Pretrained weights of the whole model: a run folder, a file or `hf:ORG/NAME`. `null`: none."""
    weights_allow: Patterns = ()
    """Patterns of tensors that may be missing, unexpected or of another shape in these weights, such as
    `[heads.depth.*]`."""
    backbone: BackboneSection
    """The backbone, shared by all heads."""
    heads: Heads
    """The heads by name. Names are free and prefix the metrics (`detection/AP`). `{}`: no heads, for a method that
    trains only the backbone."""
    probes: dict[str, EvaluationSection] = Field(default_factory=dict)
    """Classifiers on the backbone's frozen features, fitted to the training images and evaluated in each validation, as
    in `{knn: {k: 20}, linear_probe: {}}`. Their metrics are `knn/top1`, ... `{}`: none."""
    method: PluginSection = PluginSection(name="supervised")
    """How the model is trained: `{name: ..., options}`."""
    data: DataSection
    """The data set."""
    optim: OptimSection = Field(default_factory=OptimSection)
    """The optimiser."""
    trainer: TrainerSection
    """The training."""
    inference: InferenceSection = Field(default_factory=InferenceSection)
    """Test-time augmentation of dense heads in validation, evaluation and prediction."""
    _sources: Sources = PrivateAttr(default_factory=Sources)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each key of initial weights that gave way to another, see `initial_weights`."""
        return self._sources.notes

    @property
    def initial_weights(self) -> str:
        """The name or file of the backbone's pretrained weights; "random" without pretrained weights.

        A backbone that loads weights itself is recognised by an option `pretrained`, as the timm backbone has.
        """
        options = self.backbone.options
        given, pretrained = self.backbone.weights or self.weights, options.get("pretrained")
        if given or not pretrained:
            return given or RANDOM
        return pretrained if isinstance(pretrained, str) else f"{options.get('model', self.backbone.name)}, pretrained"

    @property
    def architecture(self) -> "Architecture":
        """What builds the model."""
        return replace(self.model_sections.architecture, replace_layers=self.trainer.replace_layers)

    @property
    def inference_by_head(self) -> "dict[str, Inference]":
        """The options of the sections `heads.NAME.inference` that are given."""
        return self.model_sections.inference_by_head

    @property
    def model_sections(self) -> ModelSections:
        """The sections of the model, not copied."""
        return ModelSections.model_construct(
            weights=self.weights,
            weights_allow=self.weights_allow,
            backbone=self.backbone,
            heads=self.heads,
            data=self.data,
        )
