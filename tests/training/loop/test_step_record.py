"""densevit/training/loop/step_record.py: an optimiser step of several batches has the gradients of one large batch.

With different numbers of objects in the batches, and one without any; with ignored pixels. The losses of every head
are compared in tests/heads/test_accumulation_of_heads.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.config import DataSection
from densevit.interfaces import Class, Dataset, Sample
from densevit.model import DenseModel, build_backbone, create_head

pytestmark = pytest.mark.integration
SIDE, K = 64, 3
OBJECTS = (3, 0, 0, 4, 0, 0, 1, 0)  # of each image: of four batches of two, at least one has no object
TRANSFORMER = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16, "dropout": 0.0}
HEADS: dict[str, dict[str, Any]] = {
    "detr": {"name": "detr", "num_queries": 4, "transformer": TRANSFORMER},
    "setr": {"name": "setr", "width": 8, "norm": "group", "dice": 0.5, "class_weights": (1.0, 0.3, 2.0)},
}  # fmt: skip


class Labelled(Dataset):
    """Random images with boxes and label maps; some without objects or labelled pixels."""

    provides = ("boxes", "labels", "semantic")

    def __init__(self, split: str, count: int = len(OBJECTS)) -> None:
        self.count = count
        own = tuple(Class(str(i), i + 1, (i, i, i)) for i in range(K))
        self.classes = {"detection": own, "segmentation": own}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        n = OBJECTS[index]
        low, size = random.uniform(0, SIDE / 2, (n, 2)), random.uniform(4, SIDE / 2, (n, 2))
        semantic = random.integers(0, K, (SIDE, SIDE)).astype(np.uint8)
        semantic[: index * SIDE // 7] = 255  # the last image has no labelled pixel
        targets = {
            "boxes": torch.from_numpy(np.concatenate([low, low + size], 1).astype(np.float32)),
            "labels": torch.from_numpy(random.integers(0, K, n)),
            "semantic": torch.from_numpy(semantic),
            "image_id": index,
            "size": (SIDE, SIDE),
            "original_size": (SIDE, SIDE),
        }
        image = torch.from_numpy(random.integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8))
        return {"image": image, "targets": targets}


def model_of(head: str, weight: str | float = 1.0) -> DenseModel:
    torch.manual_seed(0)
    backbone = build_backbone("swin", variant="nano", window_size=4, drop_path=0.0)
    options = {key: value for key, value in HEADS[head].items() if key != "name"}
    classes = Labelled("train").classes["detection"]
    made = create_head(HEADS[head]["name"], backbone.channels, backbone.strides, classes, **options)
    return DenseModel(backbone, {"head": made}, loss_weights={"head": weight})


def gradients_of_a_step(head: str, batch_size: int, accumulate: int, count: int = 8, weight: Any = 1.0) -> Any:
    import pytorch_lightning as lightning

    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule

    data = DataSection(
        name=f"{__name__}:Labelled", batch_size=batch_size, num_workers=0, image_size=SIDE, transforms="resize",
        **{"count": count},
    )  # fmt: skip
    gradients: dict[str, Tensor] = {}

    def note(trainer: Any, module: Any, optimizer: Any) -> None:
        gradients.update({name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None})

    callback = lightning.callbacks.LambdaCallback(on_before_optimizer_step=note)
    trainer = lightning.Trainer(
        max_steps=1, accumulate_grad_batches=accumulate, callbacks=[callback], limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    module = DenseModule(model_of(head, weight), {"name": "sgd", "lr": 1e-3})
    trainer.fit(module, datamodule=DenseDataModule(data))
    return gradients


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        # Rounding: with two threads up to 6e-5 of the largest, with one 1e-5.
        assert float((found[name] - gradient).abs().max()) <= 1e-4 * max(1.0, largest), name


@pytest.mark.parametrize("head", HEADS)
def test_four_batches_of_two_have_the_gradients_of_one_of_eight(head: str) -> None:
    """Also where losses have learned weights."""
    weight = "learned" if head == "detr" else 1.0
    expected = gradients_of_a_step(head, batch_size=8, accumulate=1, weight=weight)
    assert ("log_variances.head" in expected) == (weight == "learned")
    assert_equal(gradients_of_a_step(head, batch_size=2, accumulate=4, weight=weight), expected)


def test_fewer_batches_than_accumulated_are_one_batch() -> None:
    """Three batches at the end of an epoch, whose losses Lightning divides by four."""
    expected = gradients_of_a_step("detr", batch_size=6, accumulate=1, count=6)
    assert_equal(gradients_of_a_step("detr", batch_size=2, accumulate=4, count=6), expected)
