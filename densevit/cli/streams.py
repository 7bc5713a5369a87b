"""Streams that never end a run: stdout and stderr for unencodable characters and closed pipes."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unfailing_output() -> Iterator[None]:
    """A context in which writing to stdout and stderr never raises because of characters or a missing reader.

    Escapes characters that the encoding lacks. Discards output after the reader of a pipe has ended, as in
    `densevit train ... | head`, and for a stream closed before the start. A full disk is still an error.
    """
    originals: tuple[Any, Any] = sys.stdout, sys.stderr
    opened: tuple[Any, Any] = _unfailing(originals[0], sys.__stdout__), _unfailing(originals[1], sys.__stderr__)
    sys.stdout, sys.stderr = opened
    try:
        yield
    finally:
        sys.stdout, sys.stderr = originals
        for stream in opened:
            stream.flush()


def _unfailing(stream: Any, original: Any) -> Any:
    """A stream for the same file. original: the process's stream; any other stream, for example in a test or a
    notebook, is returned unchanged."""
    if stream is None:  # closed before the start, for example by >&-
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original:
        return stream
    stream.flush()
    raw = _Discarding(stream.fileno(), "w", closefd=False)
    buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Discarding(io.FileIO):
    """A file that discards output after its reader has ended."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return super().write(data)
