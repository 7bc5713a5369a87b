"""Checks the shapes of arguments: maps that broadcast, or missing targets, would give a wrong loss without an error."""

from collections.abc import Mapping

from torch import Tensor

from densevit.errors import DensevitError


def check_shapes(lengths: Mapping[str, int] | None = None, **arguments: tuple[Tensor, str]) -> None:
    """Raises DensevitError, which names the argument, if a tensor has other axes, such as `"B H W"`.

    Axes of one name have one length in all arguments. lengths: the lengths of some axes.
    """
    sizes = dict(lengths or {})
    for name, (x, names) in arguments.items():
        axes = names.split()
        if x.ndim != len(axes) or any(sizes.setdefault(axis, n) != n for axis, n in zip(axes, x.shape, strict=True)):
            expected = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
            raise DensevitError(f"{name} has the shape {tuple(x.shape)}; expected ({expected}).")
