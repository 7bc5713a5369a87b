"""Saves the best model with its metrics, and stops training early."""

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from densevit.data.io.image_names import image_names
from densevit.evaluation import metrics_file
from densevit.evaluation.tables_file import write_tables
from densevit.interfaces import Dataset
from densevit.model import DenseModel
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.training.loop.dense_module import DenseModule
from densevit.training.loop.sharding import full_state_dict
from densevit.weights import model_file

_MODEL, _METRICS = "model.safetensors", "metrics.json"


class BestModel(lightning.Callback):
    """Writes `model.safetensors`, `metrics.json` and the evaluators' tables of the best epoch to the run folder.

    folder: the run folder. best_epoch: the selection, restored in a resumed run. dataset: the validation split.
    patience: training stops after this number of consecutive validations without improvement. Lightning's
    EarlyStopping monitors one metric; this callback supports several heads. Metrics are equal in all processes, so all
    of them stop.
    """

    def __init__(self, folder: Path, best_epoch: BestEpoch, dataset: Dataset, patience: int | None = None) -> None:
        self.folder, self.best_epoch, self.dataset, self.patience = folder, best_epoch, dataset, patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.best_epoch.exhausts(self.patience)  # in a resumed run

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: DenseModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit":
            return
        improved = self.best_epoch.improves(pl_module.validation.metrics)
        trainer.should_stop = trainer.should_stop or self.best_epoch.exhausts(self.patience)
        if improved:
            self.save(trainer, pl_module.eval_model)
        if not (improved and trainer.is_global_zero):
            return
        if self.best_epoch.monitored and not self.best_epoch.reached:
            monitored = ", ".join(self.best_epoch.monitored)
            warnings.warn(
                f"{monitored}: undefined on the validation data; the latest weights are saved instead of the best. "
                "Fix: check the labels of the validation data.",
                stacklevel=1,  # Lightning calls this, and its warnings are hidden
            )
        metrics_file.write(pl_module.validation.metrics, self.folder / _METRICS)
        names = image_names(self.dataset, pl_module.validation.indices)
        write_tables(pl_module.validation.evaluators, self.folder, names, pl_module.eval_model.default_thresholds)

    def save(self, trainer: lightning.Trainer, model: DenseModel) -> None:
        """Writes the model. All processes must call this."""
        state = full_state_dict(model)
        if trainer.is_global_zero:
            model_file.save(model, self.folder / _MODEL, state, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return self.best_epoch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        missing = [name for name in (_MODEL, _METRICS) if not (self.folder / name).is_file()]
        if self.best_epoch.best is not None and missing:
            warnings.warn(
                f"{self.folder} has no {' and no '.join(missing)} of its best epoch; the next validation counts as the "
                "best.",
                stacklevel=1,
            )
            self.best_epoch.load_state_dict({"best": None, "reached": {}, "stale": 0})
