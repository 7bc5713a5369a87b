"""Tensors of images and labels in place of batches, and the lines that people type first, coming from torchvision, timm
or segmentation_models_pytorch: each works, or says in one line what to type."""

import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

import densevit
from densevit.model import DenseModel

IMAGES = torch.randint(0, 256, (2, 3, 50, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
MASKS = torch.randint(0, 2, (2, 50, 70), generator=torch.Generator().manual_seed(1))
BOXES = [
    {"boxes": torch.tensor([[1.0, 2, 30, 40], [0, 0, 9, 9]]), "labels": torch.tensor([1, 0])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]
NANO = {"name": "swin", "variant": "nano", "window_size": 4}


def segmenter(**options: Any) -> DenseModel:
    torch.manual_seed(0)
    return densevit.create_model(NANO, **{"heads": "setr", "classes": ["a", "b"], **options})


def detector() -> DenseModel:
    return segmenter(heads="fcos")


def depth_estimator() -> DenseModel:
    return densevit.create_model(NANO, heads="dpt")


def saved(model: Any, file: io.BytesIO) -> Any:
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WORK: dict[str, Callable[[], Any]] = {
    "a tensor of bytes": lambda: segmenter()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)),
    "a tensor of floats": lambda: segmenter()(torch.zeros(1, 3, 64, 64)),
    "a size that is no multiple": lambda: segmenter()(IMAGES),
    "a batch": lambda: segmenter().eval()(densevit.collate([densevit.create_dataset("scenes", image_size=64)[0]])),
    "train": lambda: segmenter().train().eval().requires_grad_(False),
    "state_dict": lambda: segmenter().load_state_dict(segmenter().state_dict()),
    "half": lambda: segmenter().eval().half()(IMAGES),
    "to": lambda: segmenter().to("cpu").to(torch.float64).float()(IMAGES),
    "parameters": lambda: next(segmenter().parameters()).device,
    "children": lambda: [name for name, _ in segmenter().named_children()],
    "deepcopy": lambda: copy.deepcopy(segmenter())(IMAGES),
    "pickle": lambda: pickle.loads(pickle.dumps(segmenter()))(IMAGES),
    "torch.save": lambda: saved(segmenter(), io.BytesIO())(IMAGES),
    "features": lambda: segmenter().features(IMAGES),
    "an optimiser": lambda: torch.optim.AdamW(segmenter().parameters(), lr=1e-4),
    "create_optimizer": lambda: densevit.create_optimizer(segmenter(), name="adamw", lr=1e-4),
    "classes=3": lambda: segmenter(classes=3).classes["segmentation"][2].name,
    "a head's section": lambda: segmenter(heads={"name": "setr", "decoder": "naive"}).heads["segmentation"],
    "heads by name": lambda: segmenter(heads={"seg": "setr"}).heads["seg"],
    "masks as int64": lambda: segmenter().loss(IMAGES, MASKS),
    "masks with a channel": lambda: segmenter().loss(IMAGES, MASKS[:, None]),
    "boxes as torchvision has them": lambda: detector().loss(IMAGES, BOXES),
    "instance masks": lambda: densevit.create_model(NANO, heads="mask2former", classes=2).eval().predict(IMAGES[0]),
    "depth": lambda: depth_estimator().loss(IMAGES, torch.rand(2, 50, 70)),
    "loss without gradients": lambda: torch.no_grad()(lambda: segmenter().eval().loss(IMAGES, MASKS))(),
    "predict": lambda: segmenter().predict(IMAGES[0]).semantic,
    "predict of a batch": lambda: segmenter().predict(IMAGES),
    "predict of an array": lambda: segmenter().predict(np.zeros((40, 50, 3), np.uint8)),
    "iterate": lambda: [x.result for x in segmenter().iterate(iter(IMAGES))],
    "to_dict": lambda: json.dumps(detector().predict(IMAGES[0], threshold=0).to_dict()),
    "create_backbone": lambda: densevit.create_backbone({"name": "resnet", "depth": 18})(torch.zeros(1, 3, 64, 64)),
    "create_head": lambda: densevit.create_head("setr", [8], [16], ["a", "b"]).classes[1].name,
    "create_evaluator": lambda: densevit.create_evaluator("segmentation", ["a", "b"]).classes[0],
    "build_data": lambda: densevit.build_data({"name": "scenes"}).val[0],
}


@pytest.mark.parametrize("line", WORK)
def test_the_line_works(line):
    assert WORK[line]() is not None


FAIL: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "normalised images": (
        lambda: segmenter()(torch.randn(1, 3, 64, 64)),
        densevit.DataError,
        "Fix: leave normalisation out: the model normalises",
    ),
    "floats to 255": (
        lambda: segmenter()(IMAGES.float()),
        densevit.DataError,
        "Fix: divide them by 255, or pass uint8",
    ),
    "one image": (
        lambda: segmenter()(IMAGES[0]),
        densevit.DataError,
        r"images is uint8 \(3, 50, 70\); .*\(B, 3, H, W\)",
    ),
    "a list of images": (
        lambda: segmenter()([*IMAGES]),
        densevit.DataError,
        "images is a list; .*Fix: torch.stack",
    ),
    "an array": (lambda: segmenter()(IMAGES.numpy()), densevit.DataError, "images is a ndarray; .*model.predict"),
    "loss of a loaded model": (lambda: segmenter().eval().loss(IMAGES, MASKS), densevit.DensevitError, "model.train()"),
    "another key": (
        lambda: segmenter()({"image": IMAGES}),
        densevit.DataError,
        "no images and padding_mask, but image",
    ),
    "maps for boxes": (lambda: detector().loss(IMAGES, MASKS), densevit.DataError, "the heads need boxes, labels"),
    "no labels": (
        lambda: detector().loss(IMAGES, [{}, {}]),
        densevit.DataError,
        "heads.detection needs boxes, labels. Found: nothing",
    ),
    "no targets": (lambda: detector().loss(IMAGES), densevit.DataError, "needs boxes, labels. Found: nothing"),
    "labels by another name": (
        lambda: detector().loss(IMAGES, [{"boxes": x["boxes"], "class_labels": x["labels"]} for x in BOXES]),
        densevit.DataError,
        "needs boxes, labels. Found: boxes, class_labels. Fix: use these keys",
    ),
    "maps of floats": (
        lambda: segmenter().loss(IMAGES, [{"semantic": mask.float()} for mask in MASKS]),
        densevit.DataError,
        "image 0: semantic has the type float32; expected uint8",
    ),
    "masks of another size": (
        lambda: segmenter().loss(IMAGES, MASKS[:, ::2, ::2]),
        densevit.DataError,
        r"image 0: semantic has shape \(25, 35\); expected \(50, 70\), like the image",
    ),
    "depth of another size": (
        lambda: depth_estimator().loss(IMAGES, torch.rand(2, 100, 140)),
        densevit.DataError,
        r"image 0: depth has shape \(100, 140\); expected \(50, 70\)",
    ),
    "labels from 1": (
        lambda: detector().loss(IMAGES, [{**BOXES[0], "labels": torch.tensor([2, 1])}, BOXES[1]]),
        densevit.DataError,
        "labels .*0 to 1",
    ),
    "too few targets": (lambda: detector().loss(IMAGES, BOXES[:1]), densevit.DataError, "a list of 2 dicts"),
    "a backbone for features": (lambda: densevit.create_model("swin"), densevit.ConfigError, "create_backbone"),
    "the optimiser's name first": (
        lambda: densevit.create_optimizer("adamw", segmenter()),
        densevit.ConfigError,
        r"create_optimizer\(model, name='adamw'",
    ),
    "relative depth": (
        lambda: depth_estimator().predict(IMAGES[0]).depth,
        AttributeError,
        "Relative depth is inverse_depth. Fix: for metres, .*output=softplus",
    ),
    "one split": (
        lambda: densevit.DenseDataModule(train=densevit.create_dataset("scenes")),
        densevit.ConfigError,
        "train or val is missing",
    ),
    "JSON of a result": (lambda: json.dumps(segmenter().predict(IMAGES[0])), TypeError, "not JSON serializable"),
}


