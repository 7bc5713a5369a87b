"""Sizes of padded images."""

Size = tuple[int, int]


def padded(size: Size, size_divisor: int | Size) -> Size:
    """(h, w) rounded up to multiples of `size_divisor`. A pair, the size of a model with a fixed size, is not a
    divisor: a side that is shorter becomes as long."""
    if not isinstance(size_divisor, int):
        return max(size[0], size_divisor[0]), max(size[1], size_divisor[1])
    return -(-size[0] // size_divisor) * size_divisor, -(-size[1] // size_divisor) * size_divisor
