"""Batches in which each image is labelled for another task, or none: gradients equal those of separate tasks."""

import torch
from torch import Tensor, nn

from densevit.data.loading.batch_sampler import collate
from densevit.interfaces import Batch
from densevit.model import DenseModel, build_backbone, create_head
from densevit.training.loop.unused_parameters import freeze_unused
from tests.training.loop.test_step_record import TRANSFORMER, Labelled

KEYS = {"detection": ("boxes", "labels"), "segmentation": ("semantic",), "depth": ("depth",)}
# The task of each image, which has labels of it.
LABELLED = ["detection", "depth", "depth", "detection", "segmentation", "nothing", "detection"]
HEADS = {
    "detection": {
        "name": "box_query_detr", "num_queries": 8, "classification": "mal", "costs": {"label": 1.0},
        "transformer": {**TRANSFORMER, "width": 32},
        "extensions": {"stride": 16, "position_bias": True, "two_stage": True, "dense_loss": 1.0},
    },
    "segmentation": {"name": "setr", "decoder": "mla", "width": 16, "branch_width": 8, "norm": "group", "dice": 1.0},
    "depth": {"name": "dpt", "output": "bins", "max_depth": 60.0, "width": 8, "loss_weights": {"gradient": 0.5}},
}  # fmt: skip
WEIGHTS = {"detection": "learned", "segmentation": 2.0, "depth": "learned"}


def model_of() -> DenseModel:
    torch.manual_seed(0)
    backbone = build_backbone("swin", variant="nano", window_size=4, drop_path=0.0)
    heads = {}
    for name, section in HEADS.items():
        options = {key: value for key, value in section.items() if key != "name"}
        classes = Labelled("train").classes.get(name, ())
        heads[name] = create_head(section["name"], backbone.channels, backbone.strides, classes, **options)
    model = DenseModel(backbone, heads, loss_weights=WEIGHTS)
    for n, s in enumerate(model.log_variances.values()):
        nn.init.constant_(s, 0.3 * (n + 1))
    freeze_unused(model)
    with torch.no_grad():
        for p in model.parameters():  # no parameter is 0, which could make gradients 0
            p.add_(0.02 * torch.randn_like(p))
    return model.train()


def batch_of(images: list[int], labelled: list[str]) -> Batch:
    """Images, each with the labels of one task."""
    samples = [Labelled("train")[i] for i in images]
    for i, sample in zip(images, samples, strict=True):
        keys = ("image_id", "size", "original_size", *KEYS.get(labelled[i], ()))
        sample["targets"] = {key: sample["targets"][key] for key in keys}
    return collate(samples, 32)


def gradients_of(model: DenseModel, batch: Batch, head: str = "") -> dict[str, Tensor]:
    """Gradients of all losses or of one head's; 0 for unused parameters."""
    losses = model.losses_of(model(batch), batch["targets"])
    chosen = [value for name, value in losses.items() if name.startswith(f"{head}/" if head else "")]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(torch.stack(chosen).sum(), list(trained.values()), materialize_grads=True)
    return dict(zip(trained, found, strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        most = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3 * most + 1e-6, msg=name)


def test_mixed_batch_gradients_match_separate_backward_passes() -> None:
    """The images of each task in a separate batch, with the losses of its head only."""
    model = model_of()
    mixed = gradients_of(model, batch_of(list(range(len(LABELLED))), LABELLED))
    expected = {name: torch.zeros_like(value) for name, value in mixed.items()}
    for head in HEADS:
        own = [i for i, task in enumerate(LABELLED) if task == head]
        alone = gradients_of(model, batch_of(own, LABELLED), head)
        for part in ("backbone.", f"heads.{head}."):
            assert sum(value.abs().sum() for name, value in alone.items() if name.startswith(part)) > 0
        expected = {name: value + alone[name] for name, value in expected.items()}
    assert_same(mixed, expected)


def test_task_without_labels_has_zero_gradients() -> None:
    model, absent = model_of(), "depth"
    batch = batch_of(list(range(len(LABELLED))), ["nothing" if task == absent else task for task in LABELLED])
    losses = model.losses_of(model(batch), batch["targets"])
    assert all(value == 0 for name, value in losses.items() if name.startswith(f"{absent}/"))
    assert any(value != 0 for value in losses.values())
    gradients = gradients_of(model, batch)
    own = [name for name in gradients if name.startswith((f"heads.{absent}.", f"log_variances.{absent}"))]
    assert own and all(gradients[name].eq(0).all() for name in own)
