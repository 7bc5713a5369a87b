"""Which head of a checkpoint is loaded into a head of a model, and how its tensors are adapted to it."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from densevit.errors import WeightsError
from densevit.model import DenseModel
from densevit.weights.class_rows import ClassRows, channel_tensors, match_classes
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint
from densevit.weights.head_protocols import SupportsReplacedTensors, SupportsStartsFrom


def source_of(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> str:
    """The checkpoint's head that is loaded into a head: of the same name; of another project's, which are named by
    their tasks, that of its task, or the first that it starts from."""
    head = model.heads[name]
    if checkpoint.layout is None:
        return name
    others = head.starts_from if isinstance(head, SupportsStartsFrom) else {}
    return next((task for task in (str(head.task), *others) if task in checkpoint.heads), str(head.task))


def by_our_heads(model: DenseModel, checkpoint: TranslatedCheckpoint, where: str) -> dict[str, Tensor]:
    """The checkpoint's tensors, with this model's head names in place of tasks. where: its key, for messages."""
    if checkpoint.layout is None:
        return checkpoint.tensors
    names: dict[str, str] = {}
    for task in checkpoint.heads:
        ours = [name for name in model.heads if str(model.heads[name].task) == task]
        ours = ours or [name for name in model.heads if source_of(model, name, checkpoint) == task]
        if len(ours) > 1:
            raise WeightsError(
                f"{where} has one head for {task}, and the config has {' and '.join(ours)}. Name the "
                f"backbone's weights, backbone.weights={checkpoint.source}, and that head's, "
                f"heads.{ours[0]}.weights={checkpoint.source}."
            )
        names |= {task: ours[0]} if ours else {}
    if not names:
        wanted = ", ".join(sorted({str(head.task) for head in model.heads.values()}))
        raise WeightsError(
            f"{where} has heads for {', '.join(checkpoint.heads)}, and the config has for {wanted}. For its backbone "
            f"alone, name it as backbone.weights={checkpoint.source}."
        )

    def ours_of(name: str) -> str:
        kind, _, rest = name.partition(".")
        task, dot, inner = rest.partition(".")
        return f"{kind}.{names.get(task, task)}{dot}{inner}" if kind in ("heads", "necks") else name

    return {ours_of(name): tensor for name, tensor in checkpoint.tensors.items()}


def adapted_head(
    model: DenseModel, name: str, checkpoint: TranslatedCheckpoint, state: Mapping[str, Tensor]
) -> ClassRows:
    """What is loaded into a head in place of the tensors of a checkpoint's: the rows of its classes, and the tensors
    that have another meaning or that a head for another task lacks. state: the state dict of the checkpoint's head."""
    theirs = source_of(model, name, checkpoint)
    found = match_classes(model, name, state, checkpoint.classes.get(theirs))
    head = model.heads[name]
    if checkpoint.layout is not None and theirs != str(head.task) and isinstance(head, SupportsStartsFrom):
        patterns = head.starts_from[theirs]
        lacking = [key for key in head.state_dict() if any(fnmatchcase(key, pattern) for pattern in patterns)]
        found.excluded |= dict.fromkeys(lacking, f"the weights are of a head for {theirs}, which has no such part")
    replaced, why = replaced_tensors(model, name, checkpoint)
    found.tensors |= replaced
    found.notes += [f"heads.{name}: {why}."] if replaced else []
    return found


def replaced_tensors(model: DenseModel, name: str, checkpoint: TranslatedCheckpoint) -> tuple[dict[str, Tensor], str]:
    """The tensors that a head uses in place of the checkpoint's (`SupportsReplacedTensors`), and why."""
    head = model.heads[name]
    if not isinstance(head, SupportsReplacedTensors):
        return {}, ""
    try:
        options = checkpoint.describe().get("heads", {}).get(source_of(model, name, checkpoint))
    except WeightsError:  # incomplete, which `weights_allow` permits
        return {}, ""
    return head.replaced_tensors(options) if isinstance(options, Mapping) else ({}, "")


def of_other_channels(model: DenseModel, name: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors of a head, or of its neck, that do not fit because the backbone's features have other channels."""
    own = (model.necks[name] if name in model.necks else model.heads[name]).state_dict()
    misshapen = {key for key in own if key in state and state[key].shape != own[key].shape}
    misshapen &= channel_tensors(model, name) if misshapen else set()
    return dict.fromkeys(sorted(misshapen), "the features of this backbone have other channels")
