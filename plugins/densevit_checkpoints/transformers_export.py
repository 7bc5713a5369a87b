"""Exports a trained model for transformers, checked by reading it back."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densevit import config as configs
from densevit.atomic_io import atomic_folder
from densevit.channels import RGB
from densevit.config import BackboneSection, ModelSections
from densevit.errors import WeightsError, check_format
from densevit.interfaces import Backbone, CheckpointLayout, Publishing
from densevit.layouts import every, part
from densevit.model import DenseModel, backbone_from, build_from_sections
from densevit.paths import user_path
from densevit.weights import model_file
from densevit.weights.state_dict_io import FORMAT, read_safetensors, write_safetensors
from densevit.weights.state_dict_loading import load_state
from densevit.weights.weights_table import listed
from densevit_checkpoints.converting import Converted
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import canonical, describe, option_of, translate_back

_TOLERANCE = 1e-3  # of the largest value: two implementations of the same function


def export(source: str | Path, out: Path, trust: bool = False) -> list[str]:
    """Writes a folder for `from_pretrained`: model.safetensors, config.json and preprocessor_config.json.

    The folder is read back before it appears: tensors must be bit-identical and outputs equal. source: a run folder, a
    model file, or a converted backbone. trust: the argument of `densevit.load`. Returns a sentence per difference in
    transformers' computation. Raises WeightsError for a model without a counterpart in transformers.
    """
    model = model_of(source, trust)
    if not model.channels.is_rgb:
        raise WeightsError(
            f"{source} cannot be exported for transformers: its images are {model.channels}, and there {RGB}. Fix: "
            "densevit export, which writes ONNX and pt2 files of any channels."
        )
    state, sections = by_task(model)
    candidates: list[tuple[CheckpointLayout, dict[str, Tensor]]] = []
    failed: dict[str, int] = {}  # the reasons, with the number of tensors without a place
    for layout in every():
        if layout.publishing.config_files is Publishing.config_files or layout.is_backbone != (not model.heads):
            continue
        try:
            tensors, unknown = translate_back(state, layout)
        except ValueError as error:
            failed[str(error)] = len(state)
            continue
        if unknown:
            failed[f"{layout.name} has no place for {listed(unknown)}."] = len(unknown)
        elif canonical(tensors, layout) is not None:
            candidates.append((layout, tensors))
    candidates.sort(
        key=lambda candidate: len(candidate[0].signature_keys), reverse=True
    )  # a DeiT has the signature keys of a ViT and others
    for layout, tensors in candidates:
        try:
            with atomic_folder(out) as folder:
                return _write(model, state, sections, layout, tensors, folder)
        except WeightsError as error:
            failed.setdefault(str(error), 0)
    reason = min(failed, key=failed.__getitem__, default="transformers has no such model.")
    raise WeightsError(f"{source} cannot be exported for transformers: {reason}")


def model_of(source: str | Path, trust: bool) -> DenseModel:
    """Loads a model; a backbone becomes a model without heads."""
    path = user_path(source)
    file = path / "model.safetensors" if path.is_dir() else path
    header = read_safetensors(file)[1] if file.is_file() and file.suffix == ".safetensors" else {}
    if header.get("part") != "backbone":
        return model_file.load(source, trust)
    backbone, section = load_backbone(source, trust)
    model = build_from_sections(ModelSections(backbone=section, heads={}), {}, pretrained=False)
    model.backbone.load_state_dict(backbone.state_dict())
    return model.eval()


def load_backbone(run: str | Path, trust: bool = False) -> tuple[Backbone, BackboneSection]:
    """Loads the backbone of a run or of a file by `model_file.save_backbone`, in evaluation mode. Returns it and its
    section."""
    state, entries, path = model_file.read(run)
    check_format(entries.get("format_version"), FORMAT, path, WeightsError)
    text, folder = entries.get("config", ""), model_file.folder_of(run)
    values = configs.values_of_file(text, path, trust, folder, part="backbone")["backbone"]
    if not isinstance(values, dict):  # a text would name a section's file
        raise WeightsError(f"{path}: its header is corrupt (backbone is a {type(values).__name__}). Copy it again.")
    section = configs.section("backbone", values, path)
    backbone = backbone_from(section, pretrained=False)
    load_state(backbone, part(state, "backbone."), path)
    return backbone.eval(), section


def by_task(model: DenseModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and config sections with heads named by task. For a backbone alone, keys are relative to it."""
    backbone = model.sections.backbone
    sections: dict[str, Any] = {"backbone": {"name": backbone.name, **backbone.options}}
    if not model.heads:
        return dict(model.backbone.state_dict()), sections
    tasks = {name: str(head.task) for name, head in model.heads.items()}
    if len(set(tasks.values())) < len(tasks):
        raise WeightsError(f"The model has several heads of one task ({', '.join(tasks)}); transformers allows one.")
    sections["heads"], state = {}, {}
    for name, head in model.sections.heads.items():
        neck = {} if head.neck is None else {"neck": {"name": head.neck.name, **head.neck.options}}
        sections["heads"][tasks[name]] = {"name": head.name, **head.options, **neck}
    for key, value in model.state_dict().items():
        part, _, rest = key.partition(".")
        name, dot, inner = rest.partition(".")
        state[f"{part}.{tasks[name]}{dot}{inner}" if part in ("heads", "necks") else key] = value
    return state, sections


