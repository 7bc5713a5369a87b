"""COCO's compressed code of run lengths."""

import numpy as np


def decode_counts(codes: np.ndarray, lengths: np.ndarray, dtype: type = np.int32) -> tuple[np.ndarray, np.ndarray]:
    """Decodes concatenated codes: (C,) run lengths of all codes, and (N,) the number of run lengths of each code.

    COCO's compressed code stores five bits per character, lowest bits first; from the fourth run length on, it stores
    the difference to the last but one (pycocotools, maskApi.c, rleFrString).

    codes: the characters of all codes, uint8. lengths: (N,), the number of characters of each code. dtype: the type of
    the run lengths, which wrap around if it is too small.
    """
    digits = codes - np.uint8(48)
    ends = np.flatnonzero(digits < 32)
    number = np.diff(np.searchsorted(ends, np.cumsum(lengths)), prepend=0)
    values: np.ndarray = digits.take(ends).astype(dtype)
    values -= (values & 16) << 1  # the sign
    more = np.flatnonzero(digits > 31)  # characters before the last one of a length
    more -= np.arange(len(more))  # (F,), the length of each
    begin = np.flatnonzero(np.diff(more, prepend=-1))
    longer, count, digit = more[begin], np.diff(begin, append=len(more)), 1
    while len(longer):
        values[longer] = values[longer] << 5 | (digits[ends[longer] - digit] & 31)
        digit += 1
        longer, count = longer[count >= digit], count[count >= digit]
    total: np.ndarray = np.zeros(len(values) + 2, dtype)  # cumulative sums of every second value, after two zeros
    for parity in (0, 1):
        np.cumsum(values[parity::2], out=total[2 + parity :: 2])
    first = np.cumsum(number) - number
    before = np.stack([total[np.minimum(first + 2, len(total) - 1)], total[first + 1]], axis=1)  # (N, 2): even, odd
    differences = total[2:].copy()
    for parity in (0, 1):  # of the index among all values; a value's index in its code may have the other parity
        rows = (first + number + 1 - parity) // 2 - (first + 1 - parity) // 2
        differences[parity::2] -= np.repeat(before[np.arange(len(number)), (first + parity) & 1], rows)
    begin = first[number > 0]
    differences[begin] = values[begin]
    return differences, number
