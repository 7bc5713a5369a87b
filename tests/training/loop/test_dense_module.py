"""DenseModule and DenseDataModule in a Trainer, and with a DataLoader, that know nothing of densevit."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import densevit
from densevit.config import DataSection, OptimSection
from densevit.data.build import build_transforms
from densevit.data.loading.batch_sampler import EvaluationBatches, collate
from densevit.data.loading.dataloader import Loader, TransformedDataset
from densevit.errors import ConfigError, DataError, PluginError, WeightsError
from densevit.evaluation.miou import SemanticSegmentation
from densevit.inference.loading import create_model, load, save
from densevit.inference.predictor import Predictor
from densevit.interfaces import Backbone, Class, Evaluator, Head
from densevit.model import DenseModel
from densevit.training.loop.data_checks import check_batch
from densevit_scenes.dataset import Scenes

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
    """Predicts class 1 where the mean feature exceeds a learned threshold; `fixed`: predicts the image's first row."""

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


def loader(length: int, **options: Any) -> DataLoader:
    return DataLoader(Images(length), batch_size=2, collate_fn=collate, **options)


def reference(model: DenseModel, length: int) -> dict[str, float]:
    """Metrics of each image once, without Lightning."""
    evaluator = SemanticSegmentation(CLASSES)
    model.eval()
    for index in range(length):
        sample = Images(length)[index]
        predictions = model.infer(collate([sample]))["map"]
        evaluator.update(predictions, [sample["targets"]])
    return {f"map/{name}": value for name, value in evaluator.compute().items()}


