"""Laws of all evaluators: batches, order, processes and repeated images do not matter, nor do values without label."""

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from densevit import registry
from densevit.interfaces import Class, Evaluator, Predictions, Targets
from densevit.targets.types import TargetTypes
from tests.evaluation.evaluated import image_scores_of, tables_of

K, SIZE = 4, (24, 32)
CLASSES = [Class(name, i, (i, i, i), thing=i < 2) for i, name in enumerate(("cat", "dog", "sky", "sea"))]
# The key of the ground truth that each evaluator reads; None: objects.
KEYS = {
    "classification": "image_class",
    "segmentation": "semantic",
    "depth": "depth",
    "panoptic": "panoptic",
    "detection": None,
    "coco_masks": None,
}


OPTIONS: dict[str, dict[str, Any]] = {
    "panoptic": {"masks": False},  # its things have other labels than these objects
    "depth": {"per_pixel": True, "deltas": [1.1]},
    "segmentation": {"boundary": 0.1},
    "coco_masks": {"boundary": True},
}


def evaluator(name: str) -> Evaluator:
    made: Evaluator = registry.create("evaluators", name, CLASSES, options=OPTIONS.get(name, {}), where=name)
    return made


def image(index: int) -> tuple[Predictions, Targets]:
    """Predictions and ground truth of all tasks, which partly agree; a part of the ground truth is unlabelled."""
    rng, types = np.random.default_rng(index), TargetTypes()
    truth: dict[str, Any] = {"image_id": index, "size": SIZE, "original_size": SIZE, "iscrowd": np.zeros(3, bool)}
    for key in ("image_class", "semantic", "depth", "panoptic", "boxes", "labels", "masks"):
        truth[key] = types[key].random(SIZE, 3, K, np.random.default_rng(index))
    truth["area"] = (truth["boxes"][:, 2:] - truth["boxes"][:, :2]).prod(1)
    noise = rng.random(SIZE) < 0.3
    semantic = np.where(noise, rng.integers(K, size=SIZE), np.minimum(truth["semantic"], K - 1)).astype(np.uint8)
    panoptic = np.where(noise, 1000 * rng.integers(K, size=SIZE), truth["panoptic"]).astype(np.int32)
    found = {
        "class_scores": rng.dirichlet(np.ones(K)).astype(np.float32),
        "semantic": semantic,
        "panoptic": panoptic,
        "depth": (truth["depth"] + rng.uniform(0.1, 1, SIZE)).astype(np.float32),
        "boxes": truth["boxes"] + 1,
        "labels": truth["labels"],
        "masks": np.asarray(truth["masks"]),
        "scores": rng.random(3).astype(np.float32),
    }
    return tensors(found), tensors(truth)


def tensors(values: dict[str, Any]) -> dict[str, Any]:
    return {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in values.items()}


def metrics(name: str, images: list[tuple[Predictions, Targets]]) -> dict[str, float]:
    made = evaluator(name)
    made.update(*([*side] for side in zip(*images, strict=True)))
    return made.metrics()


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found == pytest.approx(expected, nan_ok=True)
    assert any(0 < value < math.inf for value in expected.values()), "the case measures nothing"


def nothing(key: str) -> Iterator[torch.Tensor]:
    for value in TargetTypes()[key].unlabelled(SIZE):
        yield torch.from_numpy(value)


def test_every_evaluator_has_a_case() -> None:
    assert KEYS.keys() == registry.find("evaluators").keys()


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key])
def test_an_image_whose_value_labels_nothing_is_not_counted(name: str) -> None:
    key, labelled = KEYS[name], [image(0), image(1)]
    assert key is not None
    expected = metrics(name, labelled)
    for value in nothing(key):
        found, truth = image(2)
        bare = {k: truth[k] for k in ("image_id", "size", "original_size")} | {key: value}
        same(metrics(name, [*labelled, (found, bare)]), expected)


