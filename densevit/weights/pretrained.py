"""Loads the pretrained weights of a config: of the model, its backbone and its heads."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from densevit.config import BackboneSection, ModelSections
from densevit.config import yaml_io as yaml
from densevit.config.initial_weights import note_replaced
from densevit.config.sources import Key
from densevit.config.values import with_value
from densevit.errors import WeightsError
from densevit.model import DenseModel
from densevit.model.stem_channels import adapted_state, has_new_filters, set_adapted_stem
from densevit.weights import licences
from densevit.weights.checkpoint_io import Checkpoint, read
from densevit.weights.class_rows import channel_tensors, match_classes
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint, translated_for
from densevit.weights.head_protocols import SupportsReplacedTensors, SupportsStartsFrom
from densevit.weights.hub import is_published
from densevit.weights.layout_options import PartWeights, set_layout_options
from densevit.weights.state import part
from densevit.weights.state_dict_loading import Adapted, Fit, fit


def read_files(sections: ModelSections) -> dict[str, Checkpoint]:
    """Reads the files of weights that the sections name, by source, before the model is built. Raises WeightsError.

    Published weights are left out: the model's errors are found before they are downloaded.
    """
    return {source: read(source) for source in _sources_of(sections) if not is_published(source)}


def _sources_of(sections: ModelSections) -> dict[str, str]:
    """The weights that the sections name, each once, and the first key that names them."""
    named = {"weights": sections.weights, "backbone.weights": sections.backbone.source}
    named |= {f"heads.{name}.weights": section.weights for name, section in sections.heads.items()}
    keys: dict[str, str] = {}
    for key, source in named.items():
        if source:
            keys.setdefault(source, key)
    return keys


def load_pretrained(
    model: DenseModel, sections: ModelSections, checkpoints: Mapping[str, Checkpoint] = MappingProxyType({})
) -> list[Fit]:
    """Loads the weights that the sections name: for the whole model, the backbone, and each head with its neck.

    checkpoints: those that are read already, by source, as by `read_files`.
    A head that the weights lack keeps its initial values, and a head that the model lacks is left out. If the classes
    of a head differ, the rows of known classes are loaded, by name (`class_rows`). A head of another project is loaded
    into the head of the same task, whatever its name, or else into one that starts from that task
    (`SupportsStartsFrom`). A head's learned loss weight is loaded if the checkpoint has one. Of tensors that the
    weights of the whole model and of a part both have, the whole model's are loaded.
    The mean and std of the checkpoint are set in the model and its sections, unless these state others, and so are the
    options with which another project's code computes (`layout_options`). For these, the model's parts are built again.
    First layers with filters for new channels are named in its sections and trained, see `set_adapted_stem`.
    Everything is checked before anything is written. Raises WeightsError if something does not fit.
    Returns one report for each source.
    """
    translated: dict[str, TranslatedCheckpoint] = {}
    fits: list[Fit] = []
    keys = _sources_of(sections)

    def checkpoint_of(source: str) -> TranslatedCheckpoint:
        if source not in translated:
            instead = f"{keys[source]}=FILE, or a folder, with what was downloaded elsewhere"
            translated[source] = translated_for(checkpoints.get(source) or read(source, instead), model)
        return translated[source]

    notes = set_layout_options(model, sections, _part_weights(model, sections, checkpoint_of))
    if sections.weights is not None:
        fits.append(fit_model(model, checkpoint_of(sections.weights), sections.weights_allow))
    if sections.backbone.source is not None:
        fits.append(fit_backbone(model, checkpoint_of(sections.backbone.source), sections.backbone.weights_allow))
    for name, section in sections.heads.items():
        if section.weights is not None:
            fits += _fit_head(model, name, checkpoint_of(section.weights), section.weights_allow)
    fits = _without_replaced(model, sections, fits)
    of_backbone = [found for found in fits if found.module in (model, model.backbone)][-1:]
    for found in reversed(fits):
        found.write()
    for key, lines in notes.items():
        _fit_of(fits, model, key).notes += lines
    for source in _sources_of(sections):
        model.licences |= translated[source].licences
    for found in of_backbone:
        source = cast(str, sections.weights if sections.backbone.source is None else sections.backbone.source)
        found.notes += _set_normalisation(model, sections.backbone, checkpoint_of(source))
    for found in fits:
        if found.stem:
            set_adapted_stem(model, found.stem)
            found.notes.append(f"Trained like heads, for new channels: backbone.{', backbone.'.join(found.stem)}.")
    return fits


def _part_weights(
    model: DenseModel, sections: ModelSections, checkpoint_of: Callable[[str], TranslatedCheckpoint]
) -> list[PartWeights]:
    """The weights of the backbone and of each head and neck: of the whole model, or else of the part."""

    def source_of(own: str | None, head: str | None) -> str | None:
        if sections.weights is None or own is None:
            return own or sections.weights
        whole = checkpoint_of(sections.weights)
        if head is not None and whole.layout is not None:
            head = _source_task(model, head, whole)
        prefix = "backbone." if head is None else f"heads.{head}."
        return sections.weights if any(key.startswith(prefix) for key in whole.tensors) else own

    parts = []
    if (source := source_of(sections.backbone.source, None)) is not None:
        complete = source in (sections.weights, *(head.weights for head in sections.heads.values()))
        parts.append(PartWeights("backbone", "backbone", checkpoint_of(source), complete))
    for name, section in sections.heads.items():
        if (source := source_of(section.weights, name)) is not None:
            checkpoint = checkpoint_of(source)
            theirs = f"heads.{_source_task(model, name, checkpoint)}"
            adapted = bool(_replaced(model, name, checkpoint)[0])
            parts.append(PartWeights(f"heads.{name}", theirs, checkpoint, adapted=adapted))
            parts.append(PartWeights(f"heads.{name}.neck", f"{theirs}.neck", checkpoint))
    return parts


def _fit_of(fits: Sequence[Fit], model: DenseModel, key: str) -> Fit:
    """The report of the weights of a part, from its own source or the model's. key: the key of `PartWeights`."""
    path = key if not key.endswith(".neck") else f"necks.{key.split('.')[1]}"
    modules = [model.get_submodule(path), model]
    return next(found for module in modules for found in fits if found.module is module)


