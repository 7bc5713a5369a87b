"""`DenseModel.predict` with small stand-ins for the model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import config as configs
from densevit.layers import table_cache
from densevit_backbones.swin import Swin
from tests.built_models import build_model
from tests.model.small_models import CLASSES, Averaged, Depth, Mean, model_of, of_heads


class Thirds(Mean):
    """A head that finds three objects with scores 1/4, 1/2 and 3/4."""

    def predict(self, outputs, targets):
        boxes = torch.arange(12.0).reshape(3, 4)
        scores, labels = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0, 1, 0])
        return [{"boxes": boxes, "scores": scores, "labels": labels} for _ in targets]


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_result_depends_neither_on_batch_size_nor_neighbours():
    predictor = of_heads(Swin("nano"), detection=Mean)
    images = [random_image(*size) for size in [(40, 70), (64, 64), (33, 20), (40, 70), (10, 96), (61, 59), (40, 71)]]
    together = [found["mean"] for found in predictor.predict(images)]
    one_by_one = [predictor.predict(p)["mean"] for p in images]
    by_two = [found["mean"] for found in predictor.predict(images, batch_size=2)]
    assert torch.stack(together).std(dim=0).mean() > 1e-3
    assert len(predictor.predict(images[0][None])) == 1 and predictor.predict([]) == []
    for others in (one_by_one, by_two):
        for x, y in zip(together, others, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_an_endless_iterator_gives_an_iterator():
    """A camera's frames: the first result comes although the frames never end."""
    read: list[int] = []

    def frames():
        while True:
            read.append(1)
            yield random_image(8, 8)

    predictor = of_heads(Averaged(), detection=Thirds)
    results = predictor.predict(frames(), batch_size=1)
    assert not read and next(results).scores.tolist() == [0.5, 0.75] and next(results).size == (8, 8)
    assert len(read) <= 2 * 4, "two blocks of four batches"
    for iterator in (iter([random_image(8, 8)] * 3), map(random_image, (8, 9), (8, 9))):
        assert not isinstance(predictor.predict(iterator), list)
    assert [found.size for found in predictor.predict(map(random_image, (8, 9), (8, 7)))] == [(8, 8), (9, 7)]
    with pytest.raises(densevit.errors.DensevitError, match="batch_size"):
        predictor.predict(frames(), batch_size=0)  # at the call


def test_equal_padded_sizes_run_together_up_to_the_batch_size():
    predictor = of_heads(Averaged(), detection=Mean)
    sizes: list[int] = []
    predictor.backbone.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    found = predictor.predict(
        [random_image(8, 8), random_image(16, 8), random_image(5, 7), random_image(8, 1), random_image(9, 2)],
        batch_size=2,
    )
    assert sizes == [2, 2, 1]  # 8x8 and 5x7; 16x8 and 9x2; 8x1
    assert [f["image_id"] for f in found] == [0, 1, 2, 3, 4]
    assert [f["grid"].tolist() for f in found] == [[8, 8], [16, 8], [8, 8], [8, 8], [16, 8]]


def test_threads_predict_what_one_does():
    """Also where they share cached tables, of which there are more than the cache holds."""
    transformer = {"width": 64, "encoder_layers": 1, "decoder_layers": 1}
    detr = {"name": "deformable_detr", "num_queries": 5, "transformer": transformer}
    predictor = densevit.create_model({"name": "vit", "variant": "nano"}, {"things": detr}, {"things": ["cat"]})
    images = [random_image(32 + 16 * (i % 5), 48 + 16 * (i % 3)) for i in range(9)]
    expected = [predictor.predict(image) for image in images]
    table_cache._CACHE.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor.predict, images))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.boxes, other.boxes)
        torch.testing.assert_close(own.scores, other.scores)


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_model_in_the_mode_it_was_in(training):
    predictor = of_heads(Averaged(), detection=Mean)
    predictor.train(training)
    first = predictor.predict(random_image(8, 8)).mean
    assert torch.equal(first, predictor.predict(random_image(8, 8)).mean)  # without dropout
    assert all(module.training == training for module in predictor.modules())
    assert not first.requires_grad


