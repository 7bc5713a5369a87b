"""densevit/training/loop/data_module.py: a user's Trainer, resumed within steps and epochs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from densevit.errors import ConfigError, DataError
from densevit_scenes.dataset import Scenes
from tests.training.process_groups import in_two_processes, linux
from tests.training.runs import assert_same

pytestmark = [linux, pytest.mark.integration]

EPOCH = 7  # batches
AFTER = (2, 3, EPOCH, EPOCH + 1)  # within a step of three batches and at its end, at the end of an epoch and after it

OPTIONS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate_grad_batches": 3},
    "accumulated, with validations": {"accumulate_grad_batches": 3, "val_check_interval": 2, "limit_val_batches": 1},
    "a share of the batches, accumulated": {"limit_train_batches": 0.8, "accumulate_grad_batches": 2},
    "the same batches, accumulated": {"overfit_batches": 3, "accumulate_grad_batches": 2, "limit_val_batches": 0},
    "steps": {"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 3},
    "complete steps": {"batches_per_step": 2, "limit_train_batches": 3},
    "new loaders": {"reload_dataloaders_every_n_epochs": 1, "accumulate_grad_batches": 3},
    "half precision": {"precision": "bf16-true", "accumulate_grad_batches": 3},
}  # fmt: skip


def test_setup_checks_the_labels_of_the_splits_of_a_stage():
    import densevit

    class Unlabelled(Scenes):
        def check_labels(self) -> None:
            raise DataError("no image has labels.")

    labelled, unlabelled = (kind("train", train_length=2, image_size=32) for kind in (Scenes, Unlabelled))
    for train, val, stage in ((unlabelled, labelled, "fit"), (labelled, unlabelled, "validate")):
        with pytest.raises(DataError, match="no image has labels"):
            densevit.DenseDataModule(train=train, val=val).setup(stage)
    with pytest.raises(ConfigError, match=r"labelled_classes=new .* need a run folder"):
        densevit.DenseDataModule({"name": "scenes", "labelled_classes": "new"}).setup("fit")


def plain_training(options: dict[str, Any], folder: Path | None = None, checkpoint: Path | None = None) -> Any:
    """The state after training, the number, images, loss and rate of each step, and the number of steps done after each
    batch. folder: gets a checkpoint of each batch."""
    import pytorch_lightning as lightning

    import densevit

    steps: list[tuple[Any, ...]] = []
    done: list[int] = []

    def note(trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        if outputs:
            record = module.record
            steps.append((trainer.global_step, record.image_ids, float(record.loss), record.learning_rate))
        done.append(trainer.global_step)
        if folder is not None:
            trainer.save_checkpoint(folder / f"{len(done)}.ckpt")

    options, record = dict(options), lightning.callbacks.LambdaCallback(on_train_batch_end=note)
    section = {"name": "scenes", "image_size": 32, "batch_size": 2 // int(options.get("devices", 1)), "num_workers": 0,
               "train_length": 2 * EPOCH, "val_length": 2}  # fmt: skip
    data = densevit.DenseDataModule(section, seed=3, batches_per_step=options.pop("batches_per_step", None))
    torch.manual_seed(0)
    model = densevit.create_model(
        {"name": "vit", "variant": "nano", "drop_path": 0.1}, {"map": {"name": "setr", "width": 8, "norm": "batch"}},
        classes={"map": data.data.classes["segmentation"]}, pretrained=False,
    )  # fmt: skip
    module = densevit.DenseModule(model, {"lr": 1e-3, "schedule": "cosine", "warmup": 0.2})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu",
             "enable_model_summary": False, "num_sanity_val_steps": 0, "gradient_clip_val": 0.5}  # fmt: skip
    trainer = lightning.Trainer(**quiet, **{"max_epochs": 2, "limit_val_batches": 0, **options}, callbacks=[record])
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module.state_dict(), steps, done


def assert_resumes(options: dict[str, Any], folder: Path, rank: int = 0) -> None:
    state, steps, done = plain_training(options, folder)
    assert len(steps) == done[-1] > 1
    for batch in (batch for batch in AFTER if batch <= len(done)):
        resumed, later, _ = plain_training(options, checkpoint=folder / f"{batch}.ckpt")
        assert later == steps[done[batch - 1] :], batch
        if rank == 0:  # running statistics are rank 0's only after the next step
            assert_same(resumed, state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_plain_trainer_resumes_within_an_epoch_and_after_it(name: str, tmp_path: Path) -> None:
    assert_resumes(OPTIONS[name], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_plain_trainer_resumes_in_two_processes(tmp_path: Path) -> None:
    options = OPTIONS["a share of the batches, accumulated"] | {"devices": 2, "strategy": "ddp"}
    in_two_processes(lambda rank: assert_resumes(options, tmp_path, rank), tmp_path)
    assert len(list(tmp_path.glob("*.ckpt"))) == 10
