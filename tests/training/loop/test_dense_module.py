"""DenseModule and DenseDataModule in a Trainer, and with a DataLoader, that know nothing of densevit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import densevit
from densevit.data.loading.batch_sampler import collate
from densevit.errors import ConfigError, DataError, PluginError, WeightsError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.inference.model_creation import create_model
from densevit.inference.model_loading import load
from densevit.interfaces import Class, Head
from densevit.model import DenseModel
from densevit_scenes.dataset import Scenes
from tests.counted_dataset import CountedDataset
from tests.model.small_models import Pixels
from tests.training.process_groups import in_two_processes, linux

CLASSES = (Class("dark", 0, (0, 0, 0)), Class("bright", 1, (9, 9, 9)))
SURFACES = Scenes("val", image_size=32, val_length=1).classes["segmentation"]
SCENES = {"name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "train_length": 6, "val_length": 5}
PLAIN: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


class Threshold(Head):
    """Predicts class 1 where the mean feature exceeds a learned threshold."""

    task, required_targets = "segmentation", ("semantic",)

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.bias, self.unused = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0].mean(1) - self.bias}

    def loss(self, outputs, targets, context):
        return {"l2": outputs["logits"].square().mean()}

    def predict(self, outputs, targets):
        maps = zip(outputs["logits"], targets, strict=True)
        return [{"semantic": (x[: t["size"][0], : t["size"][1]] > 0).to(torch.uint8)} for x, t in maps]


class Images(CountedDataset):
    """Plain samples without `truth`: image i has i + 1 bright pixels of 16, and its labels are those of image i.

    change: of the targets of an image, by its number.
    """

    classes: ClassVar = {"segmentation": CLASSES}
    provides = ("semantic",)

    def __init__(self, length: int, change: Callable[[dict[str, Any], int], object] = lambda targets, index: None):
        self.length, self.change = length, change

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = (torch.arange(16) <= index).to(torch.uint8).view(4, 4)
        image = torch.randint(256, (3, 4, 4), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        targets = {"semantic": labels, "image_id": index, "size": (4, 4), "original_size": (4, 4)}
        self.change(targets, index)
        return {"image": image, "targets": targets}


LACKING = Images(2, lambda targets, index: targets.pop("size"))


def module_of(classes: tuple[Class, ...] = CLASSES, **options: Any) -> Any:
    from densevit.training.loop.dense_module import DenseModule

    torch.manual_seed(0)
    model = DenseModel(Pixels(), {"map": Threshold((3,), (1,), classes)})
    return DenseModule(model, **options)


def loader(data: int | Dataset, **options: Any) -> DataLoader:
    """data: how many of `Images`, or others."""
    data = Images(data) if isinstance(data, int) else data
    return DataLoader(data, batch_size=2, collate_fn=collate, **options)


def reference(model: DenseModel, length: int) -> dict[str, float]:
    """Metrics of each image once, without Lightning."""
    evaluator = SemanticSegmentation(CLASSES)
    for sample in (Images(length)[index] for index in range(length)):
        evaluator.update(model.eval().infer(collate([sample]))["map"], [sample["targets"]])
    return {f"map/{name}": value for name, value in evaluator.metrics().items()}


def trainer_of(**settings: Any) -> Any:
    import pytorch_lightning as lightning

    return lightning.Trainer(**{**PLAIN, **settings})


# ---- a Trainer and a DataLoader of one's own ----


@pytest.mark.integration
def test_a_checkpoint_of_a_plain_trainer_predicts_and_is_evaluated(tmp_path: Path) -> None:
    """With the inference options of the predictor, at the size of the training."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule

    data = DenseDataModule(SCENES)
    torch.manual_seed(0)
    plain = create_model({"name": "resnet", "depth": 18}, {"map": "setr"}, data.data.classes["segmentation"])
    predictor = plain.with_inference({"flip": True})
    saved = ModelCheckpoint(tmp_path, monitor="map/mIoU", mode="max")
    trainer_of(max_steps=3, callbacks=[saved], enable_checkpointing=True).fit(
        DenseModule(predictor, {"lr": 1e-3}), data
    )
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    again = load(saved.best_model_path)
    assert again.config is None and again.classes == predictor.classes
    assert again.inference == predictor.inference != plain.inference
    assert again.training_data == predictor.training_data == data.data.section
    assert again.resize is not None and again.resize.evaluation_size(60, 90) == (21, 32)
    assert torch.equal(again.predict(image).semantic, predictor.predict(image).semantic)
    found, expected = densevit.evaluate(saved.best_model_path), densevit.evaluate(predictor)  # on the training's data
    assert found == pytest.approx(expected, abs=0, nan_ok=True)
    assert found["map/mIoU"] != densevit.evaluate(plain, SCENES)["map/mIoU"]


