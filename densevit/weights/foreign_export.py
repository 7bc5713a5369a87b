"""Writes what we trained in another project's layout, so that it loads there and computes the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from densevit import config as configs
from densevit.config import BackboneSection
from densevit.errors import DensevitError, WeightsError, did_you_mean
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD, Backbone, Class
from densevit.model import DenseModel, build_model, create_backbone
from densevit.weights import layouts, model_file, transformers_config
from densevit.weights.atomic_io import atomic_file, atomic_folder
from densevit.weights.key_mapping import Layout, has_marks, translate, translate_back
from densevit.weights.state import read_safetensors
from densevit.weights.variants import STANDARDIZATION

PROJECTS = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

_RESIZING = "position_resizing"
_USE = ("features", "feature_norm", "readout", _RESIZING)  # a ViT's options that say how it is used, not what it is
_CLOSE = 1e-3  # of the largest value: two ways to compute one thing


@dataclass
class Written:
    """What was written, and as what. notes: what such a file cannot say, a sentence each."""

    layout: Layout
    tensors: dict[str, Tensor]
    left_out: list[str]
    notes: list[str]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """`out` is a file, or for transformers' layouts a folder as its `save_pretrained` leaves it."""
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
            save_file(tensors, file, metadata={"format": "pt"})
        else:  # facebookresearch/detr reads what it saves, with the model under "model"
            torch.save({"model": tensors} if self.layout.name == "detr" else tensors, file)


@dataclass
class _Source:
    """What is written. model: None where it is a backbone alone."""

    name: str
    backbone: Backbone
    section: BackboneSection
    model: DenseModel | None

    @property
    def classes(self) -> tuple[Class, ...]:
        return (
            next(iter(self.model.classes.values())) if self.model is not None and len(self.model.classes) == 1 else ()
        )

    def state(self, layout: Layout) -> dict[str, Tensor]:
        """By our names, in which a head goes by its task."""
        if layout.part == "backbone" or self.model is None:
            return {key: value.detach() for key, value in self.backbone.state_dict().items()}
        tasks = {name: str(head.task) for name, head in self.model.heads.items()}
        if len(set(tasks.values())) < len(tasks):
            raise _Unsaid(f"{layout.name} has one head, and this model {', '.join(tasks)}.")
        renamed = {}
        for key, value in self.model.state_dict().items():
            kind, _, rest = key.partition(".")
            name, dot, inner = rest.partition(".")
            renamed[f"{kind}.{tasks[name]}{dot}{inner}" if kind in ("heads", "necks") else key] = value.detach()
        return renamed


def written(source: str | Path, to: str, allowed: Sequence[str] = ()) -> Written:
    """A run's weights in a layout, checked: read back they are ours to the last bit, and compute the same.

    source: a run's folder, a model file, or a converted backbone. to: a layout's name, or "hf", "timm", "torchvision":
    the layout there that has this model. allowed: patterns of names that may be left out.
    Raises WeightsError, which names what the layout has no place for.
    """
    ours = _source(source)
    candidates = _candidates(to, ours)
    failed: list[_Unsaid] = []
    found: list[Written] = []
    for layout in candidates:
        try:
            found.append(_in_layout(ours, layout, allowed))
        except _Unsaid as error:
            failed.append(error)
    if found:
        return max(found, key=lambda one: len(one.layout.marks) if has_marks(one.tensors, one.layout) else 0)
    whole = ours.model is not None and all(layout.part == "model" for layout in candidates)
    alone = " For the backbone alone: --to timm, --to torchvision, or a backbone's layout." if whole else ""
    nearest = min(failed, key=lambda error: error.distance)
    raise WeightsError(f"{source} cannot be written as {to}: {nearest}{alone}")


class _Unsaid(WeightsError):  # noqa: N818  # not how it is told
    """What a layout cannot say. distance: how many tensors it has no place for; 0 where only what they do is other."""

    def __init__(self, message: str, distance: int = 0) -> None:
        super().__init__(message)
        self.distance = distance


def _source(source: str | Path) -> _Source:
    path = Path(source).expanduser()
    file = path / "model.safetensors" if path.is_dir() else path
    entries = read_safetensors(file)[1] if file.is_file() and file.suffix == ".safetensors" else {}
    if entries.get("part") == "backbone":
        return _Source(str(source), *model_file.load_backbone(source), None)
    model = model_file.load(source)
    assert model.config is not None
    return _Source(str(source), model.backbone, model.config.backbone, model)