@pytest.mark.parametrize(
    "line", [pytest.param(x, marks=pytest.mark.integration) if x == "one split" else x for x in FAIL]
)
def test_the_line_says_what_to_type(line):
    call, error, message = FAIL[line]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_floats_and_bytes_give_the_same_outputs_and_padding_changes_nothing():
    model = segmenter().eval()
    with torch.no_grad():
        by_bytes = model(IMAGES)["segmentation"]["logits"]
        torch.testing.assert_close(model(IMAGES / 255)["segmentation"]["logits"], by_bytes)
        samples = [{"image": image, "targets": {}} for image in IMAGES]
        batch = densevit.collate(samples, model.size_divisor)
        assert torch.equal(model(batch)["segmentation"]["logits"], by_bytes)


def test_loss_is_that_of_a_batch_and_trains():
    model = segmenter()
    targets = [{"size": (50, 70), "semantic": mask.to(torch.uint8)} for mask in MASKS]
    batch = densevit.collate(
        [{"image": image, "targets": target} for image, target in zip(IMAGES, targets, strict=True)], model.size_divisor
    )
    with torch.no_grad():
        losses, of_batch = model.eval().loss(IMAGES, MASKS), model.loss(batch)
        others = model.loss(batch, [{"size": (50, 70), "semantic": 1 - target["semantic"]} for target in targets])
    assert losses == of_batch and len(losses) > 0 and losses != others
    torch.stack([*model.train().loss(IMAGES, MASKS).values()]).sum().backward()
    assert any(p.grad.any() for p in model.parameters())


