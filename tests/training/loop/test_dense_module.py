"""DenseModule and DenseDataModule in a Trainer, and with a DataLoader, that know nothing of densevit."""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import densevit
from densevit.config import DataSection, OptimSection
from densevit.data.loading.batch_sampler import EvaluationBatches, collate
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.data.transforms.building import build_transforms
from densevit.errors import ConfigError, DataError, PluginError, WeightsError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.inference.model_loading import create_model, load
from densevit.inference.predictor import Predictor
from densevit.interfaces import Backbone, Class, Head
from densevit.model import DenseModel
from densevit_scenes.dataset import Scenes
from tests.training.process_groups import in_two_processes, linux

if TYPE_CHECKING:
    from densevit.training.loop.dense_module import DenseModule

CLASSES = (Class("dark", 0, (0, 0, 0)), Class("bright", 1, (9, 9, 9)))
SURFACES = Scenes("val", image_size=32, val_length=1).classes["segmentation"]
SCENES = {"name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "train_length": 6, "val_length": 5}
PLAIN: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


class Pixels(Backbone):
    """One 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (4,), (1,)
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return [self.convolution(images)]


class Threshold(Head):
    """Predicts class 1 where the mean feature exceeds a learned threshold."""

    task, needs = "segmentation", ("semantic",)

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.bias = nn.Parameter(torch.zeros(()))
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0].mean(1) - self.bias}

    def loss(self, outputs, targets, context):
        return {"l2": outputs["logits"].square().mean()}

    def predict(self, outputs, targets):
        maps = zip(outputs["logits"], targets, strict=True)
        return [{"semantic": (x[: t["size"][0], : t["size"][1]] > 0).to(torch.uint8)} for x, t in maps]


class Images(Dataset):
    """Plain samples without `truth`: image i has i + 1 bright pixels of 16, and its labels are those of image i."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = (torch.arange(16) <= index).to(torch.uint8).view(4, 4)
        image = torch.randint(256, (3, 4, 4), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        size = (4, 4)
        return {"image": image, "targets": {"semantic": labels, "image_id": index, "size": size, "original_size": size}}


def module_of(classes: tuple[Class, ...] = CLASSES, **options: Any) -> "DenseModule":
    from densevit.training.loop.dense_module import DenseModule

    torch.manual_seed(0)
    model = DenseModel(Pixels(), {"map": Threshold((4,), (1,), classes)})
    return DenseModule(model, **options)


def loader(data: int | Dataset, **options: Any) -> DataLoader:
    """data: how many of `Images`, or others."""
    data = Images(data) if isinstance(data, int) else data
    return DataLoader(data, batch_size=2, collate_fn=collate, **options)


def reference(model: DenseModel, length: int) -> dict[str, float]:
    """Metrics of each image once, without Lightning."""
    evaluator = SemanticSegmentation(CLASSES)
    model.eval()
    for index in range(length):
        sample = Images(length)[index]
        predictions = model.infer(collate([sample]))["map"]
        evaluator.update(predictions, [sample["targets"]])
    return {f"map/{name}": value for name, value in evaluator.compute().items()}


def trainer_of(**settings: Any) -> Any:
    import pytorch_lightning as lightning

    return lightning.Trainer(**{**PLAIN, **settings})


# ---- a Trainer and a DataLoader of one's own ----


@pytest.mark.integration
def test_a_checkpoint_of_a_plain_trainer_predicts_is_evaluated_and_restores_a_module(tmp_path: Path) -> None:
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
    assert again.data == predictor.data == data.data.section
    assert again.resize is not None and again.resize.size_of(60, 90) == (21, 32)
    assert torch.equal(again.predict(image).semantic, predictor.predict(image).semantic)
    found, expected = densevit.evaluate(saved.best_model_path), densevit.evaluate(predictor)  # on the training's data
    assert found == pytest.approx(expected, abs=0, nan_ok=True)
    assert found["map/mIoU"] != densevit.evaluate(plain, SCENES)["map/mIoU"]
    trained = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    for parameter in predictor.parameters():
        nn.init.zeros_(parameter)
    module = DenseModule.load_from_checkpoint(saved.best_model_path, model=predictor)
    assert all(torch.equal(trained[name], value) for name, value in module.model.state_dict().items())


def test_the_trainer_of_the_page_saves_the_best_checkpoint_of_less_than_an_epoch(tmp_path: Path) -> None:
    """docs/lightning.md, with a ten-thousandth of its steps: two of the ten steps of an epoch."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    page = (Path(__file__).parents[3] / "docs" / "lightning.md").read_text()
    [steps, every] = re.findall(
        r"Trainer\(max_steps=([\d_]+), val_check_interval=(\d+), check_val_every_n_epoch=None, callbacks=\[best\]\)",
        page,
    )[0]
    best = ModelCheckpoint(tmp_path, monitor="map/mIoU", mode="max")
    settings = {"max_steps": int(steps) // 10_000, "val_check_interval": max(1, int(every) // 10_000)}
    trainer = trainer_of(**settings, check_val_every_n_epoch=None, callbacks=[best], enable_checkpointing=True)
    trainer.fit(module_of(), loader(20), loader(5))
    assert trainer.global_step == 2 and "map/mIoU" in trainer.callback_metrics
    assert Path(best.best_model_path).is_file()


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
    assert module.validation.metrics == reference(module.model, 5)
    assert trainer.callback_metrics["map/mIoU"].item() == module.validation.metrics["map/mIoU"]  # all bits of a float64
    assert best.best_model_score.item() >= module.validation.metrics["map/aAcc"]
    written = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert (
        "train/loss" in written and "train/map/l2" in written and repr(module.validation.metrics["map/mIoU"]) in written
    )


def test_the_schedule_covers_the_trainers_steps_and_the_rate_follows_the_batch_size() -> None:
    import pytorch_lightning as lightning

    for limits, steps in (({"max_steps": 5}, 5), ({"max_epochs": 3}, 6), ({"max_epochs": 3, "max_steps": 4}, 4)):
        module, seen = module_of(optim=OptimSection(lr=1.0, schedule="cosine")), []

        class Rates(lightning.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_) -> None:
                seen.append(pl_module.record.learning_rate)  # noqa: B023

        trainer_of(**limits, callbacks=[Rates()], limit_val_batches=0).fit(module, loader(4))
        assert seen == pytest.approx([0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)])
    module = module_of(optim={"lr_per_256": 256.0, "schedule": "constant"})
    trainer_of(max_steps=1, accumulate_grad_batches=2, limit_val_batches=0).fit(module, loader(4))
    assert module.record.learning_rate == 4.0


def own_loader(data: Any) -> Loader:
    transform = build_transforms(DataSection(name="scenes", image_size=4))[1]
    return Loader(TransformedDataset(data, transform, train=False), EvaluationBatches(len(data), None, 1), 4, 0)


def test_wrong_predictions_ids_and_targets_are_named_while_validating() -> None:
    class Resized(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            sample["targets"]["original_size"] = (8, 8)
            return sample

    class Same(Images):
        """Two images have one id, and would count as one."""

        classes: ClassVar = {"segmentation": CLASSES}
        provides = ("semantic",)

        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            targets = {"semantic": sample["targets"]["semantic"], "image_id": index % 2}
            return {"image": sample["image"], "targets": targets}

    wrong = module_of()
    predict = wrong.model.heads["map"].predict
    wrong.model.heads["map"].predict = lambda *x: [{"semantic": one["semantic"].long()} for one in predict(*x)]
    for module, data, message in (
        (wrong, loader(2), r"^heads\.map: Image 0: .* is \(4, 4\) int64; .* labels\.to\(torch\.uint8\)"),
        (module_of(), loader(Resized(2)), r"Image 0: its validation target has no `truth`, and its size \(4, 4\)"),
        (module_of(), own_loader(Same(3)), r"^Samples 0 and 2 of the data set have the same image_id 0; .* Fix: "),
    ):
        with pytest.raises(DataError, match=message):
            trainer_of().validate(module, data, verbose=False)


# ---- densevit's data in a Trainer of one's own ----


def test_a_run_resumed_within_an_epoch_takes_its_next_batch(tmp_path: Path) -> None:
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    from densevit.training.loop.data_module import DenseDataModule

    seen: list[Any] = []

    class Ids(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, index) -> None:
            seen.append([target["image_id"] for target in batch["targets"]])

    def fit(path: Path | None, *callbacks: lightning.Callback) -> Any:
        module = module_of(SURFACES, optim={"lr": 1e-3, "schedule": "constant"})
        settings = {"enable_checkpointing": bool(callbacks), "max_steps": 5, "max_epochs": 9}
        trainer_of(**settings, callbacks=[Ids(), *callbacks]).fit(module, DenseDataModule(SCENES), ckpt_path=path)
        return module

    module = fit(None, ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1))
    assert set(module.validation.metrics) >= {"map/mIoU", "map/aAcc"}
    assert Predictor(module.model).data == DenseDataModule(SCENES).data.section  # also of a model built from its parts
    whole, seen[:] = list(seen), []
    fit(tmp_path / "step=2.ckpt")
    assert seen == whole[2:]


def test_what_does_not_fit_a_trainer_of_ones_own_is_one_line() -> None:
    from densevit.training.loop.data_module import DenseDataModule

    def fit(data: Any, optim: Any = None, **settings: Any) -> None:
        trainer_of(limit_val_batches=0, **settings).fit(module_of(optim=optim), data)

    for call, error, message in (
        (lambda: fit(loader(4), {"schedule": "cosine"}, max_epochs=-1), ConfigError, "optim.schedule=cosine needs the"),
        (lambda: module_of(optim={"lrr": 1e-3}), PluginError, r"^optim\.lrr .* 'adamw'\. Did you mean 'lr'\?"),
        (lambda: module_of().on_load_checkpoint({"state_dict": {}}), WeightsError, "format version 1, expected 2"),
        (lambda: fit(DenseDataModule(SCENES), max_epochs=2), DataError, "head 'map' in name or order.*Expected: dark,"),
        (lambda: DenseDataModule(SCENES | {"batch_size": "x"}), ConfigError, r"DenseDataModule: data\.batch_size .*x"),
        (lambda: fit(loader(Lacking(2)), max_steps=1), DataError, r"targets\[0\] lacks 'size'"),  # the first batch
    ):
        with pytest.raises(error, match=message):
            call()


class Lacking(Images):
    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        del sample["targets"]["size"]
        return sample


# ---- two processes, with Lightning's own distributed sampler ----


@pytest.mark.integration
@linux
def test_each_image_counts_once_in_two_processes_with_a_distributed_sampler(tmp_path: Path) -> None:
    """On our data and on a plain DataLoader. Of five validation images Lightning's sampler repeats one."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.loop.data_module import DenseDataModule

    def work(rank: int) -> None:
        found: dict[str, Any] = {}
        for name, classes in (("ours", SURFACES), ("plain", CLASSES)):
            trained: list[str] = []

            class Ids(lightning.Callback):
                def on_train_batch_start(self, trainer, pl_module, batch, index) -> None:
                    trained.extend(str(target["image_id"]) for target in batch["targets"])  # noqa: B023

            callbacks = [Ids(), EarlyStopping("map/mIoU", mode="max")]
            trainer = trainer_of(devices=2, strategy="ddp", max_epochs=2, callbacks=callbacks)
            module = module_of(classes, optim={"lr": 1e-2})
            data = {"datamodule": DenseDataModule(SCENES)} if name == "ours" else {}
            trainer.fit(module, *(() if data else (loader(4), loader(5))), **data)
            logged = {
                key: value.item() for key, value in trainer.callback_metrics.items() if key in module.validation.metrics
            }
            found[name] = {"metrics": module.validation.metrics, "logged": logged, "trained": trained}
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