def _candidates(to: str, ours: _Source) -> list[Layout]:
    """The layouts that `to` may mean; of a project those in whose names its files are."""
    if to in layouts.names():
        return [layouts.find(to)]
    if to not in PROJECTS:
        raise WeightsError(f"--to {to}: there is no such layout.{did_you_mean(to, [*PROJECTS, *layouts.names()])}")
    names = [name for name in layouts.names() if name.startswith(f"{PROJECTS[to]}-")]
    known = [layouts.find(name) for name in names if not name.endswith(("-v5", "-classifier"))]
    whole = [layout for layout in known if layout.part == "model"]
    if ours.model is not None and whole:
        return whole
    return [layout for layout in known if layout.part == "backbone"]


def _in_layout(ours: _Source, layout: Layout, allowed: Sequence[str]) -> Written:
    if layout.part == "model" and ours.model is None:
        raise _Unsaid(f"{layout.name} is of whole models, and this is a backbone alone.")
    state = ours.state(layout)
    try:
        tensors, unknown = translate_back(state, layout)
    except ValueError as error:
        raise _Unsaid(f"{layout.name} has no place for it. {error}", len(state)) from error
    fresh = [name for name in state if layout.fresh_because(name) and not _as_built(name, state[name])]
    lost = [name for name in (*unknown, *fresh) if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    if lost or not tensors:
        names = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise _Unsaid(
            f"{layout.name} has no place for {len(lost)} of {len(state)} tensors ({names}). "
            "What may be left out is allowed by name: weights_allow=[PATTERN, ...].",
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
        raise _Unsaid(f"{layout.name} does not give these back as they are: {wrong}.", len(changed))
    try:
        sections = layout.describe(tensors)
    except WeightsError as error:
        raise _Unsaid(f"{layout.name} is not of a {ours.section.name!r} like this. {error}", len(state)) from error
    resizing, standardization = (sections["backbone"].get(key) for key in (_RESIZING, STANDARDIZATION))
    options = _check_function(ours, layout, sections, {**state, **back.tensors})
    notes = [f"{name} is {json.dumps(value)}, which is to be set there: no tensor shows it." for name, value in options]
    mean, std = layout.mean or IMAGENET_MEAN, layout.std or IMAGENET_STD
    files = {}
    if layout.name.startswith("transformers-"):
        files = transformers_config.files(layout.name, sections, state, classes, ours.backbone.mean, ours.backbone.std)
        notes = [] if "config.json" in files else [*notes, "No transformers config says this model: tensors alone."]
    elif (ours.backbone.mean, ours.backbone.std) != (mean, std):
        notes.append(f"Pictures are to be normalised by mean {[*ours.backbone.mean]} and std {[*ours.backbone.std]}.")
    if resizing is not None and resizing != ours.section.options.get(_RESIZING, "antialiased"):
        notes.append(f"There, positions come to pictures of other sizes in another way ({resizing}).")
    if (standardization or "variance") != ours.section.options.get(STANDARDIZATION, "variance"):
        notes.append(
            f"There, {STANDARDIZATION} is {standardization or 'variance'}: outputs differ by less than {_CLOSE:.1%}."
        )
    for name, why in layout.zero_biases.items():
        if name in state:
            notes.append(f"{name} is {'written' if state[name].any() else 'all zeros and is not written'}: {why}.")
    if ours.model is not None and layout.part == "backbone":
        notes.append(f"The backbone alone: {layout.name} has no {', '.join(ours.model.heads)}.")
    return Written(layout, tensors, left_out, notes, files)


def _as_built(name: str, tensor: Tensor) -> bool:
    """Whether a norm's weight or bias has learned nothing, so that nothing is lost without it."""
    return bool((tensor == (1.0 if name.endswith("weight") else 0.0)).all())


def _check_classes(ours: _Source, layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[Class, ...]:
    """The classes. Raises WeightsError where the rows would be read as others."""
    if layout.part == "backbone" or layout.classes is None:
        return ours.classes
    names = [one.name for one in ours.classes]
    try:
        read = [one.name for own in layout.classes(tensors, {"classes": names}).values() for one in own]
    except WeightsError as error:
        raise _Unsaid(f"{layout.name} takes its rows for other classes. {error}") from error
    if read != names:
        other = next((pair for pair in zip(names, read, strict=False) if pair[0] != pair[1]), (len(names), len(read)))
        raise _Unsaid(
            f"{layout.name} would take its {len(names)} classes for others: {other[0]} for {other[1]}. There so many "
            "are a data set's of its own, in that one's order."
        )
    return ours.classes


@torch.no_grad()
def _check_function(
    ours: _Source, layout: Layout, sections: dict[str, Any], state: dict[str, Tensor]
) -> list[tuple[str, Any]]:
    """Builds what the file would be read as, and looks at a picture with both. state: in our names.

    sections: as the layout describes it; they become those of what is compared. Returns the options that no tensor
    shows and that are not as they would be taken. Raises WeightsError, naming the options that are others, where the
    two see different things.
    """
    own = {"backbone": {**ours.section.options}}
    if STANDARDIZATION in sections["backbone"]:
        own["backbone"].setdefault(STANDARDIZATION, "variance")
    if ours.model is not None and ours.model.config is not None:
        own["heads"] = {
            str(ours.model.heads[name].task): {"name": section.name, **section.options}
            for name, section in ours.model.config.heads.items()
        }
    if ours.section.name != sections["backbone"]["name"]:
        raise _Unsaid(f"{layout.name} would be read as {sections['backbone']['name']}, not {ours.section.name}.")
    theirs = sections["backbone"]
    for key in _USE:
        if key in ours.section.options:
            theirs[key] = ours.section.options[key]
        else:
            theirs.pop(key, None)
    unrecorded = []
    for name in layout.unrecorded:
        value = _at(own, name)
        if value is not None and value != _at(sections, name):
            unrecorded.append((name, value))
            _at(sections, name.rpartition(".")[0])[name.rpartition(".")[2]] = value
    pixels = torch.randn(2, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    try:
        if layout.part == "backbone":
            options = {key: value for key, value in theirs.items() if key != "name"}
            twin = create_backbone(theirs["name"], **options).eval()
            _fill(twin, state)
            same = _alike(ours.backbone(pixels), twin(pixels))
        else:
            same = _same_model(ours, sections, state, pixels)
    except (RuntimeError, DensevitError) as error:
        raise _Unsaid(f"{layout.name} cannot say this model. {error}") from error
    if not same:
        others = [f"{name} is {value!r}" for name, value in _differing(own, sections)]
        raise _Unsaid(f"{layout.name} cannot say what this computes: {', '.join(others) or 'it differs'}.")
    return unrecorded


def _same_model(ours: _Source, sections: dict[str, Any], state: dict[str, Tensor], pixels: Tensor) -> bool:
    assert ours.model is not None and ours.model.config is not None
    config = ours.model.config.model_dump()
    backbone = {**sections["backbone"], "mean": ours.backbone.mean, "std": ours.backbone.std}
    values = {**sections, "backbone": backbone, "data": config["data"], "trainer": config["trainer"]}
    by_task = {str(ours.model.heads[name].task): own for name, own in ours.model.classes.items()}
    twin = build_model(configs.from_mapping(values, ours.name), by_task).eval()
    _fill(twin, state)
    padding = torch.zeros(len(pixels), *pixels.shape[2:], dtype=torch.bool)
    padding[1, 48:] = padding[1, :, 80:] = True
    batch: Any = {"images": pixels * 64 + 128, "padding_mask": padding, "targets": []}
    theirs = twin(batch)
    for name, outputs in ours.model(batch).items():
        other = theirs[str(ours.model.heads[name].task)]
        keys = [key for key in outputs if isinstance(outputs[key], Tensor) and isinstance(other.get(key), Tensor)]
        if not keys or not _alike([outputs[key] for key in keys], [other[key] for key in keys]):
            return False
    return True


def _fill(twin: nn.Module, state: Mapping[str, Tensor]) -> None:
    found = twin.load_state_dict(state, strict=False)
    other = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.endswith("num_batches_tracked")]
    if other:
        raise WeightsError(f"Read back, it would have other tensors: {', '.join(other[:3])}.")


def _alike(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    return all(bool((x - y).abs().max() <= _CLOSE * x.abs().max()) for x, y in zip(ours, theirs, strict=True))


def _at(sections: Mapping[str, Any], name: str) -> Any:
    value: Any = sections
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _differing(own: Mapping[str, Any], sections: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The options given to ours that are not those of the other."""
    found: list[tuple[str, Any]] = []
    for key, value in own.items():
        other = sections.get(key)
        if isinstance(value, Mapping):
            found += _differing(value, other if isinstance(other, Mapping) else {}, f"{path}{key}.")
        elif value != other:
            found.append((f"{path}{key}", value))
    return found
