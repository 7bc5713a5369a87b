"""Records what mmsegmentation's code of SETR computes, for `test_vit_originals.py`.

    python -m tests.weights.layouts.originals.record_setr ORIGINAL

ORIGINAL: a key of ORIGINALS. Needs mmsegmentation, mmengine and mmcv-lite of PyPI. Writes mmseg-ORIGINAL.safetensors
beside this file: every fifth pixel of the logits, named by the size of the image, and of the auxiliary heads' logits
for the first size; the names and shapes of the tensors; the version. Images are those of `record_swin.py`, weights
those of `random_weights`.
"""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch

from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import fill, shapes_of, write

SIZES = ((64, 64), (96, 64), (71, 115), (37, 81), (32, 48))
ORIGINALS = {  # configs of the published models
    "setr-naive": "setr_vit-l_naive_8xb1-80k_cityscapes-768x768",
    "setr-naive-ade20k": "setr_vit-l_naive_8xb2-160k_ade20k-512x512",
    "setr-pup": "setr_vit-l_pup_8xb2-160k_ade20k-512x512",
    "setr-mla": "setr_vit-l_mla_8xb2-160k_ade20k-512x512",
}
WIDTHS = {1024: 32, 512: 32, 256: 16, 128: 8}  # 512: four levels of 128
SMALL: dict[str, Any] = {
    "img_size": 64,
    "num_layers": 4,
    "num_heads": 2,
    "out_indices": (0, 1, 2, 3),
    "num_classes": 5,
    "init_cfg": None,
}


def small(value: Any) -> Any:
    """A section of a config with small sizes, and batch norms that run on CPUs."""
    if isinstance(value, dict):
        if value.get("type") == "SyncBN":
            return {"type": "BN"}
        return {key: SMALL[key] if key in SMALL else small(x) for key, x in value.items()}
    return type(value)(map(small, value)) if isinstance(value, (list, tuple)) else WIDTHS.get(value, value)


@torch.no_grad()
def record(name: str) -> None:
    sys.modules["mmcv.ops"] = MagicMock()  # compiled operators of other models
    import mmseg.models
    from mmengine import Config

    file = Path(mmseg.__path__[0]) / ".mim" / "configs" / "setr" / f"{ORIGINALS[name]}.py"
    config = Config.fromfile(file).model.to_dict()
    del config["data_preprocessor"]
    config["backbone"]["patch_bias"] = True  # as in the published checkpoints
    model = fill(mmseg.models.build_segmentor(small(config)))
    tensors = {}
    for height, width in SIZES:
        images = random_image(height, width)
        logits = model.encode_decode(images, [{"img_shape": (height, width)}])
        tensors[f"{height}x{width}"] = logits[..., ::5, ::5]
    maps = model.extract_feat(random_image(*SIZES[0]))
    tensors |= {f"auxiliary.{i}": head(maps)[..., ::5, ::5] for i, head in enumerate(model.auxiliary_head)}
    write(f"mmseg-{name}", "open-mmlab/mmsegmentation", f"v{mmseg.__version__}", shapes_of(model), tensors)


if __name__ == "__main__":
    record(sys.argv[1])
