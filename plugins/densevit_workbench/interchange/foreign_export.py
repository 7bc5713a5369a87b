"""Exports a trained model in another project's layout, checked to load there and to compute the same."""

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.text import Text
from torch import Tensor, nn

from densevit import config as configs
from densevit.atomic_io import atomic_file, atomic_folder
from densevit.channels import RGB
from densevit.config import BackboneSection
from densevit.errors import DensevitError, WeightsError, did_you_mean
from densevit.interfaces import Backbone, CheckpointLayout, Class
from densevit.model import DenseModel, build_backbone, build_from_sections, tasks_of
from densevit.paths import user_path
from densevit.terminal import table
from densevit.weights import layouts, model_file
from densevit.weights.key_mapping import canonical, describe, missing_because, option_of, translate, translate_back
from densevit.weights.state import read_safetensors, write_safetensors, write_torch
from densevit.weights.weights_table import listed
from densevit_workbench.interchange import transformers_config

PROJECTS = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

_TOLERANCE = 1e-3  # of the largest value: two implementations of the same function


@dataclass
class ForeignExport:
    """An export and its layout. notes: what the layout does not record, a sentence each."""

    layout: CheckpointLayout
    tensors: dict[str, Tensor]
    left_out: list[str]
    notes: list[str]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """out: a file, or for transformers' layouts a folder as `save_pretrained` writes it."""
        if out.suffix in SUFFIXES:
            with atomic_file(out) as file:
                self._write_tensors(file, out.suffix)
        elif self.layout.name.startswith("transformers-"):
            with atomic_folder(out) as folder:
                self._write_tensors(folder / "model.safetensors", ".safetensors")
                for name, content in self.files.items():
                    (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        else:
            raise WeightsError(f"{out}: {self.layout.name} is written as a file, {', '.join(SUFFIXES)}. Name one.")

    def _write_tensors(self, file: Path, suffix: str) -> None:
        tensors = {name: tensor.contiguous().clone() for name, tensor in self.tensors.items()}
        if suffix == ".safetensors":
            write_safetensors(tensors, file, {"format": "pt"})
        else:
            under = self.layout.publishing.saved_under
            write_torch({under: tensors} if under else tensors, file)


@dataclass
class _Source:
    """The model to export. model: None for a backbone without heads."""

    name: str
    backbone: Backbone
    built: BackboneSection
    model: DenseModel | None

    @property
    def classes(self) -> tuple[Class, ...]:
        return (
            next(iter(self.model.classes.values())) if self.model is not None and len(self.model.classes) == 1 else ()
        )

    def state(self, layout: CheckpointLayout) -> dict[str, Tensor]:
        """The state dict with our keys, in which heads are named by task."""
        if layout.is_backbone or self.model is None:
            return {key: value.detach() for key, value in self.backbone.state_dict().items()}
        tasks = {name: str(head.task) for name, head in self.model.heads.items()}
        if len(set(tasks.values())) < len(tasks):
            raise _NotRepresentable(f"{layout.name} has one head, and this model {', '.join(tasks)}.")
        renamed = {}
        for key, value in self.model.state_dict().items():
            kind, _, rest = key.partition(".")
            name, dot, inner = rest.partition(".")
            renamed[f"{kind}.{tasks[name]}{dot}{inner}" if kind in ("heads", "necks") else key] = value.detach()
        return renamed


def export(source: str | Path, to: str, allowed: Sequence[str] = (), trust: bool = False) -> ForeignExport:
    """Exports a run's weights, checked: translated back they are bit-identical, and the outputs are the same.

    source: a run folder, a model file, or a converted backbone. to: a layout's name, or a project, "hf", "timm" or
    "torchvision", whose layout for this model is used. allowed: patterns of tensors that may be left out. trust: the
    argument of `densevit.load`.
    Raises WeightsError, naming the tensors or options that the layout cannot represent.
    """
    named = _named(to)
    ours = _source(source, trust)
    if not (ours.built.channels or RGB).is_rgb:
        raise WeightsError(
            f"{source} cannot be exported as {to}: its images are {ours.built.channels}, and those of other projects "
            "RGB of 8 bits. Fix: densevit export, which writes ONNX and pt2 files of any channels."
        )
    candidates = named or _published(to, ours)
    failed: list[_NotRepresentable] = []
    found: list[ForeignExport] = []
    for layout in candidates:
        try:
            found.append(_in_layout(ours, layout, allowed))
        except _NotRepresentable as error:
            failed.append(error)
    if found:
        return max(
            found, key=lambda one: len(one.layout.marks) if canonical(one.tensors, one.layout) is not None else 0
        )
    full_models = ours.model is not None and not any(layout.is_backbone for layout in candidates)
    alone = " For the backbone only: --to timm, --to torchvision, or a backbone layout." if full_models else ""
    nearest = min(failed, key=lambda error: error.distance)
    raise WeightsError(f"{source} cannot be exported as {to}: {nearest}{alone}")


def written_table(exported: ForeignExport, source: str, out: Path) -> Group:
    """The tensors and files of a converted run."""
    rows: list[list[str | Text]] = [[Text("written", "cyan"), str(len(exported.tensors)), f"as {exported.layout.name}"]]
    if exported.left_out:
        rows.append([Text("left out", "cyan"), str(len(exported.left_out)), listed(exported.left_out)])
    files = f"{out}: {', '.join(['model.safetensors', *exported.files])}" if out.is_dir() else str(out)
    grid = table(rows, right=(1,), no_wrap=(0, 1))
    return Group(Text(source, "bold"), grid, *map(Text, exported.notes), Text(files))


class _NotRepresentable(WeightsError):  # noqa: N818
    """The layout cannot represent a model. distance: the number of tensors without a key; 0 if only options differ."""

    def __init__(self, message: str, distance: int = 0) -> None:
        super().__init__(message)
        self.distance = distance


def _source(source: str | Path, trust: bool) -> _Source:
    path = user_path(source)
    file = path / "model.safetensors" if path.is_dir() else path
    header = read_safetensors(file)[1] if file.is_file() and file.suffix == ".safetensors" else {}
    if header.get("part") == "backbone":
        return _Source(str(source), *model_file.load_backbone(source, trust), None)
    model = model_file.load(source, trust)
    assert model.sections is not None
    return _Source(str(source), model.backbone, model.sections.backbone, model)


def _named(to: str) -> list[CheckpointLayout]:
    """The layout with this name and its variants; none for a project."""
    if to in PROJECTS:
        return []
    try:
        layout = layouts.find(to)
    except WeightsError:
        known = [*PROJECTS, *(one.name for one in layouts.every())]
        raise WeightsError(f"--to {to}: unknown layout.{did_you_mean(to, known)}") from None
    return [layout, *layout.variants]


def _published(to: str, ours: _Source) -> list[CheckpointLayout]:
    """The layouts in which a project publishes files: of complete models if the model is one and it has them."""
    published = [one for one in layouts.every() if one.name.startswith(f"{PROJECTS[to]}-")]
    full_models = [layout for layout in published if not layout.is_backbone]
    if ours.model is not None and full_models:
        return full_models
    return [layout for layout in published if layout.is_backbone]


def _in_layout(ours: _Source, layout: CheckpointLayout, allowed: Sequence[str]) -> ForeignExport:
    if not layout.is_backbone and ours.model is None:
        raise _NotRepresentable(f"{layout.name} is for complete models; this is a backbone without heads.")
    state = ours.state(layout)
    try:
        tensors, unknown = translate_back(state, layout)
    except ValueError as error:
        raise _NotRepresentable(f"{layout.name} cannot represent it. {error}", len(state)) from error
    fresh = [name for name in state if missing_because(name, layout) and not _is_initial(name, state[name])]
    lost = [name for name in (*unknown, *fresh) if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    if lost or not tensors:
        names = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise _NotRepresentable(
            f"{layout.name} has no place for {len(lost)} of {len(state)} tensors ({names}). "
            "Allow tensors to be left out by name: weights_allow=[PATTERN, ...].",
            len(lost) or len(state),
        )
    classes = _check_classes(ours, layout, tensors)
    back = translate(tensors, layout)
    left_out = [name for name in state if name not in back.tensors]
    changed = [
        name for name, value in state.items() if name in back.tensors and not torch.equal(back.tensors[name], value)
    ]
    if changed or back.errors or back.unknown:
        wrong = "; ".join([*changed, *back.errors, *back.unknown][:3])
        raise _NotRepresentable(f"{layout.name} does not restore these tensors: {wrong}.", len(changed))
    try:
        sections = describe(tensors, layout)
    except WeightsError as error:
        raise _NotRepresentable(f"{layout.name} does not fit this {ours.built.name!r}. {error}", len(state)) from error
    own, differing = (
        _options_of(ours),
        _other_defaults(layout, sections["backbone"], ours.built.options, ours.backbone),
    )
    own["backbone"] |= {name: here for name, (_, here) in differing.items()}
    of_heads = _other_defaults_of_heads(layout, own, sections)
    sections, options = _as_rebuilt(ours, layout, sections, own, of_heads)
    _check_function(ours, layout, sections, {**state, **back.tensors}, own)
    notes = [
        f"{name} is {json.dumps(value)}, which must be set there: tensors do not determine it."
        for name, value in options
    ]
    mean, std = layout.publishing.mean, layout.publishing.std
    files = {}
    if layout.name.startswith("transformers-"):
        files = transformers_config.files(layout, sections, state, classes, ours.backbone.mean, ours.backbone.std)
        notes = (
            [] if "config.json" in files else [*notes, "No transformers config represents this model: tensors only."]
        )
    elif (ours.backbone.mean, ours.backbone.std) != (mean, std):
        notes.append(f"Normalise images with mean {[*ours.backbone.mean]} and std {[*ours.backbone.std]}.")
    for name, (there, _) in differing.items():
        usage = name in layout.options.runtime
        effect = "for some image sizes" if usage else f"by less than {_TOLERANCE:.1%}"
        notes.append(f"There, {name} is {there}: outputs differ {effect}.")
    notes += [f"There, {name} is {json.dumps(there)}: padded images differ." for name, (there, _) in of_heads.items()]
    for name, why in layout.special.zero_biases.items():
        if name in state:
            notes.append(f"{name} is {'written' if state[name].any() else 'all zeros and is not written'}: {why}.")
    if ours.model is not None and layout.is_backbone:
        notes.append(f"Only the backbone: {layout.name} has no {', '.join(ours.model.heads)}.")
    return ForeignExport(layout, tensors, left_out, notes, files)


def _is_initial(name: str, tensor: Tensor) -> bool:
    """Whether a norm's weight or bias has its initial value, so that it can be left out."""
    return bool((tensor == (1.0 if name.endswith("weight") else 0.0)).all())


def _check_classes(ours: _Source, layout: CheckpointLayout, tensors: Mapping[str, Tensor]) -> tuple[Class, ...]:
    """The classes. Raises WeightsError if the layout would assign other classes to the rows."""
    if layout.is_backbone or layout.classes is None:
        return ours.classes
    names = [one.name for one in ours.classes]
    try:
        read = [one.name for own in layout.classes(tensors, {"classes": names}).values() for one in own]
    except WeightsError as error:
        raise _NotRepresentable(f"{layout.name} assigns other classes to its rows. {error}") from error
    if read != names:
        other = next((pair for pair in zip(names, read, strict=False) if pair[0] != pair[1]), (len(names), len(read)))
        raise _NotRepresentable(
            f"{layout.name} would assign other names to its {len(names)} classes: {other[1]} for {other[0]}. With this "
            "number of classes it assumes a data set's, in that order."
        )
    return ours.classes


def _options_of(ours: _Source) -> dict[str, Any]:
    """The config sections of the model, in which heads are named by task."""
    own: dict[str, Any] = {"backbone": {**ours.built.options}}
    if ours.model is not None and ours.model.sections is not None:
        own["heads"] = {
            str(ours.model.heads[name].task): {"name": head.name, **head.options}
            for name, head in ours.model.sections.heads.items()
        }
    return own


def _other_defaults(
    layout: CheckpointLayout, theirs: Mapping[str, Any], ours: Mapping[str, Any], backbone: nn.Module
) -> dict[str, tuple[Any, Any]]:
    """The project defaults of a layout that a backbone does not follow: by option, their value and ours.

    theirs, ours: the backbone sections. A value that is not in a section is the plugin's default, except a layout's
    runtime options, which are then not known.
    """
    found, parameters = {}, inspect.signature(type(backbone)).parameters
    for name in layout.options.project_defaults:
        if name in parameters and (name in theirs or name not in layout.options.runtime):
            there, here = (section.get(name, parameters[name].default) for section in (theirs, ours))
            if there != here:
                found[name] = there, here
    return found


def _other_defaults_of_heads(
    layout: CheckpointLayout, own: Mapping[str, Any], sections: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The project defaults of a layout that a head does not follow, by full key: their value and ours; None: the
    default.
    """
    names = [name for name in layout.options.project_defaults if "." in name]
    values = {name: (option_of(sections, name), option_of(own, name)) for name in names}
    return {name: (there, here) for name, (there, here) in values.items() if there is not None and there != here}


def _as_rebuilt(
    ours: _Source,
    layout: CheckpointLayout,
    described: Mapping[str, Any],
    own: Mapping[str, Any],
    of_heads: Mapping[str, tuple[Any, Any]],
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The sections of the model that is rebuilt from the export, with our options where tensors do not show them.

    described: the sections as the layout describes them. own: our sections. of_heads: the project defaults that heads
    do not follow. Returns also the options that tensors do not determine and whose value is not the layout's default.
    """
    sections = copy.deepcopy(dict(described))
    theirs = sections["backbone"]
    if ours.built.name != theirs["name"]:
        raise _NotRepresentable(f"{layout.name} describes a {theirs['name']}, not {ours.built.name}.")
    for name, (_, here) in of_heads.items():
        section, key = option_of(sections, name.rpartition(".")[0]), name.rpartition(".")[2]
        section.pop(key)
        section |= {} if here is None else {key: here}
    for key in layout.options.runtime:
        if key in ours.built.options:
            theirs[key] = ours.built.options[key]
        else:
            theirs.pop(key, None)
    unsaved = []
    for name in layout.options.unsaved:
        value = option_of(own, name)
        if value is not None and value != option_of(sections, name):
            unsaved.append((name, value))
            option_of(sections, name.rpartition(".")[0])[name.rpartition(".")[2]] = value
    return sections, unsaved


@torch.no_grad()
def _check_function(
    ours: _Source,
    layout: CheckpointLayout,
    sections: Mapping[str, Any],
    state: dict[str, Tensor],
    own: Mapping[str, Any],
) -> None:
    """Rebuilds the model as the export would be read and compares the outputs of both on a random image.

    sections: those of the rebuilt model. state: the tensors with our keys. own: our options. Raises WeightsError,
    naming the options that differ, if the outputs differ.
    """
    pixels = torch.randn(2, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    try:
        if layout.is_backbone:
            rebuilt = build_backbone(**sections["backbone"]).eval()
            _load(rebuilt, state)
            same = _close(ours.backbone(pixels), rebuilt(pixels))
        else:
            same = _same_model(ours, sections, state, pixels)
    except (RuntimeError, DensevitError) as error:
        raise _NotRepresentable(f"{layout.name} cannot represent this model. {error}") from error
    if not same:
        others = [f"{name} is {value!r}" for name, value in _differing(own, sections)]
        raise _NotRepresentable(
            f"{layout.name} cannot represent what this model computes: {', '.join(others) or 'outputs differ'}."
        )


def _same_model(ours: _Source, sections: Mapping[str, Any], state: dict[str, Tensor], pixels: Tensor) -> bool:
    assert ours.model is not None
    backbone = {**sections["backbone"], "mean": ours.backbone.mean, "std": ours.backbone.std}
    theirs_sections = configs.model_sections({**sections, "backbone": backbone}, ours.name)
    by_task = {str(ours.model.heads[name].task): own for name, own in ours.model.classes.items()}
    classes = {name: by_task.get(task, ()) for name, task in tasks_of(theirs_sections).items()}
    rebuilt = build_from_sections(theirs_sections, classes, pretrained=False).eval()
    _load(rebuilt, state)
    padding = torch.zeros(len(pixels), *pixels.shape[2:], dtype=torch.bool)
    padding[1, 48:] = padding[1, :, 80:] = True
    batch: Any = {"images": pixels * 64 + 128, "padding_mask": padding, "targets": []}
    theirs = rebuilt(batch)
    for name, outputs in ours.model(batch).items():
        other = theirs[str(ours.model.heads[name].task)]
        keys = [key for key in outputs if isinstance(outputs[key], Tensor) and isinstance(other.get(key), Tensor)]
        if not keys or not _close([outputs[key] for key in keys], [other[key] for key in keys]):
            return False
    return True


def _load(rebuilt: nn.Module, state: Mapping[str, Tensor]) -> None:
    found = rebuilt.load_state_dict(state, strict=False)
    other = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.endswith("num_batches_tracked")]
    if other:
        raise WeightsError(f"Reloaded, its tensors would be others: {', '.join(other[:3])}.")


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    return all(bool((x - y).abs().max() <= _TOLERANCE * x.abs().max()) for x, y in zip(ours, theirs, strict=True))


def _differing(own: Mapping[str, Any], sections: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The options in `own` that `sections` lacks or has with another value."""
    found: list[tuple[str, Any]] = []
    for key, value in own.items():
        other = sections.get(key)
        if isinstance(value, Mapping):
            found += _differing(value, other if isinstance(other, Mapping) else {}, f"{path}{key}.")
        elif value != other:
            found.append((f"{path}{key}", value))
    return found
