"""Selects the head of a checkpoint for each head of a model, and adapts its tensors."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from densevit.errors import WeightsError
from densevit.model import DenseModel
from densevit.weights.class_rows import ClassRows, channel_tensors, match_classes
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint
from densevit.weights.head_protocols import SupportsReplacedTensors, SupportsStartsFrom


def source_of(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> str:
    """The name of the checkpoint's head that is loaded into the model's head `name`. In a checkpoint of densevit, it is
    the same name. Another project's checkpoint names heads by task: it is the task of the model's head, or else the
    first task in the head's `starts_from` that the checkpoint has."""
    head = model.heads[name]
    if checkpoint.layout is None:
        return name
    other_tasks = head.starts_from if isinstance(head, SupportsStartsFrom) else {}
    return next((task for task in (str(head.task), *other_tasks) if task in checkpoint.heads), str(head.task))


def by_model_heads(model: DenseModel, checkpoint: TranslatedCheckpoint, where: str) -> dict[str, Tensor]:
    """The checkpoint's tensors; in the keys of another project's checkpoint, tasks are replaced by the names of the
    model's heads. where: the config key, for messages."""
    if checkpoint.layout is None:
        return checkpoint.tensors
    names: dict[str, str] = {}
    for task in checkpoint.heads:
        matches = [name for name in model.heads if str(model.heads[name].task) == task]
        matches = matches or [name for name in model.heads if source_of(model, name, checkpoint) == task]
        if len(matches) > 1:
            raise WeightsError(
                f"{where} has one head for {task}, and the config has {' and '.join(matches)}. Fix: set "
                f"backbone.weights={checkpoint.source}, and for the head that starts from these weights, such as "
                f"{matches[0]!r}, heads.{matches[0]}.weights={checkpoint.source}."
            )
        names |= {task: matches[0]} if matches else {}
    if not names:
        wanted = ", ".join(sorted({str(head.task) for head in model.heads.values()}))
        raise WeightsError(
            f"{where} has heads for {', '.join(checkpoint.heads)}, and the config has for {wanted}. For its backbone "
            f"alone, name it as backbone.weights={checkpoint.source}."
        )

    def renamed(name: str) -> str:
        group, _, rest = name.partition(".")
        task, dot, inner = rest.partition(".")
        return f"{group}.{names.get(task, task)}{dot}{inner}" if group in ("heads", "necks") else name

    return {renamed(name): tensor for name, tensor in checkpoint.tensors.items()}


def adapted_head(
    model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, state: Mapping[str, Tensor]
) -> ClassRows:
    """Adapts the tensors of a checkpoint's head to the model's head `name`: selects class rows, replaces tensors whose
    meaning depends on options, and excludes tensors that a checkpoint's head for a different task lacks. state: the
    state dict of the checkpoint's head."""
    source_head = source_of(model, name, checkpoint)
    adapted = match_classes(model, name, state, checkpoint.classes.get(source_head))
    head = model.heads[name]
    if checkpoint.layout is not None and source_head != str(head.task) and isinstance(head, SupportsStartsFrom):
        patterns = head.starts_from[source_head]
        lacking = [key for key in head.state_dict() if any(fnmatchcase(key, pattern) for pattern in patterns)]
        adapted.excluded |= dict.fromkeys(
            lacking, f"the weights are of a head for {source_head}, which lacks this part"
        )
    replaced, why = replaced_tensors(model, name, checkpoint)
    adapted.tensors |= replaced
    adapted.notes += [f"heads.{name}: {why}."] if replaced else []
    return adapted


def replaced_tensors(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> tuple[dict[str, Tensor], str]:
    """`SupportsReplacedTensors.replaced_tensors` of the model's head `name`; ({}, "") if the head has no such
    method."""
    head = model.heads[name]
    if not isinstance(head, SupportsReplacedTensors):
        return {}, ""
    try:
        options = checkpoint.describe().get("heads", {}).get(source_of(model, name, checkpoint))
    except WeightsError:  # an incomplete checkpoint, which `weights_allow` permits
        return {}, ""
    return head.replaced_tensors(options) if isinstance(options, Mapping) else ({}, "")


def channel_mismatches(model: DenseModel, name: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The keys in `state` of tensors of a head's neck, or of the head if it has no neck, that do not fit the backbone's
    channels; with the reason."""
    tensors = (model.necks[name] if name in model.necks else model.heads[name]).state_dict()
    misshapen = {key for key in tensors if key in state and state[key].shape != tensors[key].shape}
    misshapen &= channel_tensors(model, name) if misshapen else set()
    return dict.fromkeys(sorted(misshapen), "the features of this backbone have other channels")
