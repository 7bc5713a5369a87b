"""The LightningModule for training and evaluation."""

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from densevit import config as configs
from densevit.config import Config
from densevit.data.build import Data
from densevit.inference.predictor import Predictor, dense_model
from densevit.interfaces import Batch, Predictions
from densevit.losses.distributed import process_count
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups
from densevit.training.budget import Budget
from densevit.training.optim import build_optimizer, learning_rate, schedule


class DenseModule(lightning.LightningModule):
    """A model with its config and data."""

    def __init__(self, model: DenseModel | Predictor, config: Config, data: Data) -> None:
        super().__init__()
        self.model, self.config, self.data = dense_model(model), config, data
        self.learning_rate = 0.0  # the largest of all groups, at the last step
        if config.trainer.compile:
            self.model.compile()

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        losses = self.model.loss(self.model(batch), batch["targets"])
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch["images"]))
        return {"loss": loss, "terms": {name: term.detach() for name, term in losses.items()}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.learning_rate = max(group["lr"] for group in optimizer.param_groups)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning rejects fused optimisers here because of fp16's gradient scaler; ours is not fused with fp16.
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, list[Predictions]]:
        return self.model.infer(batch, self.config.inference)

    def configure_optimizers(self) -> Any:
        section, budget = self.config.optim, self.budget(self.trainer.world_size)
        lr = learning_rate(section, budget.images_per_step)
        optimizer = build_optimizer(self.model, section, lr, fused=self.trainer.precision != "16-mixed")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(section, budget.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _apply_config_to_optimizer(self) -> None:
        """Replaces the learning rates, weight decays and momenta of a loaded optimiser by those of the config."""
        section, optimizer = self.config.optim, self.trainer.optimizers[0]
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        lr = learning_rate(section, self.budget(self.trainer.world_size).images_per_step)
        groups = parameter_groups(self.model, section, lr)
        scheduler.base_lrs = [group["lr"] for group in groups]
        factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
        for loaded, group in zip(optimizer.param_groups, groups, strict=True):
            loaded |= {"initial_lr": group["lr"], "lr": group["lr"] * factor, "weight_decay": group["weight_decay"]}
            loaded |= {"betas": section.betas} if "betas" in loaded else {"momentum": section.betas[0]}

    def budget(self, world_size: int) -> Budget:
        """The training budget. Lightning's `estimated_stepping_batches` is not used: it builds the loader too early,
        and a resumed run would then restart its epoch."""
        batches = self.data.batches_an_epoch(world_size)
        return Budget.of(self.config.trainer, batches, self.config.data.batch_size, world_size)

    def train_dataloader(self) -> DataLoader:
        return self.data.train_loader(self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader:
        return self.data.val_loader(self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves images, padding mask and targets to the device; `truth` stays on the CPU for the evaluators."""
        targets = []
        for target in batch["targets"]:
            moved = {k: _moved(v, device) for k, v in target.items() if k not in ("truth", "size", "original_size")}
            targets.append({**target, **moved})
        images, mask = (batch[key].to(device, non_blocking=True) for key in ("images", "padding_mask"))
        return {"images": images, "padding_mask": mask, "targets": targets}

    # Checkpoints hold the random state of each process, so that a resumed run continues exactly.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        states: list[Any] = [state]
        if process_count() > 1:
            states = [None] * process_count()
            distributed.all_gather_object(states, state)
        checkpoint["random_state"] = states
        checkpoint["config"] = configs.dump(self.config)
        checkpoint["classes"] = {head: [c.name for c in classes] for head, classes in self.model.classes.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random_state, self._resumed = checkpoint.get("random_state"), True

    def on_train_start(self) -> None:
        if getattr(self, "_resumed", False):
            self._apply_config_to_optimizer()
        states = getattr(self, "_random_state", None)
        states = [states] if isinstance(states, dict) else states  # old checkpoints of one process
        if states and self.trainer.global_rank < len(states):
            state = states[self.trainer.global_rank]
            torch.set_rng_state(state["cpu"])
            if "cuda" in state and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
