"""densevit/training/loop/validation_images.py: a validation counts each id of each loader once."""

from typing import Any

import pytest

from densevit.config import DataSection
from densevit.data.loading.batch_sampler import EvaluationBatches, collate
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.transform_builder import build_transforms
from densevit.errors import DataError
from densevit.evaluation.miou import SemanticSegmentation
from tests.training.loop.test_dense_module import CLASSES, Images, loader, module_of, reference, trainer_of


def same_ids(targets: dict[str, Any], index: int) -> None:
    """Two images have one id, and would count as one."""
    targets["image_id"] = index % 2
    del targets["size"], targets["original_size"]


def same_id(targets: dict[str, Any], index: int) -> None:
    targets["image_id"] = index % 2


def own_loader(data: Any) -> Loader:
    transform = build_transforms(DataSection(name="scenes", image_size=4))[1]
    return Loader(TransformedDataset(data, transform, train=False), EvaluationBatches(len(data), None, 1), 4, 0)


def test_wrong_predictions_ids_and_targets_are_named_while_validating() -> None:
    resized = Images(2, lambda targets, index: targets.update(original_size=(8, 8)))
    wrong = module_of()
    predict = wrong.model.heads["map"].predict
    wrong.model.heads["map"].predict = lambda *x: [{"semantic": one["semantic"].long()} for one in predict(*x)]
    for module, data, message in (
        (wrong, loader(2), r"^heads\.map: Image 0: .* is \(4, 4\) int64; .* labels\.to\(torch\.uint8\)"),
        (module_of(), loader(resized), r"Image 0: its validation target has no `truth`, and its size \(4, 4\)"),
        (module_of(), own_loader(Images(3, same_ids)), r"^Samples 0 and 2 of the data set have the same image_id 0;"),
        (
            module_of(),
            loader(Images(3, same_id)),
            r"^Samples 0 and 2 of the data set have the same image_id 0;.* Fix: ",
        ),
        (module_of(), [loader(2), loader(Images(3, same_id))], r"^Samples 0 and 2 .* the same image_id '1/0';.* Fix: "),
    ):
        with pytest.raises(DataError, match=message):
            trainer_of().validate(module, data, verbose=False)


def test_equal_ids_in_several_validation_loaders_are_different_images() -> None:
    """Each metric of every evaluator, by the images of both loaders under ids of their own."""
    other = Images(3, lambda targets, index: targets.update(semantic=1 - targets["semantic"]))
    renamed = Images(3, lambda targets, index: targets.update(semantic=1 - targets["semantic"], image_id=str(index)))
    module, evaluator = module_of(), SemanticSegmentation(CLASSES)
    trainer_of().validate(module, [loader(5), loader(other)], verbose=False)
    for data in (Images(5), renamed):
        for sample in (data[index] for index in range(len(data))):
            evaluator.update(module.model.eval().infer(collate([sample]))["map"], [sample["targets"]])
    assert module.validation.metrics == {f"map/{name}": value for name, value in evaluator.metrics().items()}
    assert module.validation.metrics != reference(module.model, 5)
