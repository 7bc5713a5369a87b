"""Joins the heads of several models on one frozen backbone."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from densevit import config as configs
from densevit.config import BackboneSection, DataSection, HeadSection, InferenceSection
from densevit.config.data_schema import CHANNELS
from densevit.data.transforms.sample_resizing import build_evaluation_transform
from densevit.errors import WeightsError, listed
from densevit.interfaces import Class, Size
from densevit.model import DenseModel, backbone_from, build_from_sections, inference_by_head
from densevit.model.fingerprint import backbone_digest, backbone_settings
from densevit.weights import licences, model_file
from densevit.weights.checkpoint_io import read
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.state_dict_loading import load_state

_SIZES = (1, 37, 240, 427, 480, 640, 1080, 2160, 4000)  # of images, on which evaluation transforms are compared
_DATA_KEYS = ("split", "batch_size", "num_workers", "image_size", "transforms", *CHANNELS)


class Part(NamedTuple):
    """Heads that are joined.

    source: their file or run, for messages. model: the model with these heads. names: the new name of each head.
    digest: `backbone_digest` of the backbone that they were trained on. has_backbone: False for a file of
    `model_file.save_heads`, whose model has a random backbone.
    """

    source: str
    model: DenseModel
    names: Mapping[str, str]
    digest: str
    has_backbone: bool = True

    @property
    def data(self) -> DataSection | None:
        """The section `data` of the heads' training; None if unknown."""
        return self.model.training_data


def read_part(source: str | Path, name: str | None = None, trust: bool = False) -> Part:
    """Reads a run, a model file or a file of heads.

    name: the new name of its head, or of several heads the prefix NAME_; None: heads keep their names. trust: the
    parameter of `model_file.load`. Raises WeightsError for files of other projects, and for heads that depend on more
    than the features of a frozen backbone.
    """
    state, entries, path = model_file.read(source)
    digest, folder = entries.get(model_file.DIGEST, ""), model_file.folder_of(source)
    has_backbone = entries.get("part") != "heads"
    if not has_backbone:
        entries = {**entries, "part": ""}
        sections = model_file.described(entries, path, trust, folder).sections
        random = backbone_from(sections.backbone, pretrained=False).state_dict()
        state = {**state, **{f"backbone.{key}": value for key, value in random.items()}}
    model = model_file.from_state(state, entries, path, trust, folder)
    assert model.sections is not None
    if model.sections.backbone.lora is not None:
        raise WeightsError(
            f"{source}: its backbone was trained with LoRA, and other heads would need it without the adapters. Fix: "
            "train its heads with backbone.freeze=true in place of backbone.lora."
        )
    for head in model.heads:
        if model.heads[head].last_blocks:
            raise WeightsError(
                f"{source}: heads.{head} ({model.plugin_name(head)}) runs the last blocks of the backbone itself, so "
                "they are part of the head. Fix: leave this model in its own file."
            )
    names = {
        head: head if name is None else name if len(model.heads) == 1 else f"{name}_{head}" for head in model.heads
    }
    return Part(str(source), model, names, backbone_digest(model) if has_backbone else digest, has_backbone)


def join(parts: Sequence[Part], image_size: int | Size | None = None, stretch: bool = False) -> DenseModel:
    """Builds the model of all heads on one frozen backbone, in evaluation mode. Each head predicts as alone, bit for
    bit, unless `image_size` changes the evaluation transform.

    image_size: the evaluation transform becomes `resize` to this size. stretch: the option of `resize`. None: all parts
    must have the same evaluation transform.
    Raises WeightsError for parts of several backbones or transforms, for equal names, and for a licence that forbids
    derived works.
    """
    complete = [part for part in parts if part.has_backbone]
    if not complete:
        raise WeightsError(
            f"{parts[0].source}: contains only heads. Fix: name a run or model file with their backbone too."
        )
    backbone = next((part for part in complete if _is_frozen(part)), complete[0])
    sources: dict[str, str] = {}
    for part in parts:
        check_backbone(part, backbone)
        _check_licences(part)
        for name in part.names.values():
            if name in sources:
                raise WeightsError(
                    f"{part.source}: its head {name!r} has the name of a head of {sources[name]}. Fix: NAME="
                    f"{part.source} gives it another name."
                )
            sources[name] = part.source
    data = _joined_data(parts, image_size, stretch)
    return _built(parts, backbone.model, data)


def on_backbone(heads: Part, source: str | Path, trust: bool = False) -> DenseModel:
    """The model of a file of heads on the backbone of `source`: a run, a model file or other pretrained weights. Raises
    WeightsError if the heads were trained on another backbone."""
    sections = heads.model.sections
    assert sections is not None
    section = _frozen(sections.backbone).model_copy(update={"weights": str(source)})
    alone = sections.model_copy(update={"backbone": section, "heads": {}, "weights": None})
    built = build_pretrained(alone, {}, {str(source): read(source, trust=trust)})[0]
    check_backbone(heads, Part(str(source), built, {}, backbone_digest(built)))
    load_state(heads.model.backbone, built.backbone.state_dict(), str(source))
    heads.model.licences |= built.licences
    return heads.model