def test_ranges_of_floats_are_compared_at_each_call_and_in_subclasses_of_tensors():
    model = segmenter().eval()
    normalised = (IMAGES / 255 - 0.45) / 0.22
    model(IMAGES / 255)
    for images in (normalised, tv_tensors.Image(normalised)):
        with pytest.raises(densevit.DataError, match="leave normalisation out"):
            model(images)
        with pytest.raises(densevit.DataError, match="leave normalisation out"):
            model({"images": images, "padding_mask": torch.zeros(2, 50, 70, dtype=torch.bool), "targets": [{}, {}]})
    meta = segmenter().to("meta")
    assert meta(torch.empty(1, 3, 64, 64, device="meta"))["segmentation"]["logits"].device.type == "meta"


def test_integer_masks_train_as_their_classes_and_minus_100_is_ignored_with_one_warning():
    model = segmenter().eval()
    bytes_, ignored = MASKS.to(torch.uint8), MASKS.masked_fill(torch.arange(70) < 9, -100)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for masks in (MASKS, MASKS.to(torch.int8), MASKS.bool(), MASKS[:, None].short()):
            assert model.loss(IMAGES, masks) == model.loss(IMAGES, bytes_)
        expected = model.loss(IMAGES, bytes_.masked_fill(torch.arange(70) < 9, 255))
    with torch.no_grad(), pytest.warns(UserWarning, match="semantic: -100 is ignored, like 255") as caught:
        assert model.loss(IMAGES, ignored) == expected
        assert model.loss(IMAGES, [{"semantic": x} for x in ignored]) == expected
    assert len(caught) == 1


@pytest.mark.parametrize("value", [-1, 2, 256, 300, -99])
def test_masks_of_no_class_are_an_error_with_class_and_count(value):
    masks = MASKS.clone()
    masks[0, 0, :7] = value
    pattern = (
        f"image 0: semantic has values of no class in 7 pixels, such as {value}; expected 0 to 1, or 255 = ignored"
    )
    with pytest.raises(densevit.DataError, match=pattern):
        segmenter().loss(IMAGES, masks)


def test_masks_of_0_and_255_are_named():
    for masks in (MASKS * 255, (MASKS * 255).to(torch.uint8)):
        with pytest.raises(densevit.DataError, match=r"only the values 0 and 255 .* Fix: masks // 255"):
            segmenter().loss(IMAGES, masks)
    segmenter(classes=3).loss(IMAGES, MASKS * 255)
    some = MASKS.clone()
    some[0, 0] = 255
    segmenter().loss(IMAGES, some)
