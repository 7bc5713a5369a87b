"""Records what the authors' code of Swin computes, for `test_swin_originals.py`.

    python tests/weights/layouts/originals/record_swin.py ORIGINAL CHECKOUT

ORIGINAL: a key of ORIGINALS. CHECKOUT: a clone of its repository. Writes ORIGINAL.safetensors beside this file: each
feature map that the code normalises, sampled on the grid of the last one, named by the size of the image and the
stage; the names and shapes of the parameters for the first size, and of those that differ for the others; the commit.
Weights and images are computed from their names and sizes by NumPy's legacy generator, which does not change.
"""

import importlib.util
import json
import math
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
SMALL = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 4, "drop_path_rate": 0.0}
DENSE = ((160, 136), (128, 128), (97, 131), (64, 64), (40, 72))  # the last map has 1x2 to 5x5 cells
NOMINAL = ((128, 128), (128, 256), (256, 128), (64, 128))  # built for one size, of whole windows


class Original(NamedTuple):
    repository: str
    file: str
    name: str
    sizes: tuple[tuple[int, int], ...]
    kind: str = "SwinTransformer"


ORIGINALS = {
    "microsoft-swin": Original("microsoft/Swin-Transformer", "models/swin_transformer.py", "swin", NOMINAL),
    "microsoft-swinv2": Original(
        "microsoft/Swin-Transformer", "models/swin_transformer_v2.py", "swin", NOMINAL, "SwinTransformerV2"
    ),
    "microsoft-swin-dense": Original(
        "SwinTransformer/Swin-Transformer-Semantic-Segmentation",
        "mmseg/models/backbones/swin_transformer.py",
        "mmseg.models.backbones.swin_transformer",
        DENSE,
    ),
    "detectron2-swin": Original(
        "facebookresearch/detectron2",
        "detectron2/modeling/backbone/swin.py",
        "detectron2.modeling.backbone.swin",
        DENSE[2:4],
    ),
}


def random_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state dict of random parameters, each determined by its name and shape."""
    state = {}
    for name, shape in shapes.items():
        x = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()
        if name.endswith("logit_scale"):
            x = math.log(10) + 0.3 * x
        elif len(shape) == 1:
            x = 0.3 * x + float("norm" in name and name.endswith("weight"))
        elif not name.endswith("bias_table"):
            x = x / math.sqrt(math.prod(shape[1:]))
        state[name] = x
    return state


def random_image(height: int, width: int) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, height, width))).float()


def sampled(features: Sequence[Tensor]) -> list[Tensor]:
    """The cells of feature maps (1, C, H, W) at the top-left corners of the last map's cells."""
    return [x[:, :, :: 2**step, :: 2**step] for x, step in zip(features, range(len(features) - 1, -1, -1), strict=True)]


def _module(original: Original, checkout: Path) -> ModuleType:
    """The module, with empty modules in place of the libraries that its model does not need."""
    names = ["mmcv_custom", "mmseg.utils", "mmseg.models.builder", "detectron2.modeling.backbone.backbone"]
    parts = [name.split(".") for name in (*names, original.name)]
    for name in [".".join(own[:count]) for own in parts for count in range(1, len(own) + 1)]:
        sys.modules.setdefault(name, ModuleType(name)).__path__ = []
    registry = type("Registry", (), {"register_module": staticmethod(lambda: lambda kind: kind)})
    vars(sys.modules["mmcv_custom"])["load_checkpoint"] = vars(sys.modules["mmseg.utils"])["get_root_logger"] = None
    vars(sys.modules["mmseg.models.builder"])["BACKBONES"] = registry
    vars(sys.modules["detectron2.modeling.backbone.backbone"])["Backbone"] = nn.Module
    spec = importlib.util.spec_from_file_location(original.name, checkout / original.file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def _features(model: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """The maps after the norms of a dense model, or the map after a classifier's last norm."""
    if hasattr(model, "norm0"):
        outputs = model(random_image(*size))
        return list(outputs.values() if isinstance(outputs, dict) else outputs)
    maps: list[Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, x: maps.append(x))
    model(random_image(*size))
    return [maps[0].transpose(1, 2).unflatten(2, (size[0] // 32, size[1] // 32))]


def record(name: str, checkout: Path) -> None:
    original = ORIGINALS[name]
    kind = getattr(_module(original, checkout), original.kind)
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, dict[str, list[int]]] = {}
    for size in original.sizes:
        nominal = {"img_size": size} if original.sizes == NOMINAL else {}
        model = kind(**SMALL, **nominal)
        model.eval()  # which returns None in one of them
        key = "{}x{}".format(*size)
        shapes[key] = {own: [*x.shape] for own, x in model.named_parameters() if not own.startswith("head.")}
        model.load_state_dict(random_state(shapes[key]), strict=False)
        for i, x in enumerate(sampled(_features(model, size))):
            tensors[f"{key}.{i}"] = x.contiguous()
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    first = next(iter(shapes.values()))
    metadata = {"repository": original.repository, "commit": commit, "shapes": json.dumps(first)}
    for key, own in shapes.items():
        metadata[key] = json.dumps({name: shape for name, shape in own.items() if shape != first[name]})
    save_file(tensors, HERE / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
