"""The LightningDataModule for the config section `data`."""

import math
import warnings
from functools import partial

import pytorch_lightning as lightning

from densevit.config.data_schema import NEW_CLASSES
from densevit.data.data_builder import DataSource, build_data
from densevit.data.data_splits import DataSplits
from densevit.data.loading.batch_sampler import TrainBatches
from densevit.data.loading.dataloader import Loader, ShardedLoader
from densevit.data.split_overlap import check_overlap
from densevit.data.transforms.augmentation_phases import final_phase_start
from densevit.errors import ConfigError, warn_once
from densevit.interfaces import Dataset, Method
from densevit.model import DenseModel
from densevit.training.loop.budget import Budget
from densevit.training.loop.data_checks import check_splits
from densevit.training.loop.supervised_method import labels_data


class DenseDataModule(lightning.LightningDataModule):
    """Training and validation loaders of a data set, for any Lightning Trainer.

    Each process gets its own batches; Lightning's `use_distributed_sampler` has no effect. Batches are padded to the
    model's size divisor. A run resumed within an epoch continues at its next batch.

    data, seed, train, val: the parameters of `densevit.build_data`; with train and val, data has the other keys of the
    section, such as {"image_size": 512}; or a `DataSplits`. batches_per_step: the training loader yields
    `OptimizerStep`s of this number of batches, as in `fit`; None: batches, which a `DenseModule` collects by the
    Trainer's `accumulate_grad_batches`.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(max_steps=2, barebones=True)
        >>> data = densevit.DenseDataModule({"name": "scenes", "image_size": 64, "batch_size": 2})
        >>> trainer.fit(densevit.DenseModule(densevit.load("runs/setr_vit")), data)
        >>> trainer.global_step
        2
    """

    def __init__(
        self,
        data: DataSource | DataSplits | None = None,
        seed: int | None = None,
        batches_per_step: int | None = None,
        train: Dataset | None = None,
        val: Dataset | None = None,
    ) -> None:
        super().__init__()
        self._batches_per_step = batches_per_step
        self._is_checked = isinstance(data, DataSplits)
        if data is None and (train is None or val is None):
            raise ConfigError("DenseDataModule: train or val is missing. Fix: pass both, or a section `data`.")
        self.data = data if isinstance(data, DataSplits) else build_data(data or {}, 32, seed, train, val)

    def setup(self, stage: str) -> None:
        """Checks the splits, unless `data` was a `DataSplits`, and sets the model's section `data`. Raises DataError or
        ConfigError for missing labels and splits that do not match each other or the model."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        model, method = getattr(module, "model", None), getattr(module, "method", None)
        labels = True
        if isinstance(model, DenseModel):
            self.data = self.data.padded_to(model.padding)
        if isinstance(model, DenseModel) and isinstance(method, Method):
            labels = method.needs_labels or bool(model.heads)
            if stage == "fit":  # an evaluation may have validation data only
                self.data.use(method)
        # Lightning warns that the module overrides these hooks of the data module, which is intended.
        hooks = "on_before_batch_transfer|transfer_batch_to_device"
        warnings.filterwarnings("ignore", f"You have overridden `({hooks})` in `LightningModule`")
        if not self._is_checked and stage == "fit":
            if self.data.section.labelled_classes == NEW_CLASSES or labels_data(method):
                raise ConfigError(
                    "data.labelled_classes=new and methods that label the data, as self_training, need a run folder. "
                    "Fix: densevit.fit or densevit train."
                )
            self.data.sort_classes()
            self.data.check_splits(labels)
            if not getattr(self.trainer, "overfit_batches", 0):
                check_overlap(self.data)
            if self.data.val.division:
                warn_once(self.data.val.division)
        elif not self._is_checked and labels:
            self.data.val.check_labels()
        if not self._is_checked and isinstance(model, DenseModel):
            check_splits(self.data, model, method if stage == "fit" else None)
        if stage == "fit" and isinstance(model, DenseModel) and isinstance(method, Method):
            for trained in (model, method.eval_model(model)):
                trained.training_data, trained.reference_data = self.data.section, {}
                trained.training_record = self.data.record

    def train_dataloader(self) -> Loader:
        trainer, size = self.trainer, self._batches_per_step
        if trainer is None:
            return self.data.train_loader(loader=partial(Loader, batches_per_step=size))
        if size and trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                f"DenseDataModule(batches_per_step={size}) yields complete optimiser steps, and the Trainer has "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}. Fix: set one of them."
            )
        final, batches = self.data.section.final_phase, size or trainer.accumulate_grad_batches
        return self.data.train_loader(
            trainer.global_rank,
            trainer.world_size,
            partial(ShardedLoader, batches_per_step=size),
            partial(
                TrainBatches,
                same_batches=trainer.overfit_batches > 0,  # type: ignore[attr-defined]  # set by Lightning
                final_from=None if final is None else partial(_final_from, trainer, final.start, batches),
            ),
        )

    def val_dataloader(self) -> Loader:
        process = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return self.data.val_loader(*process, loader=ShardedLoader)


def _final_from(trainer: lightning.Trainer, start: float, batches_per_step: int) -> tuple[int, int]:
    """Epoch and position of the first batch of the final phase. Raises ConfigError if the Trainer has no end."""
    budget: Budget | None = getattr(trainer.lightning_module, "budget", None)
    if budget is not None:
        epoch, shift = budget.steps_per_epoch, budget.shift - budget.epoch_shift
        return final_phase_start(start, budget.length, epoch, shift, batches_per_step=batches_per_step)
    steps = getattr(trainer.lightning_module, "training_steps", None) or trainer.estimated_stepping_batches
    if steps == math.inf:
        raise ConfigError(
            "data.final_phase starts at a fraction of the optimiser steps, and this Trainer has no end. Fix: set its "
            "max_steps or max_epochs, or leave out data.final_phase."
        )
    epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return final_phase_start(start, int(steps), epoch, batches_per_step=batches_per_step)
