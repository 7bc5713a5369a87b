"""Settings of the C library's allocator for tensors."""

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_THRESHOLD = 32 << 20  # bytes; glibc's maximum
_NEVER = -1


def keep_freed_memory() -> None:
    """Lets glibc reuse the memory of freed tensors of up to 32 MiB instead of returning it to the kernel.

    Each step allocates tensors of the same sizes. By default glibc maps large tensors again, or trims its heap when
    they are freed, and the kernel clears every page again: up to 25 % of a training step (docs/development/cpus.md).
    With these settings the process keeps its peak memory. The environment variables `MALLOC_*` and `GLIBC_TUNABLES`
    take precedence; other C libraries are not changed. See mallopt(3).
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError, OSError, TypeError):  # no glibc, or no handle of the process as on Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
