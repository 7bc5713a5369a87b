"""Texts of errors, by hand."""

import pytest

from densevit.errors import DataError, counted, did_you_mean, listed, nearest, one_line, printable, resume_hint


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (resume_hint("densevit train --resume a"), " Resume from the last checkpoint with: densevit train --resume a"),
        (resume_hint(""), ""),
        (nearest("swim", ["swin", "vit"]), " Did you mean 'swin'?"),
        (nearest("s", ["swin", "setr", "vit"], "a/"), " Did you mean 'a/setr' or 'a/swin'?"),
        (nearest("", ["swin"]), ""),
        (did_you_mean("xyz", ["b", "a", "b"]), " Known: a, b."),
        (one_line(DataError("a\n  b")), "a b"),
        (one_line(DataError("x" * 501)), f"{'x' * 500} ..."),
        (one_line(SilentError()), "SilentError"),
        (counted(1, "class"), "1 class"),
        (counted(2000, "class"), "2,000 classes"),
        (listed(range(3), 2, " and {} more"), "0, 1 and 3 more"),
        (printable("a\n\x1bb"), "a\n\\x1bb"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert text == expected


def test_an_error_ends_with_the_command_that_resumes() -> None:
    error = DataError("a")
    error.resume = "b"
    assert str(error) == "a Resume from the last checkpoint with: b"
