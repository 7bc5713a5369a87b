"""DeiT's distillation: equations 2 and 3 and the authors' loss, classes by name, images without labels, a training."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import densevit
from densevit.errors import ConfigError
from densevit.interfaces import LossContext
from densevit_methods import classifiers
from densevit_methods.deit import DeiT
from tests.methods.pretraining import batch_of, randomised

CLASSES = ("bus", "cat", "dog", "cow")
VIT = {"name": "vit", "variant": "nano", "distillation_token": True, "drop_path": 0.0}
HEAD = {"name": "classifier", "tokens": 2, "label_smoothing": 0.0}


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher for one more class, in another order."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    made = densevit.create_model(
        {"name": "resnet", "depth": 18}, {"kinds": {"name": "classifier"}}, classes=["cow", "elk", "dog", "cat", "bus"],
        pretrained=False,
    )  # fmt: skip
    torch.nn.init.normal_(made.heads["kinds"].classifier.weight, std=0.05)
    densevit.save(made, path)
    return str(path)


def built(teacher: str, weight: float = 1.0, **options: Any) -> tuple[Any, DeiT, dict[str, Any]]:
    """A student, the method, and a batch of three images with labels and one without."""
    heads = {"classification": {**HEAD, "loss_weight": weight}}
    model = densevit.create_model(VIT, heads, classes=CLASSES, pretrained=False)
    batch: Any = batch_of((64, 96), (64, 96), (50, 70), (64, 96))
    for target, label in zip(batch["targets"], (2, 0, 3), strict=False):
        target["image_class"] = torch.tensor(label)
    return randomised(model, 0.5).train(), DeiT(model, teacher, **options).train(), batch


def logits(teacher: str, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the two classifiers, and of the teacher in the student's order of classes."""
    with torch.no_grad():
        theirs = densevit.load(teacher)(batch)["kinds"]["logits"][:, [4, 3, 2, 0]]
    own = model(batch)["classification"]
    return own["logits"], own["distillation_logits"], theirs


def test_hard_distillation_is_equation_3(teacher_file: str) -> None:
    """If the teacher's classes are the labels, it is what `supervised` computes: the loss is replaced, not added."""
    share = 0.1
    model, method, batch = built(teacher_file, share=share)
    losses = method.training_step(model, batch, LossContext())
    first, second, teacher = logits(teacher_file, model, batch)
    probabilities = first.softmax(1)[range(3), [2, 0, 3]], second.softmax(1)[range(4), teacher.argmax(1)]
    scores = torch.randn(9, 4), torch.randn(9, 4)
    each = torch.stack([-own.softmax(0)[other.argmax()].log() for own, other in zip(*scores, strict=True)])
    torch.testing.assert_close(method.errors(*scores), each)
    expected = [(1 - share) * -probabilities[0].log().mean(), share * -probabilities[1].log().mean()]
    found = [losses["classification/cross_entropy"], losses["classification/distillation_cross_entropy"]]
    assert len(losses) == 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not method.state_dict() and not any(module.training for module in method.teacher.modules())

    model, method, batch = built(teacher_file)
    for target, label in zip(batch["targets"], logits(teacher_file, model, batch)[2].argmax(1), strict=True):
        target["image_class"] = label
    supervised = densevit.create_method("supervised", model).training_step(model, batch, LossContext())
    torch.testing.assert_close(dict(method.training_step(model, batch, LossContext())), dict(supervised))


def test_soft_distillation_is_equation_2(teacher_file: str) -> None:
    """The sum written out."""
    share, temperature = 0.1, 3.0
    model, method, batch = built(teacher_file, 2.0, distillation="soft", share=share, temperature=temperature)
    losses = method.training_step(model, batch, LossContext())
    first, second, teacher = (x.double() for x in logits(teacher_file, model, batch))
    p, q = (teacher / temperature).softmax(1), (second / temperature).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    found = losses["classification/distillation_cross_entropy"].double()
    torch.testing.assert_close(found, 2 * share * temperature**2 * divergence, rtol=1e-4, atol=1e-5)
    label = -first.log_softmax(1)[range(3), [2, 0, 3]].mean()
    torch.testing.assert_close(losses["classification/cross_entropy"].double(), 2 * (1 - share) * label)


def published(model: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """A model of timm whose random weights are published under its name."""
    import timm

    net = timm.create_model(model, **options)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.normal_(1.0 if value.ndim == 1 else 0.0, 0.05)
    weights = SimpleNamespace(state_dict=net.state_dict)
    monkeypatch.setattr(classifiers, "pretrained_model", lambda *_: weights)
    return net.eval()


@pytest.mark.integration
@pytest.mark.parametrize(("model", "size"), [("resnet10t", (64, 96)), ("vit_tiny_patch16_224", (224, 224))])
def test_teacher_is_a_published_classifier_of_timm(
    model: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits are timm's, of images with its normalisation; the classes are found by ImageNet's folder names."""
    net = published(model, monkeypatch)
    mean, std = (torch.tensor(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    folders = ["n02123045", "n01440764"]  # tabby and tench: classes 281 and 0
    student = densevit.create_model(VIT, {"classification": HEAD}, classes=folders, pretrained=False)
    method = DeiT(student, f"timm:{model}").train()
    batch = batch_of((64, 96), (40, 96))
    pixels = ((batch["images"] / 255 - mean) / std) * ~batch["padding_mask"][:, None]
    with torch.no_grad():
        expected = net(F.interpolate(pixels, size, mode="bilinear", antialias=True))[:, [281, 0]]
    torch.testing.assert_close(method.log_probabilities(batch), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01
    assert not method.state_dict() and not any(p.requires_grad for p in method.parameters())


def test_wrong_options_are_errors(teacher_file: str) -> None:
    def student(classes: Any = CLASSES, **options: Any) -> Any:
        return densevit.create_model(VIT, {"kinds": {**HEAD, **options}}, classes=classes, pretrained=False)

    lacking = r"heads\.kinds: .* lacks 1 of 5 classes: yak\. It has cow, elk, "
    for model, options, error, message in (
        (student([*CLASSES, "yak"]), {}, ConfigError, lacking),
        (student(), {"share": 2}, ValueError, "share is 2"),
        (student(tokens=1), {}, ConfigError, "needs one head with a distillation token; 0 of 1 heads"),
        (student(loss_weight="learned"), {}, ConfigError, r"heads\.kinds\.loss_weight is learned"),
    ):
        with pytest.raises(error, match=message):
            DeiT(model, teacher_file, **options)
