"""densevit/training/loop/step_record.py: an optimiser step of several batches has the gradients of one large batch.

With different numbers of objects in the batches, and one without any; with ignored pixels. The losses of every head
are compared in tests/heads/test_accumulation_of_heads.py.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Sample
from densevit.model import DenseModel, build_backbone, create_head
from tests.training.loop.test_dense_module import trainer_of

pytestmark = pytest.mark.integration
SIDE, K = 64, 3
OBJECTS = (3, 0, 0, 4, 0, 0, 1, 0)  # of each image: of four batches of two, at least one has no object
TRANSFORMER = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16, "dropout": 0.0}
HEADS: dict[str, dict[str, Any]] = {
    "detr": {"name": "detr", "num_queries": 4, "transformer": TRANSFORMER},
    "setr": {"name": "setr", "width": 8, "norm": "group", "dice": 0.5, "class_weights": (1.0, 0.3, 2.0)},
}  # fmt: skip


def labelled(index: int) -> Sample:
    """A random image with boxes and a label map; some without objects or labelled pixels."""
    low, semantic = SIDE / 2 * torch.rand(OBJECTS[index], 2), torch.randint(K, (SIDE, SIDE), dtype=torch.uint8)
    semantic[: index * SIDE // 7] = 255  # the last image has no labelled pixel
    boxes, labels = torch.cat([low, 1.7 * low + 4], 1), torch.randint(K, (len(low),))
    targets = {"boxes": boxes, "labels": labels, "semantic": semantic, "image_id": index}
    image = torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8)
    return {"image": image, "targets": targets | {"size": (SIDE, SIDE), "original_size": (SIDE, SIDE)}}


def model_of(head: str, weight: str | float = 1.0) -> DenseModel:
    torch.manual_seed(0)
    backbone = build_backbone("swin", variant="nano", window_size=4, drop_path=0.0)
    options = {key: value for key, value in HEADS[head].items() if key != "name"}
    made = create_head(HEADS[head]["name"], backbone.channels, backbone.strides, list("abc"), **options)
    return DenseModel(backbone, {"head": made}, loss_weights={"head": weight})


def gradients_of_a_step(head: str, batch_size: int, accumulate: int, count: int = 8, weight: Any = 1.0) -> Any:
    import pytorch_lightning as lightning

    from densevit.training.loop.dense_module import DenseModule

    torch.manual_seed(0)
    data: Any = DataLoader([labelled(index) for index in range(count)], batch_size, collate_fn=collate)
    gradients: dict[str, Tensor] = {}

    def note(trainer: Any, module: Any, optimizer: Any) -> None:
        gradients.update({name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None})

    callback = lightning.callbacks.LambdaCallback(on_before_optimizer_step=note)
    trainer = trainer_of(max_steps=1, accumulate_grad_batches=accumulate, callbacks=[callback], limit_val_batches=0)
    trainer.fit(DenseModule(model_of(head, weight), {"name": "sgd", "lr": 1e-3}), data)
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
