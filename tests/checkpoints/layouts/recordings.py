"""What the authors' code computes, in the folder `originals`: their repositories and commits are in the files.

The programs that recorded it: `git show cab391c9:tests/checkpoints/layouts/originals/record.py` and `record_dense.py`.
"""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

HERE = Path(__file__).parent / "originals"


def recorded(name: str) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """The shapes of a checkpoint's tensors, and the recorded outputs; their keys begin with the size of the image."""
    with safe_open(HERE / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["shapes"]), {key: file.get_tensor(key) for key in sorted(file.keys())}


def size_of(key: str) -> tuple[int, int]:
    """The height and width of the image of an output."""
    height, width = map(int, key.partition(".")[0].split("x"))
    return height, width
