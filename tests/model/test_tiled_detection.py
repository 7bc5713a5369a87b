"""Detection in windows: an oracle finds every object of a large image once, and one window equals one pass."""

import numpy as np
import pytest
import torch

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError
from densevit.interfaces import Class, Head
from densevit.model import DenseModel, inference_by_head
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr.head import Detr
from tests.model import small_models
from tests.model.small_models import Segmenter, inferred

CLASSES = tuple(Class(str(i), i, (0, 0, 0)) for i in range(1, 4))


class Pixels(small_models.Pixels):
    """The pixels, 0 ... 255, padded to multiples of 4."""

    size_divisor, mean, std = 4, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)


class Oracle(Head):
    """Finds each painted object, red = class + 1, green = its number, as far as its image shows it."""

    task, required_targets = "detection", ("boxes", "labels")
    extra = ()

    def forward(self, features, padding_mask, targets=None):
        self.runs = [*getattr(self, "runs", []), tuple(padding_mask.shape)]
        return {"pixels": features[0].round().long()}

    def predict(self, outputs, targets):
        found = []
        for pixels, target in zip(outputs["pixels"], targets, strict=True):
            numbers = pixels[1].unique()
            boxes, labels = [], []
            for number in numbers[numbers > 0]:
                y, x = (pixels[1] == number).nonzero(as_tuple=True)
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
                labels.append(pixels[0, y[0], x[0]] - 1)
            (h, w), (H, W) = target["size"], target["original_size"]
            table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            scores = 0.5 + 0.4 * (table[:, 2:] - table[:, :2]).prod(1) / (h * w)  # higher for larger parts
            rows = {"boxes": table * torch.tensor([W / w, H / h] * 2), "scores": scores}
            extra = {key: torch.zeros(len(boxes), 3, 3) for key in self.extra}
            found.append({**rows, "labels": torch.tensor(labels, dtype=torch.int64), **extra})
        return found


class Masks(Oracle):
    """A head of instance masks."""

    required_targets = ("masks", "labels")


def painted(size, count, largest, seed=0):
    """An image (3, H, W) of rectangles that do not touch, and their boxes and labels."""
    rng = np.random.default_rng(seed)
    image, boxes, labels = np.zeros((3, *size), np.uint8), [], []
    free = np.ones(size, bool)
    while len(boxes) < count:
        h, w = rng.integers(3, largest + 1, 2)
        y, x = rng.integers(0, size[0] - h + 1), rng.integers(0, size[1] - w + 1)
        around = (slice(max(y - 1, 0), y + h + 1), slice(max(x - 1, 0), x + w + 1))
        if not free[around].all():
            continue
        free[around] = False
        labels.append(int(rng.integers(3)))
        image[0, y : y + h, x : x + w], image[1, y : y + h, x : x + w] = labels[-1] + 1, len(boxes) + 1
        boxes.append((x, y, x + w, y + h))
    truth = {"boxes": torch.tensor(np.array(boxes, np.float32)), "labels": torch.tensor(labels)}
    return torch.from_numpy(image), truth


def oracle(*heads):
    heads = heads or (Oracle,)
    return DenseModel(Pixels(), {head.__name__.lower(): head((3,), (4,), CLASSES) for head in heads}).eval()