def test_a_plain_trainer_and_a_plain_loader_train_validate_and_log(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    stop = EarlyStopping("map/mIoU", mode="max", patience=2, min_delta=1.0)  # never improves by 1 after the first
    best = ModelCheckpoint(tmp_path, monitor="map/aAcc", mode="max", filename="best")
    settings: Any = {"logger": CSVLogger(tmp_path), "enable_checkpointing": True, "log_every_n_steps": 1}
    trainer = trainer_of(max_epochs=9, callbacks=[stop, best], **settings)
    module = module_of(optim={"lr": 1e-2, "schedule": "constant"})
    trainer.fit(module, loader(4, shuffle=True), loader(5))
    assert (trainer.current_epoch, stop.wait_count) == (3, 2)
    metrics = module.validation.metrics
    assert metrics == reference(module.model, 5)
    assert trainer.callback_metrics["map/mIoU"].item() == metrics["map/mIoU"]  # all bits of a float64
    assert best.best_model_score.item() >= metrics["map/aAcc"]
    written = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert all(text in written for text in ("train/loss", "train/map/l2", repr(metrics["map/mIoU"])))


# ---- densevit's data in a Trainer of one's own ----


def ids_of(module: Any, batch: Any) -> list[Any]:
    return [target["image_id"] for target in batch["targets"]]


def test_what_does_not_fit_a_trainer_of_ones_own_is_one_line() -> None:
    from densevit.training.loop.data_module import DenseDataModule

    def fit(data: Any, optim: Any = None, **settings: Any) -> None:
        trainer_of(limit_val_batches=0, **settings).fit(module_of(optim=optim), data)

    for call, error, message in (
        (lambda: fit(loader(4), {"schedule": "cosine"}, max_epochs=-1), ConfigError, "optim.schedule=cosine needs the"),
        (lambda: module_of(optim={"lrr": 1e-3}), PluginError, r"^optim\.lrr .* 'adamw'\. Did you mean 'lr'\?"),
        (
            lambda: module_of().on_load_checkpoint({"state_dict": {}}),
            WeightsError,
            "format version none, densevit .* reads 2",
        ),
        (lambda: fit(DenseDataModule(SCENES), max_epochs=2), DataError, "head 'map' in name or order.*Expected: dark,"),
        (lambda: DenseDataModule(SCENES | {"batch_size": "x"}), ConfigError, r"data\.batch_size .*x"),
        (lambda: fit(loader(LACKING), max_steps=1), DataError, r"targets\[0\] lacks 'size'"),  # the first batch
    ):
        with pytest.raises(error, match=message):
            call()


# ---- two processes, with Lightning's own distributed sampler ----


@pytest.mark.integration
@linux
def test_each_image_counts_once_in_two_processes_with_a_distributed_sampler(tmp_path: Path) -> None:
    """On our data and on a plain DataLoader. Of five validation images Lightning's sampler repeats one."""
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.loop.data_module import DenseDataModule
    from tests.training.own_callbacks import Noted

    def work(rank: int) -> None:
        found: dict[str, Any] = {}
        for name, classes in (("ours", SURFACES), ("plain", CLASSES)):
            ids, module = Noted(ids_of), module_of(classes, optim={"lr": 1e-2})
            callbacks = [ids, EarlyStopping("map/mIoU", mode="max")]
            trainer = trainer_of(devices=2, strategy="ddp", max_epochs=2, callbacks=callbacks)
            data = [DenseDataModule(SCENES)] if name == "ours" else [loader(4), loader(5)]
            trainer.fit(module, *data)
            metrics = module.validation.metrics
            logged = {key: value.item() for key, value in trainer.callback_metrics.items() if key in metrics}
            found[name] = {"metrics": metrics, "logged": logged, "trained": [str(n) for of in ids.found for n in of]}
            torch.save(module.model.state_dict(), tmp_path / f"{name}-{rank}.pt")
        (tmp_path / f"{rank}.json").write_text(json.dumps(found))

    in_two_processes(work, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for name, classes in (("ours", SURFACES), ("plain", CLASSES)):
        module = module_of(classes)
        module.model.load_state_dict(torch.load(tmp_path / f"{name}-0.pt"))
        if name == "ours":
            trainer_of().validate(module, datamodule=DenseDataModule(SCENES), verbose=False)
        alone = module.validation.metrics if name == "ours" else reference(module.model, 5)
        for rank in ranks:
            assert repr(rank[name]["metrics"]) == repr(rank[name]["logged"]) == repr(alone)
        for epoch in (slice(0, 2), slice(2, 4)):
            images = [image for rank in ranks for image in rank[name]["trained"][epoch]]
            assert len(images) == len(set(images)) == 4  # of 6 images of ours, 2 batches fit both processes