def _write(
    model: DenseModel,
    state: dict[str, Tensor],
    model_sections: dict[str, Any],
    layout: CheckpointLayout,
    tensors: Mapping[str, Tensor],
    folder: Path,
) -> list[str]:
    """Writes and reads the files. state, model_sections: the results of `by_task`. Returns the differences, see
    `export`."""
    described, defaults = describe(tensors, layout), inspect.signature(type(model.backbone)).parameters
    runtime = [key for key in layout.options.runtime if key in {**described["backbone"], **model_sections["backbone"]}]
    used = {key: model_sections["backbone"].get(key, defaults[key].default) for key in runtime}
    sections = _merged(described, _merged(model_sections, {"backbone": used}))
    classes = next(iter(model.classes.values()), ())
    files = layout.publishing.config_files(sections, state, classes)
    if "config.json" not in files:
        options = ", ".join(f"{name} is {value!r}" for name, value in _unmatched(model_sections, described))
        raise WeightsError(f"transformers has no config for such a model ({layout.name}; {options}).")
    labels = {str(row): category.name for row, category in enumerate(classes)}
    config: dict[str, Any] = ({"id2label": labels} if labels else {}) | files["config.json"]
    if "id2label" in config:
        config["label2id"] = {name: int(row) for row, name in config["id2label"].items()}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,  # the model's config determines the size
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [*model.backbone.mean],
        "image_std": [*model.backbone.std],
    }
    processor |= files.get("preprocessor_config.json", {})
    written = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_safetensors(written, folder / "model.safetensors", {"format": "pt"})
    for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    back = convert(folder, layout.name, [f"backbone.{key}={json.dumps(value)}" for key, value in used.items()])
    _check(model, state, model_sections, back)
    return _differences(described, sections, layout)


def _merged(described: Mapping[str, Any], model_sections: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the options that a layout describes with the model's options, which have priority."""
    both = {
        key: _merged(described[key], model_sections[key])
        for key in described
        if isinstance(model_sections.get(key), Mapping)
    }
    return {**described, **model_sections, **both}


@torch.no_grad()
def _check(model: DenseModel, state: Mapping[str, Tensor], model_sections: Mapping[str, Any], back: Converted) -> None:
    """Raises WeightsError unless the model, read back, has the same tensors, classes and outputs."""
    pixels = torch.randn(1, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    if back.model.config is None:
        again, sections = back.model.backbone.state_dict(), {"backbone": back.model.sections.backbone.options}
        outputs, read_outputs = model.backbone(pixels), back.model.backbone(pixels)
    else:
        again, sections = back.model.state_dict(), back.model.config.model_dump()
        for (name, classes), read_classes in zip(model.classes.items(), back.model.classes.values(), strict=True):
            if (names := [category.name for category in classes]) != [category.name for category in read_classes]:
                raise WeightsError(
                    f"The classes of {name} would be {listed(category.name for category in read_classes)}, not {names}."
                )
        batch: Any = {"images": pixels * 64 + 128, "padding_mask": torch.zeros(1, 72, 104).bool(), "targets": []}
        outputs, read_outputs = (
            [value for head in network(batch).values() for value in head.values() if isinstance(value, Tensor)]
            for network in (model, back.model)
        )
    changed = [name for name, value in again.items() if name in state and not torch.equal(value, state[name])]
    if (
        changed
        or [x.shape for x in outputs] != [x.shape for x in read_outputs]
        or not all(map(_close, outputs, read_outputs))
    ):
        options = ", ".join(f"{name} is {value!r}" for name, value in _unmatched(model_sections, sections))
        reason = options or listed(changed) or "outputs differ"
        raise WeightsError(f"Read back, the model differs: {reason}.")


def _close(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() <= _TOLERANCE * x.abs().max())


def _unmatched(model_sections: Mapping[str, Any], sections: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The options in `model_sections` that are missing or different in `sections`, by full key."""
    unmatched: list[tuple[str, Any]] = []
    for key, value in model_sections.items():
        other = sections.get(key)
        if isinstance(value, Mapping):
            unmatched += _unmatched(value, other if isinstance(other, Mapping) else {}, f"{path}{key}.")
        elif value != other and key != "name":
            unmatched.append((f"{path}{key}", value))
    return unmatched


def _differences(described: Mapping[str, Any], sections: Mapping[str, Any], layout: CheckpointLayout) -> list[str]:
    """Sentences about options that transformers' code fixes to other values than the model's."""
    notes = []
    for name in layout.options.project_defaults:
        key = name if "." in name else f"backbone.{name}"
        there = option_of(described, key)
        if there is not None and there != option_of(sections, key):
            notes.append(
                f"In transformers, {key} is {json.dumps(there)}: outputs differ for some image sizes or padded images."
            )
    return notes
