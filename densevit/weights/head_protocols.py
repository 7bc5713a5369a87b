"""What a head may implement for the weights that start it: of another task, other options or other classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SupportsStartsFrom(Protocol):
    """A head that the weights of heads for other tasks can initialise.

    starts_from: these tasks, each with patterns of tensors of this head that such a head does not have; they keep their
        initial values.
    """

    starts_from: ClassVar[Mapping[str, Sequence[str]]]


@runtime_checkable
class SupportsReplacedTensors(Protocol):
    """A head some of whose tensors have another meaning with other options."""

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """The tensors of this head to use in place of those of weights that were trained with other options, and why.

        options: the options of the head that the weights were trained with, without defaults. Called before the weights
        are loaded, on a newly built head. ({}, ""): none; all tensors whose shapes fit are loaded.
        """


@runtime_checkable
class SupportsClassRows(Protocol):
    """A head with tensors whose rows are not one per class, in their order, before all others such as "no object"."""

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows of each class (K, R) in a tensor whose first dimension depends on the number of classes.

        By it, the rows of known classes are loaded from a head with other classes. name: the tensor's key in this
        head's state dict. rows: its first dimension. (K, 0): not known, and the tensor keeps its initial values if the
        classes differ. None: one row per class, in their order, before all others.
        """