def test_the_threshold_of_the_validation_is_used_unless_another_is_given():
    predictor = of_heads(Averaged(), detection=Thirds, others=Thirds)
    predictor.score_thresholds = {"detection": 0.6}
    found = predictor.predict(random_image(8, 8))
    assert found.thresholds == predictor.default_thresholds == {"detection": 0.6, "others": 0.5}
    assert (len(found["detection"].boxes), len(found["others"].boxes)) == (1, 2)
    exact = predictor.predict(random_image(8, 8), threshold=0.5)["others"]
    assert exact.boxes.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert (exact.scores.tolist(), exact.labels.tolist(), exact.names) == ([0.5, 0.75], [1, 0], ["dog", "cat"])
    found = predictor.predict(random_image(8, 8), threshold={"others": 0.2})
    assert (len(found["detection"].boxes), len(found["others"].boxes)) == (1, 3)
    with pytest.raises(
        densevit.DensevitError, match="threshold has the key 'other', which is not a head. Did you mean 'othe"
    ):
        predictor.predict(random_image(8, 8), threshold={"other": 0.7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 50}, "predict: threshold is 50; .*0 to 1"),
        ({"threshold": [0.5, 0.6]}, r"predict: threshold is \[0.5, 0.6\]; .*for all images"),
        ({"inference": [{"flip": True}]}, r"predict: inference is \[.*for all images"),
        ({"batch_size": 0}, "predict: batch_size is 0"),
        ({"batch_size": [1, 2]}, r"predict: batch_size is \[1, 2\]"),
        ({"focal": [500, 600]}, r"predict: focal is \[500, 600\]; .*camera: canonical"),
        ({"images": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(options, message):
    with pytest.raises(densevit.DensevitError, match=message):
        of_heads(Averaged(), detection=Thirds).predict(**{"images": random_image(8, 8), **options})


def canonical_model():
    """Depth of a canonical camera of 300 pixels: at 600 pixels it is twice as large."""
    predictor = model_of(Averaged(), Depth)
    predictor.heads["depth"].canonical_focal = 300
    return predictor


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_each_image_has_its_focal_length(kind):
    predictor, images = canonical_model(), [random_image(8, 8)] * 3
    depth = predictor.predict(images[0], focal=np.float32(300)).depth
    for stream in (images, iter(images), np.stack(images)):
        results = predictor.predict(stream, focal=kind([300, 600, 900]), batch_size=2)
        for factor, result in zip((1, 2, 3), results, strict=True):
            torch.testing.assert_close(result.depth, factor * depth)
    for result in predictor.predict(images, focal=600):
        torch.testing.assert_close(result.depth, 2 * depth)
    torch.testing.assert_close(predictor.predict(images[0], focal=[600]).depth, 2 * depth)


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_focal_lengths_than_images_is_an_error(number, tmp_path):
    predictor, images, focals = canonical_model(), [random_image(8, 8)] * 2, [300.0] * number
    for position, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{position}.png")
    message = f"focal is a list of length {number}, but the number of images is (at least )?2"
    with pytest.raises(densevit.DensevitError, match=message):
        predictor.predict(images, focal=focals)
    with pytest.raises(densevit.DensevitError, match=message):
        predictor.iterate(images, focal=focals)  # at the call
    for stream in (iter(images), tmp_path):
        with pytest.raises(densevit.DensevitError, match=message):
            [*predictor.predict(stream, focal=focals)]
    with pytest.raises(densevit.DensevitError, match="the number of images is 1"):
        predictor.predict(images[0], focal=[300.0, 600.0])
    with pytest.raises(densevit.DensevitError, match=r"focal is \[300, 0\]"):
        predictor.predict(images, focal=[300, 0])


def test_a_config_gives_the_size_of_images_and_the_model_its_parts():
    sections = {
        "backbone": {"name": "tests.model.small_models:Averaged"},
        "heads": {"detection": {"name": "tests.model.small_models:Mean"}},
    }
    rest = {"data": {"name": "scenes", "image_size": 32}, "trainer": {"max_steps": 1}}
    predictor = build_model(configs.from_mapping({**sections, **rest}), {"detection": CLASSES})
    assert predictor.predict(random_image(40, 80)).sizes == [(16, 32), (40, 80)]
    assert predictor.to(torch.float64) is predictor and predictor.backbone.scale.dtype == torch.float64
    assert predictor.device == torch.device("cpu")