def _without_replaced(model: DenseModel, sections: ModelSections, fits: Sequence[Fit]) -> list[Fit]:
    """The reports without parts of which the whole model's weights have all tensors; their keys are set to null.

    Raises ConfigError if the user typed both keys.
    """
    whole = next((found for found in fits if found.module is model), None)
    if whole is None:
        return [*fits]
    names, parts = {module: name for name, module in model.named_modules()}, dict[Key, list[Fit]]()
    for found in fits:
        if found is not whole:
            parts.setdefault(_key_of(found), []).append(found)
    remaining = [whole]
    for key, of_part in parts.items():
        tensors = [f"{names[found.module]}.{name}" for found in of_part for name in found.tensors]
        count = len(whole.tensors.keys() & set(tensors))
        if count:
            note_replaced(sections, key, f"{count} of {len(tensors)} tensors")
        if count and count == len(tensors):
            if model.sections is not None:
                model.sections = with_value(model.sections, key, None)
        else:
            remaining += of_part
    return remaining


def _key_of(part: Fit) -> Key:
    """The config's key that names the weights of a part of the model: ("heads", "depth", "weights")."""
    return tuple(re.split("[:,]", part.source)[0].split("."))


def fit_model(model: DenseModel, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]) -> Fit:
    """Matches a checkpoint with the whole model. Nothing is written."""
    where = f"weights: {checkpoint.source}"
    if checkpoint.is_backbone:
        raise WeightsError(f"{where} contains only a backbone. Name it as backbone.weights={checkpoint.source}.")
    state = _by_our_heads(model, checkpoint, where)
    own = model.state_dict()
    heads = {name.split(".")[1] for name in state if name.startswith("heads.")}
    excluded = checkpoint.missing(own)
    left_out = dict(checkpoint.left_out)
    if heads & set(model.heads):
        for name in own:
            if _head_of(name) not in (None, *heads):
                excluded[name] = f"the weights have no head {_head_of(name)!r}"
            elif name.startswith("log_variances.") and name not in state:
                excluded[name] = "that head's loss weight was not learned"
        for name in state:
            if _head_of(name) not in (None, *model.heads):
                left_out[name] = f"this model has no head {_head_of(name)!r}"
            elif name.startswith("log_variances.") and name not in own:
                left_out[name] = "the head's loss weight is not learned here"
    notes, adapted = list[str](), list[Adapted]()
    for name in sorted(heads & set(model.heads)):
        classes = match_classes(model, name, part(state, f"heads.{name}."), _class_names(model, name, checkpoint))
        other = classes.excluded | _lacking(model, name, checkpoint)
        excluded |= {f"heads.{name}.{key}": why for key, why in other.items()}
        state |= {f"heads.{name}.{key}": tensor for key, tensor in classes.tensors.items()}
        adapted += [one._replace(name=f"heads.{name}.{one.name}") for one in classes.adapted]
        replaced, why = _replaced(model, name, checkpoint)
        state |= {f"heads.{name}.{key}": tensor for key, tensor in replaced.items()}
        notes += classes.notes + why
    state = {name: tensor for name, tensor in state.items() if name not in left_out}
    state, stems, new = _for_our_channels(model, checkpoint, state, "backbone.")
    with _describing(checkpoint):
        found = fit(model, state | _empty(checkpoint.unknown), where, allowed, excluded)
    found.left_out |= left_out
    found.adapted += adapted + stems
    found.stem = new
    found.zeros = {name: why for name, why in checkpoint.zeros.items() if name in found.tensors}
    found.notes += _layout_notes(checkpoint) + notes
    return found


