"""Loads the pretrained weights of a config: of the model, its backbone and its heads."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from densevit.errors import WeightsError
from densevit.interfaces.licences import UNKNOWN
from densevit.layouts.state_dicts import part
from densevit.model import DenseModel
from densevit.model.stem_channels import adapted_state
from densevit.weights import licences
from densevit.weights.head_adaptation import adapted_head, channel_mismatches
from densevit.weights.resolving import Resolved
from densevit.weights.sources import is_published
from densevit.weights.state_dict_loading import Adapted, StateDictMatch, fit
from densevit.weights.translated_checkpoint import TranslatedCheckpoint


def load_pretrained(model: DenseModel, resolved: Resolved) -> list[StateDictMatch]:
    """Loads the weights that a model's sections name: of the model, or of the backbone, and of heads and necks.

    model: built from the resolved sections. A head of the model that is not in the checkpoint keeps its initial values;
    a head of the checkpoint that is not in the model is not loaded. If the classes of a head differ, rows are loaded by
    class name (`class_rows`). A head of another project is loaded into the head of the same task, whatever its name, or
    else into a head that starts from that task (`SupportsStartsFrom`). A head's learned loss weight is loaded if the
    checkpoint has one.
    Checks everything before writing anything. Raises WeightsError if something does not fit.
    Returns one report per source.
    """
    sections, checkpoints, fits = resolved.sections, resolved.checkpoints, dict[str, StateDictMatch]()
    if sections.weights is not None:
        fits["weights"] = fit_model(model, checkpoints[sections.weights], sections.allow_mismatch)
    else:
        if (source := sections.backbone.source) is not None:
            fits["backbone"] = fit_backbone(model, checkpoints[source], sections.backbone.allow_mismatch)
        for name, head in sections.heads.items():
            if head.weights is not None:
                fits |= _fit_head(model, name, checkpoints[head.weights], head.allow_mismatch)
            if head.neck and head.neck.weights:
                fits |= _fit_neck(model, name, checkpoints[head.neck.weights], head.neck.allow_mismatch)
    for match in fits.values():
        match.write()
    for key, line in resolved.notes:
        fits["weights" if "weights" in fits else key].notes.append(line)
    for checkpoint in checkpoints.values():
        model.licences |= checkpoint.licences
    return [*fits.values()]


def fit_model(model: DenseModel, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]) -> StateDictMatch:
    """Matches the tensors of a checkpoint and of the model by name, without loading them; see `fit`."""
    where = f"weights: {checkpoint.source}"
    if checkpoint.is_backbone:
        raise WeightsError(f"{where} contains only a backbone. Name it as backbone.weights={checkpoint.source}.")
    state = checkpoint.tensors
    tensors, excluded, ignored_keys = model.state_dict(), dict[str, str](), dict(checkpoint.ignored_keys)
    saved_heads = {name.split(".")[1] for name in state if name.startswith("heads.")}
    heads = saved_heads & set(model.heads)
    is_frozen = model.sections.backbone.freeze is True
    leaves_heads = heads or (is_frozen and saved_heads)  # else the names differ by mistake
    for name in tensors if leaves_heads else ():
        if _head_of(name) not in (None, *heads):
            excluded[name] = f"the weights have no head {_head_of(name)!r}"
        elif name.startswith("log_variances.") and name not in state:
            excluded[name] = "that head's loss weight was not learned"
    for name in state if leaves_heads else ():
        if _head_of(name) not in (None, *model.heads):
            ignored_keys[name] = f"this model has no head {_head_of(name)!r}"
        elif name.startswith("log_variances.") and name not in tensors:
            ignored_keys[name] = "the head's loss weight is fixed in this model"
    notes, adapted = list[str](), list[Adapted]()
    for name in sorted(heads):
        prefix = f"heads.{name}."
        head = adapted_head(model, name, checkpoint, part(state, prefix))
        excluded |= {f"{prefix}{key}": why for key, why in head.excluded.items()}
        state = state | {f"{prefix}{key}": tensor for key, tensor in head.tensors.items()}
        adapted += [change._replace(name=f"{prefix}{change.name}") for change in head.adapted]
        notes += head.notes
    state = {name: tensor for name, tensor in state.items() if name not in ignored_keys}
    state, stems = _for_model_channels(model, checkpoint, state, "backbone.")
    match = _fit(model, checkpoint, state | _empty(checkpoint.unknown), where, allowed, excluded)
    match.ignored_keys |= ignored_keys
    match.adapted += adapted + stems
    match.notes += notes
    return match


def fit_backbone(model: DenseModel, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]) -> StateDictMatch:
    """Matches the tensors of a checkpoint's backbone and of the model's by name, without loading them; see `fit`.

    Names have no prefix `backbone.`, also in the patterns `allowed`.
    """
    prefix = "" if checkpoint.is_backbone else "backbone."
    state = part(checkpoint.tensors, "backbone.") | _empty(checkpoint.unknown if checkpoint.is_backbone else ())
    state, stems = _for_model_channels(model, checkpoint, state)
    match = _fit(model.backbone, checkpoint, state, f"backbone.weights: {checkpoint.source}", allowed, {}, prefix)
    match.adapted += stems
    match.ignored_keys |= checkpoint.ignored_keys
    return match


def _fit_head(
    model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]
) -> dict[str, StateDictMatch]:
    """Matches the tensors of a checkpoint and of a head and its neck by name, without loading them; see `fit`.

    Names have no prefix `heads.NAME.` or `necks.NAME.`, also in the patterns `allowed`. Returns the matches by config
    key.
    """
    key, source_head = f"heads.{name}", checkpoint.head_names.get(name, name)
    where = f"{key}.weights"
    if checkpoint.layout_name and source_head not in checkpoint.heads:
        has = f"heads for {', '.join(checkpoint.heads)} only" if checkpoint.heads else "no head"
        raise WeightsError(f"{where}: {checkpoint.source} has {has}; expected one for {source_head}.")
    state = part(checkpoint.tensors, f"heads.{source_head}.")
    head = adapted_head(model, name, checkpoint, state)
    state |= head.tensors
    excluded = head.excluded | (channel_mismatches(model, name, state) if name not in model.necks else {})
    where, prefix = f"{where}: {checkpoint.source}", f"heads.{source_head}."
    match = _fit(model.heads[name], checkpoint, state, where, allowed, excluded, prefix)
    match.adapted += head.adapted
    match.notes += head.notes
    if name not in model.necks:
        return {key: match}
    neck = part(checkpoint.tensors, f"necks.{source_head}.")
    excluded = channel_mismatches(model, name, neck)
    source = f"{key}.weights, the neck: {checkpoint.source}"
    return {key: match, f"{key}.neck": fit(model.necks[name], neck, source, allowed, excluded)}


def _fit_neck(
    model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, allowed: Sequence[str]
) -> dict[str, StateDictMatch]:
    """Matches the tensors of a checkpoint of a neck, or of a model with one for a head of this name, as `_fit_head`."""
    key, state = f"heads.{name}.neck", part(checkpoint.tensors, f"necks.{name}.") or checkpoint.tensors
    return {key: fit(model.necks[name], state, f"{key}.weights: {checkpoint.source}", allowed)}


def _fit(
    module: nn.Module,
    checkpoint: TranslatedCheckpoint,
    state: Mapping[str, Tensor],
    where: str,
    allowed: Sequence[str],
    excluded: Mapping[str, str],
    prefix: str = "",
) -> StateDictMatch:
    """Matches the tensors `state` of a checkpoint and a module (`fit`). prefix: the prefix of the module's keys in
    the checkpoint."""
    excluded = {**checkpoint.missing(module.state_dict(), prefix), **excluded}
    try:
        match = fit(module, state, where, allowed, excluded)
    except WeightsError as error:
        if not checkpoint.layout_name:
            raise
        raise WeightsError(f"{error} {checkpoint.config_text()}") from error
    zeros = {name.removeprefix(prefix): why for name, why in checkpoint.zeros.items()}
    match.zeros = {name: why for name, why in zeros.items() if name in match.tensors}
    match.notes += _layout_notes(checkpoint)
    return match


def _for_model_channels(
    model: DenseModel, checkpoint: TranslatedCheckpoint, state: Mapping[str, Tensor], prefix: str = ""
) -> tuple[dict[str, Tensor], list[Adapted]]:
    """Adapts the first layers to the channels of the model's images. Returns the state dict and the changes."""
    adapted, stem = adapted_state(state, model.sections.backbone, checkpoint.channels, prefix)
    names = ", ".join(model.channels.names)
    hows = {key: f"filters of {', '.join(saved)} for {names}, by name" for key, saved in stem.items()}
    return adapted, [Adapted(key, tuple(state[key].shape), tuple(adapted[key].shape), how) for key, how in hows.items()]


def _head_of(name: str) -> str | None:
    """The name of the head to which a tensor's key belongs; None for keys of the backbone and of learned loss
    weights."""
    group, _, rest = name.partition(".")
    return rest.partition(".")[0] if group in ("heads", "necks") else None


def _layout_notes(checkpoint: TranslatedCheckpoint) -> list[str]:
    """Notes for the report: the checkpoint's, the layout of another project's, and the licences of the weights as far
    as they are known."""
    stated = [
        licences.line("" if source == checkpoint.source else source, terms)
        for source, terms in checkpoint.licences.items()
        if terms.weights != UNKNOWN or is_published(source)
    ]
    return [*checkpoint.notes, *([f"Read as {checkpoint.layout_name}."] if checkpoint.layout_name else []), *stated]


def _empty(names: Sequence[str]) -> dict[str, Tensor]:
    """Empty tensors for keys that match no line of the layout, so that they are reported as unexpected."""
    return {name: torch.empty(0) for name in names}