def check_backbone(part: Part, other: Part) -> None:
    """Raises WeightsError, with what differs, unless the heads of both parts were trained on the same backbone."""
    if part.digest == other.digest:
        return
    settings, expected = backbone_settings(part.model), backbone_settings(other.model)
    fix = f"Fix: train it with backbone.freeze=true on the same backbone, as with weights={other.source}."
    for key in (key for key in {**settings, **expected} if settings.get(key) != expected.get(key)):
        raise WeightsError(
            f"{part.source}: its backbone has the {key} {settings.get(key)}, and that of {other.source} has "
            f"{expected.get(key)}. {fix}"
        )
    if not part.has_backbone:
        raise WeightsError(
            f"{part.source}: its heads were trained on other weights of the backbone (digest {part.digest[:8]}) than "
            f"those of {other.source} ({other.digest[:8]}). {fix}"
        )
    tensors = part.model.backbone.state_dict()
    names = [key for key, x in other.model.backbone.state_dict().items() if not torch.equal(x, tensors[key])]
    trained = "" if _is_frozen(part) else "was trained: it "
    raise WeightsError(
        f"{part.source}: its backbone {trained}differs from that of {other.source} in {len(names)} of {len(tensors)} "
        f"tensors ({listed(names, 3)}). {fix}"
    )


def _is_frozen(part: Part) -> bool:
    assert part.model.sections is not None
    return part.model.sections.backbone.freeze is True


def _check_licences(part: Part) -> None:
    for source, licence in part.model.licences.items():
        if licences.forbids_derivatives(licence):
            raise WeightsError(
                f"{part.source}: the licence of {source}, {licence}, forbids derived works, which a joined model is. "
                "Fix: leave it out, or train its heads on other weights."
            )


def _resizing(section: DataSection | None) -> tuple[Size | None, list[Size]]:
    """What an evaluation transform does: its canvas, and the size of resized images of several sizes."""
    sizes = [*product(_SIZES, _SIZES)]
    if section is None:
        return None, sizes
    transform = build_evaluation_transform(section)
    return transform.canvas, [transform.size_of(*size) for size in sizes]


def _joined_data(parts: Sequence[Part], image_size: int | Size | None, stretch: bool) -> DataSection | None:
    """The section `data` of a joined model: the parts' data sets, in a `mix` if there are several, and the evaluation
    transform."""
    first, *others = parts
    for part in others if image_size is None else ():
        if _resizing(part.data) != _resizing(first.data):
            raise WeightsError(
                f"{first.source} and {part.source} resize images differently: {_transform(first.data)}, and "
                f"{_transform(part.data)}. Fix: train both with one transform, or choose one with --image-size."
            )
    sets: dict[str, dict[str, Any]] = {}
    for part in parts:
        options = {} if part.data is None else {"name": part.data.name, **part.data.options}
        if options and options not in sets.values():
            sets[next(iter(part.names.values()))] = options
    section = next((part.data for part in parts if part.data is not None), None)
    if section is None:
        return None
    values = section.model_dump(include={*_DATA_KEYS})
    if image_size is not None:
        values |= {"image_size": image_size, "transforms": {"name": "resize", **({"stretch": True} if stretch else {})}}
    data = next(iter(sets.values())) if len(sets) == 1 else {"name": "mix", "sets": sets}
    joined: DataSection = configs.section("data", {**values, **data}, "join")
    return joined


def _transform(section: DataSection | None) -> str:
    """An evaluation transform as config keys."""
    if section is None:
        return "not at all"
    options = "".join(f", {key}: {value}" for key, value in section.transforms.options.items())
    size = [*section.image_size] if isinstance(section.image_size, tuple) else section.image_size
    return f"data.image_size={size} data.transforms={{name: {section.transforms.name}{options}}}"


def _built(parts: Sequence[Part], reference: DenseModel, data: DataSection | None) -> DenseModel:
    assert reference.sections is not None
    state = {f"backbone.{key}": value for key, value in reference.backbone.state_dict().items()}
    heads, classes = dict[str, Any](), dict[str, tuple[Class, ...]]()
    thresholds, weight_licences = dict[str, float](), dict[str, str]()
    for part in parts:
        model, names = part.model, part.names
        assert model.sections is not None
        if not model.sections.replace_layers:
            warnings.warn(
                f"{part.source}: trainer.replace_layers=false is not kept: outputs are equal up to rounding.",
                stacklevel=3,
            )
        inference = inference_by_head(model, model.sections.inference, model.sections.inference_by_head)
        for name, section in model.sections.heads.items():
            heads[names[name]] = _frozen_head(section, inference.get(name)).model_dump()
            classes[names[name]] = model.classes[name]
        thresholds |= {names[name]: score for name, score in model.score_thresholds.items()}
        weight_licences |= model.licences
        for key, value in model.state_dict().items():
            group, _, rest = key.partition(".")
            name, dot, inner = rest.partition(".")
            if group != "backbone":
                state[f"{group}.{names[name]}{dot}{inner}"] = value
    backbone = _frozen(reference.sections.backbone).model_dump()
    values = {"backbone": backbone, "heads": heads, "data": None if data is None else data.model_dump()}
    joined = build_from_sections(configs.model_sections(values, "join"), classes, pretrained=False)
    load_state(joined, state, "the joined model")
    joined.licences, joined.score_thresholds = weight_licences, thresholds
    return joined.eval()


def _frozen(section: BackboneSection) -> BackboneSection:
    """The section of a frozen backbone whose weights are in the file."""
    update = {"weights": None, "weights_allow": (), "freeze": True, "cache": None}
    return section.model_copy(update={**section.unloaded_options, **update})


def _frozen_head(section: HeadSection, inference: InferenceSection | None) -> HeadSection:
    """The section of a frozen head whose weights are in the file, with its inference options unless they are the
    defaults."""
    update = {"weights": None, "weights_allow": (), "freeze": True}
    return section.model_copy(update={**update, "inference": None if inference == InferenceSection() else inference})