def fit_backbone(model: DenseModel, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]) -> Fit:
    """Matches a checkpoint with the model's backbone, by the backbone's keys. Nothing is written."""
    prefix = "" if checkpoint.is_backbone else "backbone."
    state = part(checkpoint.tensors, "backbone.") | _empty(checkpoint.unknown if checkpoint.is_backbone else ())
    state, stems, new = _for_our_channels(model, checkpoint, state)
    excluded = checkpoint.missing(model.backbone.state_dict(), prefix)
    with _describing(checkpoint):
        found = fit(model.backbone, state, f"backbone.weights: {checkpoint.source}", allowed, excluded)
    found.adapted += stems
    found.stem = new
    found.left_out |= checkpoint.left_out
    zeros = {name.removeprefix(prefix): why for name, why in checkpoint.zeros.items()}
    found.zeros = {name: why for name, why in zeros.items() if name in found.tensors}
    found.notes += _layout_notes(checkpoint)
    return found


def _for_our_channels(
    model: DenseModel, checkpoint: TranslatedCheckpoint, state: Mapping[str, Tensor], prefix: str = ""
) -> tuple[dict[str, Tensor], list[Adapted], list[str]]:
    """The tensors with the first layers for the channels of the model's images, what was changed, and the parameters
    of the backbone with filters for new channels, now or when the checkpoint was trained."""
    if model.sections is None:
        return dict(state), [], []
    ours = model.channels.names
    found, stem = adapted_state(state, model.sections.backbone, checkpoint.channels, prefix)
    changed = [
        Adapted(
            key,
            tuple(state[key].shape),
            tuple(found[key].shape),
            f"filters of {', '.join(theirs)} for {', '.join(ours)}, by name",
        )
        for key, theirs in stem.items()
    ]
    new = [key.removeprefix(prefix) for key, theirs in stem.items() if has_new_filters(theirs, ours)]
    return found, changed, [*(name for name in checkpoint.adapted_stem if f"{prefix}{name}" in found), *new]


