"""Selects the head of another project's checkpoint, named by its task, for each head of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol, runtime_checkable

from densevit.config import ModelSections
from densevit.errors import WeightsError
from densevit.interfaces import Head
from densevit.model import DenseModel
from densevit_checkpoints.foreign_checkpoint import ForeignCheckpoint


@runtime_checkable
class SupportsStartsFrom(Protocol):
    """A head that can start from weights of heads for other tasks.

    starts_from: key patterns of tensors of this head that the weights of a head for a different task lack, by that
    task. These tensors keep their initial values.
    """

    starts_from: ClassVar[Mapping[str, Sequence[str]]]


def named_as_in(sections: ModelSections, model: DenseModel, checkpoint: ForeignCheckpoint) -> ForeignCheckpoint:
    """The checkpoint with the head of each of the model's heads in `head_names`, and the keys that it lacks.

    If the sections name it as `weights`, its heads get the names of the model's. Raises WeightsError if several heads
    of the model fit a head of the checkpoint then, or none fits any.
    """
    heads, absent = model.heads, dict[str, dict[str, str]]()
    tasks = {name: _task_for(head, checkpoint) for name, head in heads.items()}
    for name, task in tasks.items():
        if task != str(heads[name].task) and isinstance(head := heads[name], SupportsStartsFrom):
            keys = [k for k in head.state_dict() if any(fnmatchcase(k, x) for x in head.starts_from[task])]
            absent[name] = dict.fromkeys(keys, f"the weights are of a head for {task}, which lacks this part")
    checkpoint = replace(checkpoint, head_names=tasks, absent=absent)
    is_model = sections.weights == checkpoint.source and not checkpoint.is_backbone
    return _renamed(checkpoint, model) if is_model else checkpoint


def _task_for(head: Head, checkpoint: ForeignCheckpoint) -> str:
    """The task of the checkpoint's head that is loaded into a head of the model: the same task, or else the first in
    the head's `starts_from` that the checkpoint has."""
    other_tasks = head.starts_from if isinstance(head, SupportsStartsFrom) else {}
    return next((task for task in (str(head.task), *other_tasks) if task in checkpoint.heads), str(head.task))


def _renamed(checkpoint: ForeignCheckpoint, model: DenseModel) -> ForeignCheckpoint:
    """The checkpoint with the names of the model's heads in place of tasks in the keys."""
    names, where = dict[str, str](), f"weights: {checkpoint.source}"
    for task in checkpoint.heads:
        matches = [name for name in model.heads if str(model.heads[name].task) == task]
        matches = matches or [name for name, source in checkpoint.head_names.items() if source == task]
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

    return replace(checkpoint, tensors={renamed(name): tensor for name, tensor in checkpoint.tensors.items()})
