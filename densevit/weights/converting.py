"""Builds the model of another project's checkpoint, with its config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from densevit import config as configs
from densevit.config import BackboneSection, Config, DataSection, ModelSections, merging
from densevit.config.values import OpenSection, with_value
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, CheckpointLayout, Class
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.weights.checkpoint_io import Checkpoint
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint, translate_checkpoint
from densevit.weights.key_mapping import canonical, option_of
from densevit.weights.layout_options import PartWeights, layout_options
from densevit.weights.layouts import find, of_variant, recognise, same_tensors
from densevit.weights.pretrained import fit_backbone, fit_model
from densevit.weights.state_dict_loading import WARNING, Fit

Classes = Mapping[str, Sequence[Class]]

_SETTINGS = ("seed", "data", "optim", "trainer", "inference")  # sections of a recipe other than the model's


@dataclass
class Converted:
    """A converted checkpoint. fit: the report of its tensors. model, config: None for a backbone without heads.

    assumed: the options with their values that neither tensors, metadata nor overrides determine. licences: the
    licences of the weights, by source.
    """

    source: str
    fit: Fit
    backbone: Backbone
    section: BackboneSection
    model: DenseModel | None = None
    config: Config | None = None
    assumed: tuple[str, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)


def convert_checkpoint(checkpoint: Checkpoint, layout: str | None = None, overrides: Sequence[str] = ()) -> Converted:
    """Builds the model of a checkpoint.

    layout: its layout's name; None: recognised from its keys. overrides: changed keys of the config derived from the
    checkpoint, as `backbone.dilation=true`. Raises WeightsError for missing or unexpected tensors that `weights_allow`
    does not list.
    """
    tensors, metadata = checkpoint.tensors, checkpoint.metadata
    chosen = of_variant(find(layout), tensors, metadata) if layout else recognise(tensors, checkpoint.source, metadata)
    checkpoint = replace(checkpoint, tensors=canonical(tensors, chosen) or tensors)
    translated = translate_checkpoint(checkpoint, chosen)
    described = translated.describe()
    described["backbone"] |= {"mean": [*translated.mean], "std": [*translated.std]}
    found = (_backbone if translated.is_backbone else _model)(checkpoint, translated, chosen, described, overrides)
    found.fit.notes += _warnings(found, translated)
    found.licences = translated.licences
    found.assumed = tuple(_assumptions(chosen, translated, found, overrides))
    if found.assumed:
        names = ", ".join(found.assumed)
        others = [] if layout else same_tensors(chosen)
        fix = f" For weights of {' or '.join(others)}, name it with --as." if others else ""
        found.fit.notes.append(
            f"Assumed, because the weights do not determine it: {names}. Override as section.key=value.{fix}"
        )
    found.fit.write()
    return found


def _model(
    checkpoint: Checkpoint,
    translated: TranslatedCheckpoint,
    layout: CheckpointLayout,
    described: dict[str, Any],
    overrides: Sequence[str],
) -> Converted:
    classes = layout.classes(checkpoint.tensors, checkpoint.metadata) if layout.classes else {}
    config = configs.from_mapping(with_settings(layout, described, classes), translated.source, overrides)
    configs.check_plugins(config)
    allowed, config = config.weights_allow, with_value(config, ("weights_allow",), ())
    model = build_from_sections(config, classes_by_head(config, classes))
    model.licences |= translated.licences
    fit = fit_model(model, translated, allowed)
    return Converted(translated.source, fit, model.backbone, config.backbone, model.eval(), config)


def _backbone(
    checkpoint: Checkpoint,
    translated: TranslatedCheckpoint,
    layout: CheckpointLayout,
    described: dict[str, Any],
    overrides: Sequence[str],
) -> Converted:
    for override in overrides:
        if not override.startswith("backbone."):
            raise ConfigError(f"{override}: {translated.source} is only a backbone; only backbone.* can be overridden.")
    section = configs.section("backbone", described["backbone"], translated.source, overrides)
    model = build_from_sections(ModelSections(backbone=section, heads={}), {})
    fit = fit_backbone(model, translated, section.weights_allow)
    fit.source = translated.source
    return Converted(translated.source, fit, model.backbone, section)


def _warnings(found: Converted, translated: TranslatedCheckpoint) -> list[str]:
    """Warnings of overrides with which the model computes something else than the authors' code."""
    sections: dict[str, OpenSection] = {"backbone": found.section}
    sections |= {f"heads.{name}": head for name, head in (found.config.heads if found.config else {}).items()}
    weights = {key: PartWeights(key, key, translated, complete=True) for key in sections}
    lines = [line for key, section in sections.items() for line in layout_options(weights[key], section)[1]]
    return [line for line in lines if line.startswith(WARNING)]


def with_settings(layout: CheckpointLayout, sections: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """A complete config from the sections that a layout describes; other sections are those of the layout's recipe.

    The layout's values have priority. A model without a recipe gets only the required sections.
    """
    name, others = layout.publishing.recipe(sections, classes)
    values: dict[str, Any] = {"data": {"name": "scenes"}, "trainer": {"max_epochs": 1}}
    others = dict(others)
    if name:
        file = others.pop("data") if isinstance(others.get("data"), str) else None
        recipe = configs.load(name, [f"data={file}"] if file else []).model_dump()
        values = {key: recipe[key] for key in _SETTINGS}
        heads = dict(sections["heads"])
        for task in heads.keys() & recipe["heads"].keys():
            heads[task] = {"evaluation": recipe["heads"][task]["evaluation"], **heads[task]}
        sections = {**sections, "heads": heads}
    data = values["data"]
    if "name" in others.get("data", {}):  # another data set
        data = {key: value for key, value in data.items() if key in DataSection.model_fields}
    changed = merging.over(merging.Layer({"data": data}), merging.Layer({"data": others.get("data", {})}))
    return {**values, **others, **changed.values, **sections}


def _assumptions(
    layout: CheckpointLayout, translated: TranslatedCheckpoint, found: Converted, overrides: Sequence[str]
) -> list[str]:
    """The options with their values that neither tensors, metadata nor overrides determine."""
    given = {override.partition("=")[0].strip() for override in overrides}
    config = {"backbone": found.section.model_dump()}
    if found.config is not None:
        config = found.config.model_dump()
    assumed = []
    for name in layout.options.unsaved:
        value = option_of(config, name)
        if name not in given and name not in translated.options:
            assumed.append(f"{name} {'the default' if value is None else str(value).lower()}")
    return assumed
