"""Turns another project's checkpoint into a run folder that `load`, `evaluate` and `predict` take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densevit import config as configs
from densevit.config import BackboneSection
from densevit.config.reading import write as yaml
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Backbone, Class
from densevit.model import DenseModel, build_model, create_backbone
from densevit.weights import model_file
from densevit.weights.atomic_io import atomic_folder
from densevit.weights.checkpoint_io import Checkpoint, read
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint, bgr_to_rgb, is_bgr, translate_checkpoint
from densevit.weights.key_mapping import Layout
from densevit.weights.layouts import find, recognise
from densevit.weights.pretrained import fit_backbone, fit_model
from densevit.weights.state_dict_loading import Fit

Classes = Mapping[str, Sequence[Class]]

_SETTINGS = ("seed", "data", "optim", "trainer", "inference")  # of a recipe, what is not the model's
_SETR = {150: "ade20k/setr_pup_vit_large", 19: "cityscapes/setr_pup_vit_large"}  # by the number of classes


@dataclass
class Converted:
    """A checkpoint as ours. fit: what of it went where. model: None where it is a backbone alone."""

    source: str
    fit: Fit
    backbone: Backbone
    section: BackboneSection
    model: DenseModel | None = None

    def write(self, out: Path) -> None:
        """A new folder: of a whole model with config.yaml and model.safetensors; of a backbone alone with
        model.safetensors, which `backbone.weights` takes, and backbone.yaml, which is its config's section."""
        with atomic_folder(out) as folder:
            if self.model is not None and self.model.config is not None:
                model_file.save(self.model, folder / "model.safetensors")
                (folder / "config.yaml").write_text(configs.dump(self.model.config, self._comments()), "utf-8")
                return
            section = {key: value for key, value in self.section.model_dump().items() if key != "weights_allow"}
            model_file.save_backbone(self.backbone, section, folder / "model.safetensors")
            text = f"# Converted from {self.source}. It is a config's section: backbone={out / 'backbone.yaml'}\n"
            (folder / "backbone.yaml").write_text(text + yaml({**section, "weights": str(out)}), "utf-8")

    def _comments(self) -> dict[str, str]:
        assert self.model is not None
        metadata = {"converted from": self.source}
        for name, classes in self.model.classes.items():
            metadata |= {f"classes of {name}": ", ".join(c.name for c in classes)} if classes else {}
        return metadata


def convert(source: str | Path, layout: str | None = None, overrides: Sequence[str] = ()) -> Converted:
    """Reads a checkpoint and builds the model that it is of.

    layout: its layout's name; None: as recognised. overrides: `backbone.dilation=true`, over what the checkpoint says
    of itself. Raises WeightsError where a tensor has no place or a place no tensor; `weights_allow` allows it by name.
    """
    checkpoint = read(source)
    if checkpoint.header.get("format") == "densevit":
        raise WeightsError(f"{source}: is densevit's already. For another project's layout, say which with --to.")
    chosen = find(layout) if layout else recognise(checkpoint.tensors, str(source))
    translated = translate_checkpoint(checkpoint, chosen)
    sections = translated.describe()
    normalisation = {key: getattr(translated, key) for key in ("mean", "std")}
    sections["backbone"] = {**sections["backbone"], **{key: [*value] for key, value in normalisation.items()}}
    converted = _backbone if translated.is_backbone else _model
    found = converted(checkpoint, translated, chosen, sections, overrides)
    found.fit.notes += _assumed(chosen, translated, found, overrides)
    found.fit.write()
    return found


def _model(
    checkpoint: Checkpoint,
    translated: TranslatedCheckpoint,
    layout: Layout,
    sections: dict[str, Any],
    overrides: Sequence[str],
) -> Converted:
    classes = layout.classes(checkpoint.tensors, checkpoint.metadata) if layout.classes else {}
    config = configs.from_mapping(with_settings(sections, classes), translated.source, overrides)
    configs.check_plugins(config)
    allowed, config.weights_allow = config.weights_allow, ()
    model = build_model(config, classes)
    if is_bgr(checkpoint):
        bgr_to_rgb(translated, model.backbone)
        config.backbone.mean = model.backbone.mean = translated.mean or model.backbone.mean
        config.backbone.std = model.backbone.std = translated.std or model.backbone.std
    fit = fit_model(model, translated, allowed)
    return Converted(translated.source, fit, model.backbone, config.backbone, model.eval())


