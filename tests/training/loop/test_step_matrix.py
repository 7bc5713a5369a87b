"""A step of accumulated batches with clipping, in each precision and strategy, resumed within an epoch."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from densevit import config as configs
from tests.training.process_groups import in_two_processes, linux
from tests.training.runs import SEGMENTATION, assert_same, resume, rows, train

pytestmark = [linux, pytest.mark.integration]
STEPS, BREAK = 5, 3  # an epoch has 6
PRECISIONS = ["32", "16-mixed"]
GIVEN = ["trainer.max_epochs=null", "trainer.accumulate=2", "trainer.clip_grad_norm=0.1", "data.batch_size=2",
         "data.train_length=24", "optim.schedule=constant", "heads.surfaces.norm=group", "backbone.drop_path=0.0",
         "trainer.log_every=1", "trainer.loggers=[]"]  # fmt: skip
STRATEGIES = {
    "auto": ["trainer.devices=1"],
    "ddp": ["trainer.devices=2", "data.batch_size=1"],
    "fsdp2": ["trainer.devices=2", "data.batch_size=1"],
}
CASES = [("auto", "16-mixed"), ("ddp", "32"), ("ddp", "16-mixed"), ("fsdp2", "32")]


def scaled(precision: str, *_: str) -> dict[str, object]:
    """The arguments of Lightning's Trainer, with a gradient scaler for the CPU, which it does not offer."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    if precision == "32":
        return {"precision": precision}
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "small.yaml").write_text(SEGMENTATION)

    def trained(strategy: str) -> None:
        for precision in PRECISIONS if strategy != "fsdp2" else PRECISIONS[:1]:
            given = [*GIVEN, *STRATEGIES[strategy], f"trainer.strategy={strategy}", f"trainer.precision={precision}"]
            for name, steps in (("whole", STEPS), ("resumed", BREAK)):
                config = configs.load(folder / "small.yaml", [*given, f"trainer.max_steps={steps}"])
                train(config, folder / f"{strategy} {precision} {name}")
            resume(folder / f"{strategy} {precision} resumed", [f"trainer.max_steps={STEPS}"])

    quiet = mock.patch("densevit.training.run.run_output._write_report")
    with mock.patch("densevit.training.loop.trainer.trainer_arguments", scaled), quiet:
        trained("auto")
        in_two_processes(lambda rank: [trained(strategy) for strategy in ("ddp", "fsdp2")], folder)
    return folder


@pytest.mark.parametrize(("strategy", "precision"), CASES)
def test_steps_equal_those_of_one_process_and_of_a_resumed_run(strategy: str, precision: str, runs: Path) -> None:
    whole, resumed, alone = (
        runs / f"{name} {precision} {kind}"
        for name, kind in ((strategy, "whole"), (strategy, "resumed"), ("auto", "whole"))
    )
    assert_same(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))
    losses = [[float(row["train/loss"]) for row in rows(run) if row["train/loss"]] for run in (whole, resumed, alone)]
    norms = [[float(row["train/gradient_norm"]) for row in rows(run) if row["train/loss"]] for run in (whole, alone)]
    assert len(losses[0]) == STEPS and losses[0] == losses[1] and min(norms[0]) > 0.1  # clipped
    tolerance = 1e-4 if precision == "32" else 2e-2
    assert losses[0][:2] == pytest.approx(losses[2][:2], rel=tolerance)  # later, AdamW amplifies rounding
    assert norms[0][0] == pytest.approx(norms[1][0], rel=tolerance)


# ---- a user's Trainer, resumed after each of its batches ----

EPOCH = 7  # batches
OPTIONS: dict[str, dict[str, Any]] = {
    "an epoch": {},
    "accumulated": {"accumulate_grad_batches": 3},
    "accumulated, with validations": {"accumulate_grad_batches": 3, "val_check_interval": 2, "limit_val_batches": 1},
    "a number of batches": {"limit_train_batches": 4},
    "a share of the batches, accumulated": {"limit_train_batches": 0.8, "accumulate_grad_batches": 2},
    "the same batches": {"overfit_batches": 3, "limit_val_batches": 0},
    "the same batches, accumulated": {"overfit_batches": 3, "accumulate_grad_batches": 2, "limit_val_batches": 0},
    "steps": {"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 3},
    "complete steps": {"batches_per_step": 2, "limit_train_batches": 3},
    "new loaders": {"reload_dataloaders_every_n_epochs": 1, "accumulate_grad_batches": 3},
    "half precision": {"precision": "bf16-true", "accumulate_grad_batches": 3},
}  # fmt: skip


def plain_training(options: dict[str, Any], folder: Path | None = None, checkpoint: Path | None = None) -> Any:
    """The state after training, the number, images, loss and rate of each step, and the number of steps done after each
    batch. folder: gets a checkpoint of each batch."""
    import pytorch_lightning as lightning

    import densevit

    class Record(lightning.Callback):
        def __init__(self) -> None:
            self.steps: list[tuple[Any, ...]] = []
            self.done: list[int] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            if outputs:
                record = pl_module.record
                self.steps.append((trainer.global_step, record.image_ids, float(record.loss), record.learning_rate))
            self.done.append(trainer.global_step)
            if folder is not None:
                trainer.save_checkpoint(folder / f"{len(self.done)}.ckpt")

    options, record = dict(options), Record()
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
    return module.state_dict(), record.steps, record.done


def assert_resumes(options: dict[str, Any], folder: Path, rank: int = 0) -> None:
    state, steps, done = plain_training(options, folder)
    assert len(steps) == done[-1] > 1
    for batch, before in enumerate(done, 1):
        resumed, later, _ = plain_training(options, checkpoint=folder / f"{batch}.ckpt")
        assert later == steps[before:], batch
        if rank == 0:  # running statistics are rank 0's only after the next step
            assert_same(resumed, state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_plain_trainer_resumes_after_any_batch(name: str, tmp_path: Path) -> None:
    assert_resumes(OPTIONS[name], tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_plain_trainer_resumes_in_two_processes(tmp_path: Path) -> None:
    options = OPTIONS["a share of the batches, accumulated"] | {"devices": 2, "strategy": "ddp"}
    in_two_processes(lambda rank: assert_resumes(options, tmp_path, rank), tmp_path)
    assert len(list(tmp_path.glob("*.ckpt"))) == 10
