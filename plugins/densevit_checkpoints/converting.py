"""Builds a model, and its config, from another project's checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from densevit import config as configs
from densevit.config import Config, DataSection, ModelSections
from densevit.config.config_layers import ConfigLayer
from densevit.config.values import OpenSection, with_value
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import CheckpointLayout, Class
from densevit.layouts.finding import find
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.pretrained import fit_backbone, fit_model
from densevit.weights.state_dict_loading import WARNING, StateDictMatch
from densevit_checkpoints.foreign_checkpoint import ForeignCheckpoint, translate_checkpoint
from densevit_checkpoints.key_mapping import canonical, option_of
from densevit_checkpoints.layout_options import PartWeights, layout_options
from densevit_checkpoints.recognition import fitting, matching_variant, most_specific, recognise, same_tensors

Classes = Mapping[str, Sequence[Class]]

_SETTINGS = ("seed", "data", "optim", "trainer", "inference")  # sections of a recipe other than the model's
_MEASURED_WITH = ("evaluation", "max_predictions")  # options of a recipe's heads that published scores depend on


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint. source: the checkpoint's file or name. fit: the report of the loaded tensors. model: the
    model in evaluation mode, without heads if the checkpoint is a backbone. assumed: options and values that neither
    tensors, metadata nor overrides determine."""

    source: str
    fit: StateDictMatch
    model: DenseModel
    assumed: Sequence[str]


def convert_checkpoint(checkpoint: Checkpoint, layout: str | None = None, overrides: Sequence[str] = ()) -> Converted:
    """Builds the model of a checkpoint.

    layout: the name of the layout; None: recognised from the keys. overrides: changes to the config derived from the
    checkpoint, such as `backbone.dilation=true`. Raises WeightsError for missing or unexpected tensors that
    `allow_mismatch` does not list.
    """
    checkpoint, chosen = recognised(checkpoint, layout)
    metadata, translated = checkpoint.metadata, translate_checkpoint(checkpoint, chosen)
    described = translated.describe()
    normalisation = {"mean": translated.mean, "std": translated.std}
    backbone = {**described["backbone"], **{key: [*values] for key, values in normalisation.items() if values}}
    if translated.black_padding:
        backbone["black_padding"] = True
    classes: Classes = {}
    sections: ModelSections
    if translated.is_backbone:
        sections = _backbone_sections(backbone, translated.source, overrides)
        allowed = sections.backbone.allow_mismatch
    else:
        classes = chosen.classes(checkpoint.tensors, metadata) if chosen.classes else classes
        values = with_settings(chosen, {**described, "backbone": backbone}, classes)
        config = configs.from_mapping(values, translated.source, overrides)
        configs.check_plugins(config)
        allowed, sections = config.allow_mismatch, with_value(config, ("allow_mismatch",), ())
    model = build_from_sections(sections, classes_by_head(sections, classes))
    model.licences |= translated.licences
    fit = (fit_backbone if translated.is_backbone else fit_model)(model, translated, allowed)
    fit.notes += _warnings(sections, translated)
    assumed = _assumptions(chosen, translated, sections, overrides)
    if assumed:
        alternatives = [] if layout else same_tensors(chosen)
        fix = f" For weights of {' or '.join(alternatives)}, name it with --as." if alternatives else ""
        fit.notes.append(
            f"Assumed, because the weights do not determine it: {', '.join(assumed)}. Override as section.key=value."
            f"{fix}"
        )
    fit.write()
    return Converted(translated.source, fit, model.eval(), assumed)


def recognised(checkpoint: Checkpoint, layout: str | None = None) -> tuple[Checkpoint, CheckpointLayout]:
    """The checkpoint with the layout's keys, and its layout. layout: its name; None: recognised by the keys."""
    tensors, metadata = checkpoint.tensors, checkpoint.metadata
    try:
        chosen = (
            matching_variant(find(layout), tensors, metadata)
            if layout
            else recognise(tensors, checkpoint.source, metadata)
        )
    except WeightsError as error:
        return recognised(fitting(checkpoint, partial(most_specific, metadata=metadata), error), layout)
    checkpoint = checkpoint.with_container(chosen.container)
    return replace(checkpoint, tensors=canonical(checkpoint.tensors, chosen) or checkpoint.tensors), chosen


def _backbone_sections(values: Mapping[str, Any], source: str, overrides: Sequence[str]) -> ModelSections:
    for override in overrides:
        if not override.startswith("backbone."):
            raise ConfigError(f"{override}: {source} is only a backbone; only backbone.* can be overridden.")
    return ModelSections(backbone=configs.section("backbone", values, source, overrides), heads={})


def _warnings(sections: ModelSections, translated: ForeignCheckpoint) -> list[str]:
    """A warning for each override with which the outputs of the model differ from those of the authors' code."""
    parts: dict[str, OpenSection] = {"backbone": sections.backbone}
    parts |= {f"heads.{name}": head for name, head in sections.heads.items()}
    weights = {key: PartWeights(key, key, translated, complete=True) for key in parts}
    lines = [line for key, section in parts.items() for line in layout_options(weights[key], section)[1]]
    return [line for line in lines if line.startswith(WARNING)]


def with_settings(layout: CheckpointLayout, sections: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """A complete config: the sections that a layout describes, and all others from the layout's recipe.

    sections: the sections that the layout describes; their values have priority over the recipe's. classes: the classes
    of each head. If the layout has no recipe, only the required sections are added.
    """
    name, recipe_changes = layout.publishing.recipe(sections, classes)
    values: dict[str, Any] = {"data": {"name": "scenes"}, "trainer": {"max_epochs": 1}}
    recipe_changes = dict(recipe_changes)
    if name:
        file = recipe_changes.pop("data") if isinstance(recipe_changes.get("data"), str) else None
        config = configs.load(name, [f"data={file}"] if file else [])
        recipe = config.model_dump()
        values = {key: recipe[key] for key in _SETTINGS}
        heads = dict(sections["heads"])
        for task in heads.keys() & recipe["heads"].keys():
            head = {"evaluation": recipe["heads"][task]["evaluation"], **config.heads[task].options}
            heads[task] = {key: head[key] for key in _MEASURED_WITH if key in head} | heads[task]
        sections = {**sections, "heads": heads}
    data = values["data"]
    if "name" in recipe_changes.get("data", {}):  # another data set
        data = {key: value for key, value in data.items() if key in DataSection.model_fields}
    changed = ConfigLayer({"data": recipe_changes.get("data", {})}).over(ConfigLayer({"data": data}), Config)
    return {**values, **recipe_changes, **changed.values, **sections}


def _assumptions(
    layout: CheckpointLayout, translated: ForeignCheckpoint, sections: ModelSections, overrides: Sequence[str]
) -> list[str]:
    """`NAME VALUE` of each option that neither tensors, metadata nor overrides determine."""
    overridden, values = {override.partition("=")[0].strip() for override in overrides}, sections.model_dump()
    assumed = []
    for name in layout.options.unsaved:
        value = option_of(values, name)
        if name not in overridden and name not in translated.options:
            assumed.append(f"{name} {'the default' if value is None else str(value).lower()}")
    return assumed
