"""densevit/training/loop/module_trainer.py: the steps of a user's Trainer, and its precision plugins."""

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

import densevit
from densevit.errors import ConfigError
from tests.training.loop.test_dense_module import CLASSES, SURFACES, Images, loader, module_of, trainer_of

IMAGES, BATCH = 14, 2
SECTION = {
    "name": "scenes", "image_size": 32, "batch_size": BATCH, "num_workers": 0, "train_length": IMAGES, "val_length": 1,
    "multi_scale": [32], "final_phase": {"start": 0.5, "multi_scale": [64]},
}  # fmt: skip
LENGTHS: list[dict[str, Any]] = [{"max_epochs": 2}, {"max_steps": 5}, {"max_epochs": 9, "max_steps": 4}]
LIMITS: list[dict[str, Any]] = [
    {}, {"limit_train_batches": 0.5}, {"limit_train_batches": 3}, {"limit_train_batches": 1}, {"overfit_batches": 2},
    {"fast_dev_run": 4},
]  # fmt: skip


def check(kind: str, accumulate: int, **options: Any) -> None:
    """Trains, and compares the planned steps with the steps done."""
    import pytorch_lightning as lightning

    images: list[list[Any]] = []  # of each step
    is_final: list[tuple[int, bool]] = []  # of each batch, with its step

    def note(trainer: Any, module: Any, batch: Any, index: int) -> None:
        for part in getattr(batch, "batches", [batch]):
            is_final.append((trainer.global_step, max(part["images"].shape[2:]) > 32))

    def note_step(trainer: Any, module: Any, optimizer: Any) -> None:
        images.append(module.record.image_ids)
        progress.append(shares[-1])

    record = lightning.callbacks.LambdaCallback(
        on_before_optimizer_step=note_step,
        on_train_batch_start=note,
    )
    shares: list[float] = []  # that the head is given, before steps and validations
    progress: list[float] = []  # of each step
    module = module_of(CLASSES if kind == "loader" else SURFACES, optim={"lr_per_256": 2.56, "schedule": "cosine"})
    module.model.heads["map"].set_progress = shares.append
    size = accumulate if kind == "module of steps" else None
    data = (
        loader(IMAGES, shuffle=True) if kind == "loader" else densevit.DenseDataModule(SECTION, batches_per_step=size)
    )
    options = options | ({} if size else {"accumulate_grad_batches": accumulate})
    trainer = trainer_of(limit_val_batches=0, callbacks=[record], **options)
    trainer.fit(module, data)
    steps, [group] = trainer.global_step, trainer.optimizers[0].param_groups[:1]
    assert steps > 1 and module.training_steps == steps == len(images)
    assert progress == [number / steps for number in range(steps)]
    assert group["lr"] == 0 and group["initial_lr"] == pytest.approx(0.01 * BATCH * accumulate * trainer.world_size)
    if kind != "loader":
        assert all(final == (step >= math.ceil(0.5 * steps)) for step, final in is_final)
    if "overfit_batches" in options:
        assert len({image for step in images for image in step}) <= 2 * BATCH * (size or 1)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ("module", "module of steps", "loader"))
def test_planned_steps_are_done(kind: str) -> None:
    cases = itertools.product(LIMITS, LENGTHS)  # each limit with 1 and with 3 batches a step
    for (limit, length), accumulate in zip(cases, itertools.cycle((1, 3)), strict=False):
        check(kind, accumulate, **length, **limit)


class Stream(IterableDataset):
    """Six samples, without a length."""

    def __iter__(self) -> Any:
        return iter([Images(6)[index] for index in range(6)])


def test_a_number_of_steps_that_is_not_known_is_refused() -> None:
    def fit(data: Any, **options: Any) -> None:
        classes = SURFACES if isinstance(data, densevit.DenseDataModule) else CLASSES
        trainer_of(limit_val_batches=0, **options).fit(
            module_of(classes, optim={"lr": 1e-2, "schedule": "cosine"}), data
        )

    steps = densevit.DenseDataModule(SECTION, batches_per_step=2)
    for call, message in (
        (lambda: fit(loader(Stream()), max_epochs=2), r"^optim\.schedule=cosine needs .* no end.* Fix: "),
        (lambda: fit(loader(6), max_time="00:00:01:00"), r"^optim\.schedule=cosine .* max_time is not .* Fix: "),
        (lambda: fit(steps, max_epochs=1, accumulate_grad_batches=3), r"batches_per_step=2.*batches=3\. Fix: "),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    fit(loader(Stream()), max_epochs=1, max_steps=2)
    fit(loader(6), max_epochs=1, limit_train_batches=0)


@pytest.mark.filterwarnings("ignore")
def test_no_precision_plugin_of_lightning_casts_targets() -> None:
    """Each is replaced, or refused in one line."""
    import pytorch_lightning as lightning
    from pytorch_lightning.plugins import precision as plugins
    from pytorch_lightning.plugins.precision import Precision

    from densevit.training.loop.module_trainer import prepare_trainer

    arguments = {
        "MixedPrecision": ("bf16-mixed", "cpu"),
        "FSDPPrecision": ("32-true",),
        "DeepSpeedPrecision": ("32-true",),
    }
    batch, refused = {"depth": torch.zeros(2)}, []
    for name, kind in vars(plugins).items():
        if not (isinstance(kind, type) and issubclass(kind, Precision)):
            continue
        plugin = kind.__new__(kind)  # some need other packages or hardware
        with contextlib.suppress(Exception):
            plugin = kind(*arguments.get(name, ()))
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.precision_plugin = plugin
        try:
            prepare_trainer(trainer, "fit")
        except ConfigError as error:
            refused.append(name)
            assert name in str(error) and "Fix: " in str(error) and "\n" not in str(error)
        else:
            assert trainer.precision_plugin.convert_input(batch) is batch, name
    assert {"FSDPPrecision", "DeepSpeedPrecision"} <= set(refused) and "HalfPrecision" not in refused
