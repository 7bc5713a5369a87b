"""Sizes of padded images."""


def padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(h, w) rounded up to multiples."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple
