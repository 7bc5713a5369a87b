"""Joins the heads of several models on one frozen backbone."""

import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densevit import config as configs
from densevit.config import Config, DataSection, InferenceSection, ModelSections, TrainerSection
from densevit.config.data_schema import CHANNELS
from densevit.config.schema_validation import check_head_names
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.sample_resizing import EvaluationTransform, build_evaluation_transform
from densevit.errors import WeightsError, listed
from densevit.interfaces import Size
from densevit.model import DenseModel, backbone_from
from densevit.model.backbone_digest import backbone_digest, backbone_settings
from densevit.model.training_record import TrainingRecord
from densevit.weights import model_file
from densevit.weights.checkpoint_io import read
from densevit.weights.model_file import Description
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.state_dict_loading import load_state

_NO_DERIVATIVES = re.compile(r"cc-by(-nc)?-nd|no[- ]?derivatives")  # in the licence of weights, such as CC-BY-ND
_DIGEST = "backbone_digest"  # the header's entry in a file of heads
_SIZES = (1, 37, 240, 427, 480, 640, 1080, 2160, 4000)  # of images, on which evaluation transforms are compared
_IN_THE_FILE: dict[str, Any] = {"weights": None, "allow_mismatch": (), "freeze": True}  # keys of joined sections
_COMPUTATION = ("precision", "accelerator", "tf32", "channels_last", "compile", "replace_layers")
_DATA_KEYS = ("val_split", "batch_size", "num_workers", "on_error", "image_size", "transforms", *CHANNELS)


class HeadSource(NamedTuple):
    """Heads to join.

    source: their run or file, for messages. model: the model with these heads; its backbone is random if
    `has_backbone` is False, as in a file of `save_heads`. digest: `backbone_digest` of the backbone that the
    heads were trained on.
    """

    source: str
    model: DenseModel
    digest: str
    has_backbone: bool = True


def read_part(source: str | Path, name: str | None = None, trust: bool = False) -> HeadSource:
    """Reads a run, a model file or a file of heads.

    name: another name of its head; of several heads, NAME_HEAD. trust: imports the classes that a file names. Raises
    WeightsError for a file of another project, and for a head that needs more than the features of a frozen backbone.
    """
    state, entries, path = model_file.read(source)
    has_backbone = entries.get("part") != "heads"
    digest, entries = entries.get(_DIGEST, ""), entries if has_backbone else {**entries, "part": ""}
    description = model_file.described(entries, path, trust, model_file.folder_of(source))
    if description.sections.backbone.lora is not None:
        raise WeightsError(
            f"{source}: its backbone was trained with LoRA, so that its features are no longer those of a shared "
            "backbone. Fix: train its heads with backbone.freeze=true in place of backbone.lora."
        )
    if name is not None:
        state, description = _renamed(state, description, name)
    if not has_backbone:
        random = backbone_from(description.sections.backbone, pretrained=False).state_dict()
        state = {**state, **{f"backbone.{key}": value for key, value in random.items()}}
    model = model_file.built(state, description, path)
    for head in (head for head in model.heads if model.heads[head].last_blocks):
        raise WeightsError(
            f"{source}: heads.{head} ({model.plugin_name(head)}) runs the last blocks of the backbone itself, on its "
            "own queries. Fix: leave this model in a file of its own."
        )
    return HeadSource(str(source), model, backbone_digest(model) if has_backbone else digest, has_backbone)