def _fit_head(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]) -> list[Fit]:
    where = f"heads.{name}.weights"
    theirs = name if checkpoint.layout is None else _source_task(model, name, checkpoint)
    if checkpoint.layout is not None and theirs not in checkpoint.heads:
        has = f"heads for {', '.join(checkpoint.heads)} only" if checkpoint.heads else "no head"
        raise WeightsError(f"{where}: {checkpoint.source} has {has}; expected one for {theirs}.")
    state = part(checkpoint.tensors, f"heads.{theirs}.")
    classes = match_classes(model, name, state, _class_names(model, name, checkpoint))
    other = classes.excluded | _lacking(model, name, checkpoint)
    replaced, why = _replaced(model, name, checkpoint)
    state |= classes.tensors | replaced
    excluded = checkpoint.missing(model.heads[name].state_dict(), f"heads.{theirs}.") | other
    if name not in model.necks:
        excluded |= _other_channels(model, name, state)
    with _describing(checkpoint):
        found = fit(model.heads[name], state, f"{where}: {checkpoint.source}", allowed, excluded)
    found.adapted += classes.adapted
    found.notes += _layout_notes(checkpoint) + classes.notes + why
    if name not in model.necks:
        return [found]
    neck = part(checkpoint.tensors, f"necks.{theirs}.")
    excluded = _other_channels(model, name, neck)
    return [found, fit(model.necks[name], neck, f"{where}, the neck: {checkpoint.source}", allowed, excluded)]


