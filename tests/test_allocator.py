"""The allocator's settings: freed tensors are reused without new pages from the kernel."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from densevit.allocator import keep_freed_memory

def faults():
    for size in (16 << 20, 3 << 20, 8 << 20) * 2:  # the heap grows
        np.ones(size, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        held = [np.ones(size, np.uint8) for size in (16 << 20, 3 << 20, 8 << 20)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
print(usual, faults())
"""


def faults(**environment: str) -> tuple[int, int]:
    """Page faults of repeated allocations before and after the settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    arguments = [sys.executable, "-c", FAULTS]
    output = subprocess.run(arguments, env=kept | environment, capture_output=True, text=True, check=True).stdout
    usual, now = map(int, output.split())
    return usual, now


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_of_freed_arrays_is_reused() -> None:
    usual, now = faults()
    assert usual > 100 and now < usual / 10
    usual, now = faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert now > usual / 2, "the environment's settings prevail"
