"""Optional methods of heads for loading weights of other options or of other classes."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SupportsReplacedTensors(Protocol):
    """A head with tensors whose meaning depends on its options."""

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """Returns tensors by key that replace those of a checkpoint trained with different options of this head, and
        the reason.

        options: the options that the weights were trained with, without defaults. Called on a new head, before the
        weights are loaded. Returns ({}, "") to load all tensors with matching shapes.
        """


@runtime_checkable
class SupportsClassRows(Protocol):
    """A head with class-dependent tensors that are not simply one row per class, followed by other rows."""

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows (K, R) of each class in a tensor whose first dimension depends on the number of classes. Used to
        load rows from a head with other classes.

        name: the tensor's key in this head's state dict. rows: its first dimension. (K, 0): unknown; the tensor keeps
        its initial values if the classes differ. None: one row per class, in order, before all other rows.
        """