def _class_names(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> list[str] | None:
    """The names of the classes of the checkpoint's head that is loaded into a head; None: not known."""
    return checkpoint.classes.get(name if checkpoint.layout is None else _source_task(model, name, checkpoint))


def _other_channels(model: DenseModel, name: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors of a head, or of its neck, that do not fit because the backbone's features have other channels."""
    own = (model.necks[name] if name in model.necks else model.heads[name]).state_dict()
    misshapen = {key for key in own if key in state and state[key].shape != own[key].shape}
    misshapen &= channel_tensors(model, name) if misshapen else set()
    return dict.fromkeys(sorted(misshapen), "the features of this backbone have other channels")


def _by_our_heads(model: DenseModel, checkpoint: TranslatedCheckpoint, where: str) -> dict[str, Tensor]:
    """The checkpoint's tensors, with this model's head names in place of tasks."""
    if checkpoint.layout is None:
        return checkpoint.tensors
    names: dict[str, str] = {}
    for task in checkpoint.heads:
        ours = [name for name in model.heads if _task(model, name) == task]
        ours = ours or [name for name in model.heads if _source_task(model, name, checkpoint) == task]
        if len(ours) > 1:
            raise WeightsError(
                f"{where} has one head for {task}, and the config has {' and '.join(ours)}. Name the "
                f"backbone's weights, backbone.weights={checkpoint.source}, and that head's, "
                f"heads.{ours[0]}.weights={checkpoint.source}."
            )
        names |= {task: ours[0]} if ours else {}
    if not names:
        wanted = ", ".join(sorted({_task(model, name) for name in model.heads}))
        raise WeightsError(
            f"{where} has heads for {', '.join(checkpoint.heads)}, and the config has for {wanted}. For its backbone "
            f"alone, name it as backbone.weights={checkpoint.source}."
        )

    def ours_of(name: str) -> str:
        kind, _, rest = name.partition(".")
        task, dot, inner = rest.partition(".")
        return f"{kind}.{names.get(task, task)}{dot}{inner}" if kind in ("heads", "necks") else name

    return {ours_of(name): tensor for name, tensor in checkpoint.tensors.items()}


def _lacking(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> dict[str, str]:
    """The tensors of a head that a checkpoint of another task lacks (`SupportsStartsFrom`), with the reason."""
    task = _source_task(model, name, checkpoint)
    if task == _task(model, name):
        return {}
    head = model.heads[name]
    assert isinstance(head, SupportsStartsFrom)
    patterns, own = head.starts_from[task], head.state_dict()
    lacking = [key for key in own if any(fnmatchcase(key, pattern) for pattern in patterns)]
    return dict.fromkeys(lacking, f"the weights are of a head for {task}, which has no such part")


def _replaced(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that a head uses in place of the checkpoint's (`SupportsReplacedTensors`), and notes."""
    head = model.heads[name]
    if not isinstance(head, SupportsReplacedTensors):
        return {}, []
    heads = _described(checkpoint).get("heads", {})
    options = heads.get(name if checkpoint.layout is None else _source_task(model, name, checkpoint))
    if not isinstance(options, Mapping):
        return {}, []
    replaced, why = head.replaced_tensors(options)
    return replaced, [f"heads.{name}: {why}."] if replaced else []


def _described(checkpoint: TranslatedCheckpoint) -> dict[str, dict[str, Any]]:
    """The sections of its config; none if it is incomplete, which `weights_allow` permits."""
    try:
        return checkpoint.describe()
    except WeightsError:
        return {}


def _set_normalisation(model: DenseModel, section: BackboneSection, checkpoint: TranslatedCheckpoint) -> list[str]:
    """Sets the mean and std that the weights were trained with, in the model and its section, unless they are of other
    channels; returns notes."""
    notes: list[str] = []
    if checkpoint.channels != model.channels.names:
        return notes
    for key in ("mean", "std"):
        theirs, here = getattr(checkpoint, key), getattr(model.backbone, key)
        if theirs is None or all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(theirs, here, strict=True)):
            continue
        if getattr(section, key) is not None:
            notes.append(f"Warning: backbone.{key} stays {[*here]}; these weights were trained with {[*theirs]}.")
            continue
        section = section.model_copy(update={key: theirs})
        notes.append(f"backbone.{key} is {[*theirs]}, as these weights were trained with, in place of {[*here]}.")
    model.set_normalisation(section.mean, section.std)
    return notes


def _task(model: DenseModel, name: str) -> str:
    return str(model.heads[name].task)


def _source_task(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> str:
    """The task of another project's head that is loaded into a head: its own, or the first that it starts from."""
    task, head = _task(model, name), model.heads[name]
    others = head.starts_from if isinstance(head, SupportsStartsFrom) else {}
    if checkpoint.layout is None or task in checkpoint.heads:
        return task
    return next((other for other in others if other in checkpoint.heads), task)


def _head_of(name: str) -> str | None:
    """The head of a tensor of the model; None for the backbone's tensors and for learned loss weights."""
    kind, _, rest = name.partition(".")
    return rest.partition(".")[0] if kind in ("heads", "necks") else None


def _layout_notes(checkpoint: TranslatedCheckpoint) -> list[str]:
    """The layout of another project's checkpoint, and licences that are known or published."""
    notes = [f"Read as {checkpoint.layout.name}."] if checkpoint.layout is not None else []
    for source, licence in checkpoint.licences.items():
        if licence != licences.UNKNOWN or is_published(source):
            notes.append(licences.line("" if source == checkpoint.source else source, licence))
    return notes


@contextmanager
def _describing(checkpoint: TranslatedCheckpoint) -> Iterator[None]:
    """Adds the config of the checkpoint's model to errors."""
    try:
        yield
    except WeightsError as error:
        if checkpoint.layout is None:
            raise
        sections = yaml.write(checkpoint.describe()).strip().replace("\n", "\n  ")
        raise WeightsError(f"{error} Read as {checkpoint.layout.name}, the weights are of\n  {sections}") from error


def _empty(names: Sequence[str]) -> dict[str, Tensor]:
    """Empty tensors for keys that match no line of the layout, so that they are reported as unexpected."""
    return {name: torch.empty(0) for name in names}
