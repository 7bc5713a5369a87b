"""Records what google-research/vision_transformer's code computes, for `test_vit_originals.py`.

    python -m tests.weights.layouts.originals.record_google ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of the repository; needs jax and flax. Writes
google-ORIGINAL.safetensors beside this file: the last feature map, named by the size of the image; the names and shapes
of the arrays; the commit. Images are those of `record_swin.py`, weights those of `random_arrays`.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import commit_of, random_weights, write

SIZE = (64, 64)
SMALL = {"num_layers": 4, "mlp_dim": 128, "num_heads": 2, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
ORIGINALS: dict[str, dict[str, Any]] = {
    "vit": {"patches": SimpleNamespace(size=(16, 16))},
    "hybrid": {
        "patches": SimpleNamespace(size=(1, 1)),
        "resnet": SimpleNamespace(num_layers=(3, 4, 9), width_factor=1),
    },
}
RELEASED = {  # names of released files, by those of today's flax
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}


def random_arrays(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """`random_weights`; the ResNet's filters have small variances, for which epsilon matters, and its residual branches
    are small."""
    state = random_weights(shapes)
    for name, x in state.items():
        if name.endswith("scale"):
            state[name] = (0.2 if "gn3" in name else 1.0) * (1 + x)
        elif re.search(r"conv\w+/kernel", name):
            x *= torch.logspace(-3, 0, x.shape[3])
    return state


def record(name: str, checkout: Path) -> None:
    sys.path.insert(0, str(checkout))
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict
    from vit_jax.models_vit import VisionTransformer

    model = VisionTransformer(
        num_classes=None, transformer=SMALL, hidden_size=32, classifier="token_unpooled", **ORIGINALS[name]
    )
    images = random_image(*SIZE).permute(0, 2, 3, 1).numpy()
    paths = flatten_dict(model.init(jax.random.PRNGKey(0), images, train=False)["params"])
    names = {path: "/".join(RELEASED.get(part, part) for part in path) for path in paths}
    shapes = {names[path]: [*x.shape] for path, x in paths.items()}
    arrays = random_arrays(shapes)
    params = unflatten_dict({path: arrays[names[path]].numpy() for path in paths})
    with jax.default_matmul_precision("highest"):
        tokens = torch.tensor(jax.device_get(model.apply({"params": params}, images, train=False)))
    maps = {"{}x{}".format(*SIZE): tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))}
    write(f"google-{name}", "google-research/vision_transformer", commit_of(checkout), shapes, maps)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
