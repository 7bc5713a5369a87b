"""A step of accumulated batches with clipping, in each precision and strategy, resumed within an epoch."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from densevit import config as configs
from tests.training.process_groups import in_two_processes, linux
from tests.training.runs import SEGMENTATION, assert_same, resume, rows, train, without_report

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


def scaled(precision: str, *_: str) -> dict[str, object]:
    """The arguments of Lightning's Trainer, with a gradient scaler for the CPU, which it does not offer."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    if precision == "32":
        return {"precision": precision}
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from densevit.training.loop import trainer

    folder = tmp_path_factory.mktemp("matrix")
    (folder / "small.yaml").write_text(SEGMENTATION)

    def trained(strategy: str) -> None:
        for precision in PRECISIONS if strategy != "fsdp2" else PRECISIONS[:1]:
            given = [*GIVEN, *STRATEGIES[strategy], f"trainer.strategy={strategy}", f"trainer.precision={precision}"]
            for name, steps in (("whole", STEPS), ("resumed", BREAK)):
                config = configs.load(folder / "small.yaml", [*given, f"trainer.max_steps={steps}"])
                train(config, folder / f"{strategy} {precision} {name}")
            resume(folder / f"{strategy} {precision} resumed", [f"trainer.max_steps={STEPS}"])

    with mock.patch.object(trainer, "trainer_arguments", scaled), without_report():
        trained("auto")
        in_two_processes(lambda rank: [trained(strategy) for strategy in ("ddp", "fsdp2")], folder)
    return folder


@pytest.mark.parametrize(
    ("strategy", "precision"), [("auto", "16-mixed"), ("ddp", "32"), ("ddp", "16-mixed"), ("fsdp2", "32")]
)
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


def test_each_process_writes_its_part_of_a_sharded_checkpoint(runs: Path) -> None:
    folder = runs / "fsdp2 32 whole" / "checkpoints" / "last.ckpt"
    shards = sorted(path.name for path in folder.iterdir())
    assert shards == [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    sizes = [(folder / name).stat().st_size for name in shards[1:3]]
    assert min(sizes) > 0.4 * sum(sizes)