@pytest.mark.parametrize("name", KEYS)
def test_batches_order_processes_and_repeated_images_do_not_matter(name: str) -> None:
    """To the last bit, with an image without labels and a process without images."""
    images = [image(index) for index in range(7)]
    images[3] = (images[3][0], {key: images[3][1][key] for key in ("image_id", "size", "original_size")})

    def updated(batches: list[Any]) -> Evaluator:
        made = evaluator(name)
        for batch in batches:
            made.update(*([*side] for side in zip(*batch, strict=True)))
        return made

    whole = updated([images])
    expected, tables = str(whole.metrics()), str(tables_of(whole))
    assert str(updated([images[5:], images[:2], images[2:5]]).metrics()) == expected
    assert str(updated([images[::-1], images[:2]]).metrics()) == expected  # two images twice
    shards = [updated([images[:1]]), updated([images[1:5]]), updated([images[5:], images[5:6]]), updated([])]
    states = pickle.loads(pickle.dumps([shard.state() for shard in shards]))
    for shard in shards:
        shard.merge(states)
        assert str(shard.metrics()) == expected and str(tables_of(shard)) == tables
        assert image_scores_of(shard) == pytest.approx(image_scores_of(whole), abs=1e-6)
    whole.reset()
    assert str(whole.metrics()) == str(evaluator(name).metrics()) and all(map(math.isnan, whole.metrics().values()))
    for one in images:
        whole.update([one[0]], [one[1]])
    assert str(whole.metrics()) == expected


def unnamed(indices: range) -> tuple[list[Predictions], list[Targets]]:
    """Images of an own loop, whose ground truth has no `image_id`."""
    predictions, truths = zip(*map(image, indices), strict=True)
    return [*predictions], [{k: x for k, x in truth.items() if k != "image_id"} for truth in truths]


@pytest.mark.parametrize("name", KEYS)
def test_images_without_id_count_in_merged_evaluators_and_copies_as_in_one(name: str) -> None:
    """To the last bit: two evaluators of one process, images after `merge`, pickled and copied after `metrics`."""
    whole, first, second = (evaluator(name) for _ in range(3))
    whole.update(*unnamed(range(6)))
    first.update(*unnamed(range(2)))
    second.update(*unnamed(range(2, 4)))
    first.merge([first.state(), second.state()])
    first.update(*unnamed(range(4, 6)))
    same(first.metrics(), whole.metrics())
    assert str(first.metrics()) == str(whole.metrics()) and len(first.records) == 6
    tables = str(tables_of(first))
    expected = str(metrics(name, [image(index) for index in range(8)]))
    copies = [pickle.loads(pickle.dumps(first)), copy.deepcopy(first)]
    for index, made in enumerate(copies):
        assert str(made.metrics()) == str(whole.metrics()) and str(tables_of(made)) == tables
        made.update(*unnamed(range(6 + index, 7 + index)))
    first.merge([made.state() for made in copies])
    assert str(first.metrics()) == expected and len(first.records) == 8


@pytest.mark.parametrize("name", [name for name in KEYS if len(evaluator(name).reads) == 1])
def test_values_alone_are_those_of_the_keys_that_an_evaluator_reads(name: str) -> None:
    dicts, alone, truth_key = evaluator(name), evaluator(name), KEYS[name]
    reads = dicts.reads[0]
    key = reads if isinstance(reads, str) else reads[0]
    predictions, truths = unnamed(range(4))
    found, labels = [x[key] for x in predictions], [x[truth_key] for x in truths]
    dicts.update([{key: x} for x in found], [{truth_key: x} for x in labels])
    alone.update(torch.stack(found), torch.as_tensor(np.stack(labels)))
    same(alone.metrics(), dicts.metrics())
    alone.reset()
    alone.update([x.tolist() for x in found] if key == "class_scores" else found, labels)
    same(alone.metrics(), dicts.metrics())