def save_heads(model: DenseModel, path: Path, further: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Writes a model file without the tensors of the backbone, but with their digest. further: more entries of
    the header."""
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
    entries = model_file.entries(model, model.sections)
    model_file.write(state, {**entries, "part": "heads", _DIGEST: backbone_digest(model), **further}, path)


def join(parts: Sequence[HeadSource], image_size: int | Size | None = None, stretch: bool = False) -> DenseModel:
    """Builds the model of all heads on one frozen backbone, in evaluation mode. Each head's predictions stay
    bit-identical, unless `image_size` changes its evaluation transform.

    image_size: the size of the evaluation transform `resize`; None: all parts must have the same evaluation transform.
    stretch: the option of `resize`. The models of the parts get the same backbone module.
    Raises WeightsError for parts of different backbones or transforms, for heads of the same name, and for a licence
    that forbids derived works.
    """
    complete = [part for part in parts if part.has_backbone]
    if not complete:
        raise WeightsError(
            f"{parts[0].source}: contains only heads. Fix: name a run or a file with their backbone too."
        )
    reference = next((part for part in complete if part.model.sections.backbone.freeze is True), complete[0])
    sources: dict[str, str] = {}
    for part in parts:
        check_backbone(part, reference)
        for source in (
            source for source, its in part.model.licences.items() if _NO_DERIVATIVES.search(its.weights.lower())
        ):
            raise WeightsError(
                f"{part.source}: the licence of {source}, {part.model.licences[source].weights}, forbids derived "
                "works, such as a joined model. Fix: leave it out, or train its heads on other weights."
            )
        for head in (head for head in part.model.heads if head in sources):
            raise WeightsError(
                f"{part.source}: {sources[head]} has a head {head!r} too. Fix: name it, NAME={part.source}."
            )
        sources |= dict.fromkeys(part.model.heads, part.source)
        part.model.backbone = reference.model.backbone
    data = _joined_data(parts, image_size, stretch)
    return _joined(parts, reference, data)


def on_backbone(heads: HeadSource, source: str | Path, trust: bool = False) -> DenseModel:
    """The model of a file of heads on the backbone of `source`: a run, a model file or other pretrained weights. Raises
    WeightsError if the heads were trained on another backbone."""
    section = heads.model.sections.backbone.model_copy(update={"weights": str(source)})
    sections = ModelSections(backbone=section, heads={})
    model = build_pretrained(sections, {}, {str(source): read(source, trust=trust)})[0]
    check_backbone(heads, HeadSource(str(source), model, backbone_digest(model)))
    load_state(heads.model.backbone, model.backbone.state_dict(), source)
    heads.model.licences |= model.licences
    return heads.model


def check_backbone(part: HeadSource, other: HeadSource) -> None:
    """Raises WeightsError, with what differs, unless the heads of both parts were trained on the same backbone."""
    if part.digest == other.digest:
        return
    settings, expected = backbone_settings(part.model), backbone_settings(other.model)
    fix = f"Fix: train it with backbone.freeze=true on that backbone: weights={other.source}."
    for key in (key for key in settings | expected if settings.get(key) != expected.get(key)):
        raise WeightsError(
            f"{part.source}: its backbone has the {key} {settings.get(key)}, and that of {other.source} has "
            f"{expected.get(key)}. {fix}"
        )
    if not part.has_backbone:
        raise WeightsError(
            f"{part.source}: its heads were trained on a backbone with other weights (digest {part.digest[:8]}) than "
            f"that of {other.source} ({other.digest[:8]}). {fix}"
        )
    tensors = part.model.backbone.state_dict()
    names = [key for key, value in other.model.backbone.state_dict().items() if not torch.equal(value, tensors[key])]
    verb = "differs" if part.model.sections.backbone.freeze is True else "was trained: it differs"
    raise WeightsError(
        f"{part.source}: its backbone {verb} from that of {other.source} in {len(names)} of {len(tensors)} tensors "
        f"({listed(names, 3)}). {fix}"
    )


def _renamed(state: Mapping[str, Tensor], description: Description, name: str) -> tuple[dict[str, Tensor], Description]:
    """The tensors and the description of a model with another name of its head; of several heads, NAME_HEAD."""
    sections, classes, thresholds, _, reference_data, _ = description
    names = {head: name if len(sections.heads) == 1 else f"{name}_{head}" for head in sections.heads}
    sections = sections.model_copy(update={"heads": {names[head]: x for head, x in sections.heads.items()}})
    check_head_names(sections)
    renamed = {}
    for key, value in state.items():
        group, head, *rest = key.split(".", 2)
        renamed[".".join((group, head if group == "backbone" else names[head], *rest))] = value
    return renamed, description._replace(
        sections=sections,
        classes={names[head]: x for head, x in classes.items()},
        score_thresholds={names[head]: x for head, x in thresholds.items()},
        reference_data={names[head]: x for head, x in reference_data.items()},
    )


def _joined_data(parts: Sequence[HeadSource], image_size: int | Size | None, stretch: bool) -> DataSection | None:
    """The section `data` of a joined model: the parts' data sets, in a `mix` if there are several, and the evaluation
    transform."""
    first = parts[0]
    for part in parts if image_size is None else ():
        if _resizing(part.model.training_data) != _resizing(first.model.training_data):
            raise WeightsError(
                f"{first.source} and {part.source} resize images differently: {_shown(first.model.training_data)}, and "
                f"{_shown(part.model.training_data)}. Fix: choose a size with --image-size."
            )
    sections = {next(iter(part.model.heads)): x for part in parts if (x := part.model.training_data) is not None}
    if not sections:
        return None
    values = next(iter(sections.values())).model_dump(include={*_DATA_KEYS})
    if image_size is not None:
        values |= {"image_size": image_size, "transforms": {"name": "resize", "stretch": stretch}}
    sets: dict[str, dict[str, Any]] = {}
    for name, section in sections.items():
        options = {"name": section.name, **section.options}
        sets |= {} if options in sets.values() else {name: options}
    data = {"name": "mix", "sets": sets} if len(sets) > 1 else next(iter(sets.values()))
    joined: DataSection = configs.section("data", {**values, **data}, "join")
    return joined


def _resizing(section: DataSection | None) -> tuple[Size | None, list[Size]]:
    """What the evaluation transform does: its canvas, and the sizes of resized images."""
    transform = EvaluationTransform(DefaultTransforms(None)) if section is None else build_evaluation_transform(section)
    return transform.canvas, [transform.size_of(*size) for size in product(_SIZES, _SIZES)]


def _shown(section: DataSection | None) -> str:
    """The keys of the evaluation transform."""
    keys = {} if section is None else section.model_dump(include={"image_size", "transforms"})
    return ", ".join(f"{key} {value}" for key, value in keys.items()) or "no resizing"


def _joined(parts: Sequence[HeadSource], reference: HeadSource, data: DataSection | None) -> DenseModel:
    state = {f"backbone.{key}": value for key, value in reference.model.backbone.state_dict().items()}
    heads: dict[str, dict[str, Any]] = {}
    joined = Description(reference.model.sections, {}, {}, {}, {}, TrainingRecord())
    computation = _computation(reference.model.sections)
    for part in parts:
        model, sections = part.model, part.model.sections
        for key, value in _computation(sections).items() - computation.items():
            warnings.warn(
                f"{part.source}: trainer.{key}={str(value).lower()} is not kept: outputs change by rounding.",
                stacklevel=3,
            )
        for name, head in sections.heads.items():
            options = None if model.inference.get(name) == InferenceSection() else model.inference.get(name)
            heads[name] = head.model_copy(update={**_IN_THE_FILE, "inference": options}).model_dump()
        state |= {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
        joined = joined._replace(
            classes={**joined.classes, **model.classes},
            score_thresholds=joined.score_thresholds | model.score_thresholds,
            licences=joined.licences | model.licences,
            reference_data=joined.reference_data
            | dict.fromkeys(model.heads, model.training_data)
            | model.reference_data,
        )
    section = reference.model.sections.backbone
    backbone = section.model_copy(update={**section.unloaded_options, **_IN_THE_FILE, "cache": None}).model_dump()
    values = {"backbone": backbone, "heads": heads, "data": None if data is None else data.model_dump()}
    sections = (
        configs.model_sections(values, "join")
        if data is None
        else configs.from_file({**values, "trainer": {"max_epochs": 1, **computation}}, "join")
    )
    return model_file.built(state, joined._replace(sections=sections), "join")


def _computation(sections: ModelSections) -> dict[str, Any]:
    """The keys of the section `trainer` that an evaluation depends on; the defaults for a model without a config."""
    trainer = sections.trainer if isinstance(sections, Config) else TrainerSection(max_epochs=1)
    return {key: getattr(trainer, key) for key in _COMPUTATION}
