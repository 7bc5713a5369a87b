"""Published weights and other projects' checkpoints as models, and as weights of a model."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit.config import ModelSections
from densevit.errors import WeightsError
from densevit.model import DenseModel, InferenceModel
from densevit.weights import checkpoint_io
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.sources import Source
from densevit.weights.translated_checkpoint import ResolvedCheckpoint
from densevit_checkpoints import file_formats, hub


class Checkpoints(Source):
    """Checkpoints in the layouts of the group `densevit.checkpoints`, and published weights by name."""

    forms = hub.FORMS

    def recognises(self, source: str | Path) -> bool:
        if hub.is_published(source):
            return True
        return file_formats.is_checkpoint(source) and not checkpoint_io.is_densevit(source)

    def load(self, source: str | Path, trust: bool = False, **options: Any) -> tuple[InferenceModel, bool]:
        from densevit.weights import model_file
        from densevit_checkpoints.converting import convert_checkpoint

        checkpoint = self.read(str(source), trust=trust)
        if checkpoint.header.get("format") == "densevit":  # a repository of the Hugging Face Hub may have one
            described = model_file.described(checkpoint.header, str(source), trust)
            return model_file.built(checkpoint.tensors, described, str(source)), False
        if {"backbone", "heads"} <= {name.partition(".")[0] for name in checkpoint.tensors}:
            raise checkpoint_io.without_header(checkpoint)
        converted = convert_checkpoint(checkpoint)
        if converted.model.config is None:
            raise WeightsError(
                f"{source}: contains only a backbone ({converted.model.sections.backbone.name}), which predicts "
                f"nothing. Fix: train a model with backbone.weights={source}, or build one with densevit.create_model."
            )
        if converted.assumed:
            warnings.warn(
                f"{source}: assumed {', '.join(converted.assumed)}, because the weights do not determine it. If this "
                f"is wrong: densevit convert {source} OUT section.key=value, and use OUT.",
                stacklevel=5,
            )
        return converted.model, True

    def read(self, source: str, fix_hint: str = "", trust: bool = False) -> Checkpoint:
        return hub.read(source, fix_hint, trust) if hub.is_published(source) else file_formats.read(source, trust)

    def resolve(self, checkpoint: Checkpoint, sections: ModelSections, model: DenseModel) -> ResolvedCheckpoint:
        from densevit_checkpoints.foreign_checkpoint import ForeignCheckpoint, translated_for
        from densevit_checkpoints.head_names import named_as_in
        from densevit_checkpoints.layout_options import completed

        translated = translated_for(checkpoint, model)
        if not isinstance(translated, ForeignCheckpoint):
            return ResolvedCheckpoint(sections, translated)
        translated = named_as_in(sections, model, translated)
        sections, notes = completed(translated, sections, model)
        return ResolvedCheckpoint(sections, translated, notes)

    def backbone(self, name: str) -> Mapping[str, Any] | None:
        from densevit_checkpoints.backbone_names import section_of

        return section_of(name)

    def backbones(self) -> Sequence[str]:
        from densevit_checkpoints.backbone_names import timm_models

        return timm_models()