def as_set(found):
    return sorted((label, *box) for label, box in zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize(("largest", "stride"), [(90, 100), (40, 53)])
def test_each_object_of_a_large_image_is_found_once(largest, stride):
    """512 x 512 in windows of 160; objects up to the overlap of 60, larger ones, and windows that overlap threefold."""
    image, truth = painted((512, 512), 120 if largest < 90 else 40, largest)
    model = oracle()
    batch = collate([{"image": image, "targets": {"size": (512, 512), "original_size": (512, 512)}}], 4)
    sections = inference_by_head(model, InferenceSection(window=160, stride=stride, batch_size=3))
    [found] = inferred(model, batch, sections)["oracle"]
    assert as_set(found) == as_set(truth)


def test_windows_are_of_the_resized_image_and_boxes_of_the_original():
    image, truth = painted((230, 300), 30, 25)
    model = oracle()
    batch = collate([{"image": image, "targets": {"size": (230, 300), "original_size": (460, 900)}}], 4)
    sections = inference_by_head(model, InferenceSection(window=(100, 130), stride=(60, 90), batch_size=5))
    [found] = inferred(model, batch, sections)["oracle"]
    expected = {**truth, "boxes": truth["boxes"] * torch.tensor([3.0, 2, 3, 2])}
    assert as_set(found) == as_set(expected)
    assert model.heads["oracle"].runs == [(5, 100, 132), (5, 100, 132), (2, 100, 132)]  # 4 x 3 windows


@torch.no_grad()
def test_an_image_that_fits_into_a_window_is_predicted_in_one_pass():
    sizes = dict(num_queries=9, transformer=Transformer(16, 2, 1, 1, 16))
    model = DenseModel(Pixels(), {"detection": Detr((3,), (4,), CLASSES, **sizes)}).eval()
    model.backbone.strides = (4,)
    model.backbone.forward = lambda images: [images[..., ::4, ::4] / 255]
    image = torch.randint(0, 256, (3, 41, 54), dtype=torch.uint8)
    targets = {"size": (41, 54), "original_size": (60, 70)}
    batch = collate([{"image": torch.nn.functional.pad(image, (0, 10, 0, 3)), "targets": targets}], 4)
    for window in (64, (41, 54)):
        sections = inference_by_head(model, InferenceSection(window=window))
        [plain], [found] = model.infer(batch)["detection"], inferred(model, batch, sections)["detection"]
        assert plain.keys() == found.keys()
        assert all(torch.equal(plain[key], found[key]) for key in plain)
    # Boxes of several windows have descending scores, and do not depend on the batches.
    few, many = (
        inferred(model, batch, inference_by_head(model, InferenceSection(window=24, batch_size=n)))["detection"][0]
        for n in (1, 50)
    )
    assert len(few["boxes"]) > 9 and (few["scores"].diff() <= 0).all()
    torch.testing.assert_close(few, many)


def test_flips_and_scales_of_boxes_are_an_error_and_other_heads_keep_their_own_sections():
    model = oracle(Segmenter, Oracle, Masks)
    section = InferenceSection(window=64, stride=32, flip=True, batch_size=2)
    windows = InferenceSection(window=64, stride=32, batch_size=2)
    assert inference_by_head(model, section) == {"segmenter": section, "oracle": windows}  # masks: one pass
    whole = {"oracle": InferenceSection()}
    assert inference_by_head(model, section, whole) == {"segmenter": section, **whole}
    assert model.with_inference({"window": 64, "flip": True}).inference == {
        "segmenter": InferenceSection(window=64, flip=True),
        "oracle": InferenceSection(window=64),
    }
    averaged = InferenceSection(window=64, average="probabilities")
    for refused, general, own, facts in (
        (model, InferenceSection(), {"oracle": section}, r"^heads\.oracle\.inference\.flip=true .*Fix: leave it out"),
        (model, section, {"masks": windows}, r"heads\.masks\.inference.*\(it needs masks, labels\)"),
        (oracle(Masks), windows, {}, r"^inference\.window=64 .*heads\.masks \(tests.*:Masks\).*needs masks, labels"),
        (oracle(Oracle), section, {}, r"^inference\.flip=true .*support windows. Fix: leave it"),
        (oracle(Oracle), averaged, {}, r"^inference\.average=probabilities"),
        (model, windows, {"oracle": averaged}, r"^heads\.oracle\.inference\.average=probabilities"),
        (oracle(Oracle), InferenceSection(scales=(0.5,)), {}, r"^inference\.scales=\[0.5\]"),
    ):
        with pytest.raises(ConfigError, match=facts):
            inference_by_head(refused, general, own)