def _backbone(
    checkpoint: Checkpoint,
    translated: TranslatedCheckpoint,
    layout: Layout,
    sections: dict[str, Any],
    overrides: Sequence[str],
) -> Converted:
    for override in overrides:
        if not override.startswith("backbone."):
            raise ConfigError(f"{override}: {translated.source} is a backbone alone, which has only backbone.* to say.")
    section = configs.backbone_section(sections["backbone"], translated.source, overrides)
    backbone = create_backbone(section.name, **section.options)
    if is_bgr(checkpoint):
        bgr_to_rgb(translated, backbone)
        section.mean, section.std = translated.mean, translated.std
    fit = fit_backbone(DenseModel(backbone, {}), translated, section.weights_allow)
    fit.source = translated.source
    return Converted(translated.source, fit, backbone, section)


def with_settings(sections: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """A whole config from what a layout describes: data, inference and the rest are those of the published recipe.

    What the layout says itself goes first. A head that no recipe is for gets what a config cannot do without.
    """
    (task, head), *_ = sections["heads"].items()
    name, others = _recipe(task, head, len(classes.get(task, ())))
    values: dict[str, Any] = {"data": {"name": "scenes"}, "trainer": {"max_epochs": 1}}
    if name:
        recipe = configs.load(name).model_dump()
        values = {key: recipe[key] for key in _SETTINGS}
        evaluation = recipe["heads"][task]["evaluation"]
        sections = {**sections, "heads": {**sections["heads"], task: {"evaluation": evaluation, **head}}}
        if name in _SETR.values() and len(classes[task]) not in _SETR:
            own = [{"name": c.name, "id": c.file_id, "color": [*c.color]} for c in classes[task]]
            kept = ("recipe", "image_size", "short_side", "scales", "batch_size")
            values["data"] = {"name": "masks", "classes": own, **{key: values["data"][key] for key in kept}}
    values["data"] = {**values["data"], **others.get("data", {})}
    return {**values, **{key: value for key, value in others.items() if key != "data"}, **sections}


def _recipe(task: str, head: Mapping[str, Any], count: int) -> tuple[str, dict[str, Any]]:
    """The shipped config that such a head is evaluated with, and what of it is different. count: of classes."""
    if task == "detection":
        return "coco/detr_r50", {}
    if task == "segmentation" and head["name"] == "setr":
        return _SETR.get(count, _SETR[150]), {}
    if task == "segmentation":  # of 480 pixels, looked at whole: run_segmentation.py in isl-org/DPT
        return _SETR.get(count, _SETR[150]), {"data": {"image_size": 480, "short_side": 480}, "inference": {}}
    if task == "depth" and head.get("output") == "relative":  # of 384: run_monodepth.py there
        return "nyu/dpt_hybrid", {"data": {"image_size": 384, "short_side": 384}}
    if task == "depth":
        return ("kitti/dpt_hybrid" if head.get("max_depth", 10.0) > 10 else "nyu/dpt_hybrid"), {}
    return "", {}


def _assumed(layout: Layout, translated: TranslatedCheckpoint, found: Converted, overrides: Sequence[str]) -> list[str]:
    """What the options are that no tensor shows and nothing else said."""
    given = {override.partition("=")[0].strip() for override in overrides}
    config = {"backbone": found.section.model_dump()}
    if found.model is not None and found.model.config is not None:
        config = found.model.config.model_dump()
    said = []
    for name in layout.unrecorded:
        value: Any = config
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        seen = "window" in name and "window_size" in found.section.options  # in a table that was saved
        if name not in given and name not in translated.options and not seen:
            said.append(f"{name} {'the default' if value is None else str(value).lower()}")
    if not said:
        return []
    return [f"Assumed, as it leaves no trace in weights: {', '.join(said)}. Others are given as section.key=value."]