def trained_on_scenes(folder: Path) -> tuple[Predictor, str]:
    """A model after three steps in a plain Trainer, and Lightning's checkpoint of it."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule

    data = DenseDataModule(SCENES)
    torch.manual_seed(0)
    predictor = create_model({"name": "resnet", "depth": 18}, {"map": "setr"}, data.data.classes["segmentation"])
    saved = ModelCheckpoint(folder, monitor="map/mIoU", mode="max")
    trainer = lightning.Trainer(max_steps=3, callbacks=[saved], **{**PLAIN, "enable_checkpointing": True})
    trainer.fit(DenseModule(predictor, {"lr": 1e-3}), data)
    return predictor, saved.best_model_path


# ---- a Trainer and a DataLoader of one's own ----


@pytest.mark.integration
def test_a_checkpoint_of_a_plain_trainer_predicts_and_is_evaluated(tmp_path: Path) -> None:
    predictor, path = trained_on_scenes(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    again = load(path)
    assert again.config is None and again.classes == predictor.classes
    assert torch.equal(again.predict(image).semantic, predictor.predict(image).semantic)
    found, expected = densevit.evaluate(path), densevit.evaluate(predictor)  # on the data of the training
    assert found == pytest.approx(expected, abs=0, nan_ok=True)


@pytest.mark.integration
def test_a_predictor_s_inference_options_apply_in_validation_and_are_in_its_checkpoints(tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule

    data = DenseDataModule(SCENES)
    torch.manual_seed(0)
    predictor = create_model({"name": "resnet", "depth": 18}, {"map": "setr"}, data.data.classes["segmentation"])
    flipped = predictor.with_inference({"flip": True})
    trainer = lightning.Trainer(max_steps=1, **PLAIN, limit_val_batches=0)
    trainer.fit(DenseModule(flipped), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = load(tmp_path / "last.ckpt")
    assert again.inference == flipped.inference != predictor.inference
    assert again.data == flipped.data == data.data.section
    found, loaded, plain = (
        densevit.evaluate(one, SCENES)["map/mIoU"] for one in (flipped, tmp_path / "last.ckpt", predictor)
    )
    assert found == loaded != plain


def test_a_checkpoint_of_a_plain_trainer_restores_a_module(tmp_path: Path) -> None:
    from densevit.training.loop.dense_module import DenseModule

    predictor, path = trained_on_scenes(tmp_path)
    trained = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    for parameter in predictor.parameters():
        nn.init.zeros_(parameter)
    module = DenseModule.load_from_checkpoint(path, model=predictor)
    assert all(torch.equal(trained[name], value) for name, value in module.model.state_dict().items())


@pytest.mark.integration
def test_a_model_predicts_at_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    predictor, _ = trained_on_scenes(tmp_path)
    save(predictor.model, tmp_path / "saved.safetensors")
    for one in (predictor, Predictor(predictor.model), load(tmp_path / "saved.safetensors")):
        assert one.resize is not None and one.resize.size_of(60, 90) == (21, 32)
    other = tmp_path / "other"
    other.touch()
    assert (tmp_path / "saved.safetensors").stat().st_mode == other.stat().st_mode  # readable as other files are


def test_a_prediction_that_cannot_be_evaluated_names_its_head() -> None:
    import pytorch_lightning as lightning

    module = module_of()
    head = module.model.heads["map"]
    predict = head.predict
    head.predict = lambda *given: [{"semantic": one["semantic"].long()} for one in predict(*given)]
    with pytest.raises(DataError, match=r"^heads\.map: Image 0: .* is \(4, 4\) int64; .* labels\.to\(torch\.uint8\)"):
        lightning.Trainer(**PLAIN).validate(module, loader(2))


def test_a_plain_trainer_and_a_plain_loader_train_validate_and_log(tmp_path: Path) -> None:
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    stop = EarlyStopping("map/mIoU", mode="max", patience=2, min_delta=1.0)  # never improves by 1 after the first
    best = ModelCheckpoint(tmp_path, monitor="map/aAcc", mode="max", filename="best")
    trainer = lightning.Trainer(
        **PLAIN | {"logger": CSVLogger(tmp_path), "enable_checkpointing": True},
        max_epochs=9, callbacks=[stop, best], log_every_n_steps=1,
    )  # fmt: skip
    module = module_of(optim={"lr": 1e-2, "schedule": "constant"})
    trainer.fit(module, loader(4, shuffle=True), loader(5))
    assert (trainer.current_epoch, stop.wait_count) == (3, 2)
    assert module.metrics == reference(module.model, 5)
    assert trainer.callback_metrics["map/mIoU"].item() == module.metrics["map/mIoU"]  # all bits of a float64
    assert best.best_model_score.item() >= module.metrics["map/aAcc"]
    written = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "train/loss" in written and "train/map/l2" in written and repr(module.metrics["map/mIoU"]) in written


def test_the_schedule_covers_the_trainers_steps() -> None:
    import pytorch_lightning as lightning

    for limits, steps in (({"max_steps": 5}, 5), ({"max_epochs": 3}, 6), ({"max_epochs": 3, "max_steps": 4}, 4)):
        module, seen = module_of(optim=OptimSection(lr=1.0, schedule="cosine")), []

        class Rates(lightning.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_) -> None:
                seen.append(pl_module.learning_rate)  # noqa: B023

        trainer = lightning.Trainer(**PLAIN, **limits, callbacks=[Rates()], limit_val_batches=0)
        trainer.fit(module, loader(4))
        assert seen == pytest.approx([0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)])


def test_the_rate_per_256_images_follows_the_loaders_batch_size() -> None:
    import pytorch_lightning as lightning

    module = module_of(optim={"lr_per_256": 256.0, "schedule": "constant"})
    lightning.Trainer(**PLAIN, max_steps=1, accumulate_grad_batches=2, limit_val_batches=0).fit(module, loader(4))
    assert module.learning_rate == 4.0


def test_an_endless_trainer_needs_a_constant_schedule() -> None:
    import pytorch_lightning as lightning

    endless = {**PLAIN, "max_epochs": -1, "limit_val_batches": 0}
    with pytest.raises(ConfigError, match=r"optim\.schedule=cosine needs the number .*optim.schedule: constant"):
        lightning.Trainer(**endless).fit(module_of(optim={"schedule": "cosine"}), loader(4))


def test_wrong_keys_of_optim_are_named() -> None:
    with pytest.raises(PluginError, match=r"^optim\.lrr is not an option of 'adamw'\. Did you mean 'lr'\?"):
        module_of(optim={"lrr": 1e-3})


def test_validation_targets_in_resized_pixels_need_their_truth() -> None:
    import pytorch_lightning as lightning

    class Resized(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            sample["targets"]["original_size"] = (8, 8)
            return sample

    data = DataLoader(Resized(2), collate_fn=collate)
    with pytest.raises(DataError, match=r"Image 0: its validation target has no `truth`, and its size \(4, 4\)"):
        lightning.Trainer(**PLAIN, max_steps=1).validate(module_of(), data, verbose=False)


class Recorder(Evaluator):
    """Keeps the ground truth that it sees."""

    main = "images"

    def __init__(self, classes: tuple[Class, ...]) -> None:
        super().__init__(classes)
        self.truths: list[dict[str, Any]] = []

    def reset(self) -> None:
        self.truths = []

    def update(self, predictions: Any, truths: Any) -> None:
        self.truths += truths

    def compute(self) -> dict[str, float]:
        return {"images": float(len(self.truths))}


def test_evaluators_see_the_size_of_the_original_image() -> None:
    import pytorch_lightning as lightning

    class Resized(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            truth = {"semantic": torch.zeros(8, 9, dtype=torch.uint8), "image_id": index}
            return {**sample, "targets": sample["targets"] | {"original_size": (8, 9), "truth": truth}}

    class Twice(Images):
        classes: ClassVar = {"segmentation": CLASSES}
        provides = ("semantic",)

        def __getitem__(self, index: int) -> dict[str, Any]:
            labels = torch.zeros(8, 9, dtype=torch.uint8)
            return {"image": torch.zeros(3, 8, 9, dtype=torch.uint8), "targets": {"semantic": labels, "image_id": 3}}

    transform = build_transforms(DataSection(name="scenes", image_size=4))[1]
    own = Loader(TransformedDataset(Twice(1), transform, train=False), EvaluationBatches(1, None, 1), 4, 0)
    for data in (DataLoader(Resized(2), collate_fn=collate), own, DataLoader(Images(2), collate_fn=collate)):
        recorder = Recorder(CLASSES)
        module = module_of(evaluators={"map": recorder})
        lightning.Trainer(**PLAIN, max_steps=1).validate(module, data, verbose=False)
        assert recorder.truths
        for truth in recorder.truths:
            assert truth["size"] == truth["original_size"] == tuple(truth["semantic"].shape)


def test_images_with_one_id_raise() -> None:
    """They would count as one image."""
    import pytorch_lightning as lightning

    class Same(Images):
        classes: ClassVar = {"segmentation": CLASSES}
        provides = ("semantic",)

        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            targets = {"semantic": sample["targets"]["semantic"], "image_id": index % 2}
            return {"image": sample["image"], "targets": targets}

    transform = build_transforms(DataSection(name="scenes", image_size=4))[1]
    data = Loader(TransformedDataset(Same(3), transform, train=False), EvaluationBatches(3, None, 1), 4, 0)
    message = r"^Samples 0 and 2 of the data set have the same image_id 0; .* Fix: "
    with pytest.raises(DataError, match=message):
        lightning.Trainer(**PLAIN, max_steps=1).validate(module_of(), data, verbose=False)


# ---- densevit's data in a Trainer of one's own ----


def test_the_data_module_takes_a_section_and_gives_batches_of_the_models_multiple() -> None:
    import pytorch_lightning as lightning

    from densevit.training.loop.data_module import DenseDataModule

    data = DenseDataModule(SCENES, seed=3)
    module = module_of(SURFACES, optim={"lr": 1e-3})
    trainer = lightning.Trainer(**PLAIN, max_epochs=2)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 6
    assert data.data.multiple == 1 == module.model.multiple
    assert Predictor(module.model).data == data.data.section  # also of a model built from its parts
    assert set(module.metrics) >= {"map/mIoU", "map/aAcc"}


def test_a_run_resumed_within_an_epoch_takes_its_next_batch(tmp_path: Path) -> None:
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    from densevit.training.loop.data_module import DenseDataModule

    seen: list[Any] = []

    class Ids(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, index) -> None:
            seen.append([target["image_id"] for target in batch["targets"]])

    def fit(path: Path | None, steps: int, *callbacks: lightning.Callback) -> None:
        module = module_of(SURFACES, optim={"lr": 1e-3, "schedule": "constant"})
        settings = PLAIN | {"enable_checkpointing": bool(callbacks)}
        limits = {"max_steps": steps, "max_epochs": 9, "limit_val_batches": 0}
        trainer = lightning.Trainer(**settings, **limits, callbacks=[Ids(), *callbacks])
        trainer.fit(module, datamodule=DenseDataModule(SCENES), ckpt_path=path)

    fit(None, 5, ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1))
    whole, seen[:] = list(seen), []
    fit(tmp_path / "step=2.ckpt", 5)
    assert seen == whole[2:]


def test_a_checkpoint_of_another_format_is_refused_also_by_a_trainer_of_ones_own() -> None:
    with pytest.raises(
        WeightsError, match=r"The checkpoint: format version 1, expected 2\. Fix: use commit ddbb1ccf of"
    ):
        module_of().on_load_checkpoint({"state_dict": {}, "random_state": []})


def test_a_model_of_other_classes_than_the_datas_is_refused() -> None:
    import pytorch_lightning as lightning

    from densevit.training.loop.data_module import DenseDataModule

    with pytest.raises(DataError, match=r"not those of the model's head 'map'.*Expected: dark, bright"):
        lightning.Trainer(**PLAIN, max_epochs=2).fit(module_of(), datamodule=DenseDataModule(SCENES))


def test_a_wrong_section_is_one_line() -> None:
    from densevit.training.loop.data_module import DenseDataModule

    with pytest.raises(ConfigError, match=r"DenseDataModule: data\.batch_size should be a valid integer, not 'x'\."):
        DenseDataModule({**SCENES, "batch_size": "x"})


# ---- batches ----


def changed(**change: Any) -> dict[str, Any]:
    batch: dict[str, Any] = dict(collate([Images(2)[i] for i in range(2)]))
    batch["targets"] = [dict(target) for target in batch["targets"]]
    for key, value in change.items():
        if key in batch:
            batch[key] = value
        elif value is None:
            del batch["targets"][1][key]
        else:
            batch["targets"][1][key] = value
    return batch


def test_a_batch_as_collate_makes_it_is_accepted() -> None:
    check_batch(changed())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            [1],
            r"is a list; a dict of images, padding_mask and targets is expected\. Fix: .*collate_fn=densevit\.collate",
        ),
        ({"images": 1}, r"lacks padding_mask, targets; found: images\."),
        (changed(images=torch.zeros(2, 3, 4, 4)), r"images is float32 \(2, 3, 4, 4\); uint8 \(B, 3, H, W\)"),
        (changed(padding_mask=torch.zeros(2, 4, 4)), r"padding_mask is float32 \(2, 4, 4\); bool \(2, 4, 4\)"),
        (changed(targets=[{}]), r"targets is a list of 1; a list of 2 dicts"),
        (changed(targets=[1, 2]), r"targets\[0\] is a int; a dict is expected"),
        (
            changed(size=None),
            r"targets\[1\] lacks 'size'; found: .*\. Fix: set it to \(height, width\) of the image in",
        ),
        (changed(image_id=None), r"targets\[1\] lacks 'image_id'"),
        (changed(original_size=None), r"targets\[1\] lacks 'original_size'"),
        (changed(size=(4, 5)), r"targets\[1\]\['size'\] is \(4, 5\) in a batch of \(4, 4\)"),
    ],
)
def test_another_batch_is_one_line(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_batch(batch)


def test_the_first_batch_of_a_fit_is_checked() -> None:
    import pytorch_lightning as lightning

    class Lacking(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            del sample["targets"]["size"]
            return sample

    trainer = lightning.Trainer(**PLAIN, max_steps=1)
    with pytest.raises(DataError, match=r"targets\[0\] lacks 'size'"):
        trainer.fit(module_of(), DataLoader(Lacking(2), collate_fn=collate))


# ---- two processes, with Lightning's own distributed sampler ----


def run_process(rank: int, folder: Path) -> None:
    """One of two processes of a Trainer with default settings, on our data and on a plain DataLoader."""
    import os

    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import EarlyStopping

    from densevit.training.loop.data_module import DenseDataModule

    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    found: dict[str, Any] = {}
    for name in ("ours", "plain"):
        trained: list[Any] = []

        class Ids(lightning.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, index) -> None:
                trained.extend(target["image_id"] for target in batch["targets"])  # noqa: B023

        settings = PLAIN | {"devices": 2, "strategy": "ddp", "max_epochs": 2}
        trainer = lightning.Trainer(**settings, callbacks=[Ids(), EarlyStopping("map/mIoU", mode="max")])
        module = module_of(SURFACES if name == "ours" else CLASSES, optim={"lr": 1e-2})
        if name == "ours":
            trainer.fit(module, datamodule=DenseDataModule(SCENES))
        else:
            trainer.fit(module, loader(4), loader(5))
        logged = {key: value.item() for key, value in trainer.callback_metrics.items() if key in module.metrics}
        found[name] = {"metrics": module.metrics, "logged": logged, "trained": [str(image) for image in trained]}
        torch.save(module.model.state_dict(), folder / f"{name}-{rank}.pt")
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_each_image_counts_once_in_two_processes_with_a_distributed_sampler(tmp_path: Path, run_processes) -> None:
    """Five validation images on two processes: Lightning's sampler repeats one of them."""
    import socket

    import pytorch_lightning as lightning

    from densevit.training.loop.data_module import DenseDataModule

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    run_processes(__file__, 2, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for name in ("ours", "plain"):
        assert repr(first[name]["metrics"]) == repr(second[name]["metrics"]) == repr(first[name]["logged"])
        assert repr(second[name]["logged"]) == repr(first[name]["logged"])
        module = module_of(SURFACES if name == "ours" else CLASSES)
        module.model.load_state_dict(torch.load(tmp_path / f"{name}-0.pt"))
        if name == "plain":
            alone = reference(module.model, 5)
        else:
            trainer = lightning.Trainer(**PLAIN)
            trainer.validate(module, datamodule=DenseDataModule(SCENES), verbose=False)
            alone = module.metrics
        assert repr(first[name]["metrics"]) == repr(alone)
        epochs = [first[name]["trained"][i : i + 2] + second[name]["trained"][i : i + 2] for i in (0, 2)]
        for images in epochs:
            assert len(images) == len(set(images)) == 4  # of 6 images of ours, 2 batches fit both processes


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
