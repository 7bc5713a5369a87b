"""Sizes of padded images."""


def padded(size: tuple[int, int], size_divisor: int) -> tuple[int, int]:
    """(h, w) rounded up to multiples."""
    return -(-size[0] // size_divisor) * size_divisor, -(-size[1] // size_divisor) * size_divisor
