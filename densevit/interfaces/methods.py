"""The interface of training methods."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from densevit.constructor_call import Recorded
from densevit.interfaces.data_types import Batch, Losses
from densevit.interfaces.datasets import Dataset
from densevit.losses.context import LossContext


class Method(nn.Module, Recorded):
    """A training method. The built-in method `supervised` minimises the losses of the heads.

    The constructor takes the model, a `DenseModel`, and the method's options. Modules of the method, such as a decoder
    or a teacher, are trained unless frozen, and saved in checkpoints, but not in the model file. The model may have no
    heads; then its backbone is saved. See `docs/own-method.md`.

    needs_heads: whether the model must have heads. needs_labels: whether the training images must have labels.
    views: number of differently augmented copies of each image; a batch contains the first view, and later views as
        `other_views`.
    any_channels: whether the method supports images other than 8-bit RGB.
    external_modules: names of frozen modules whose weights the constructor loads; checkpoints leave them out, and they
        stay in evaluation mode.

    Example:
        >>> class Plain(densevit.Method):
        ...     def training_step(self, model, batch, context):
        ...         return model.losses_of(model(batch), batch["targets"], context)
        >>> Plain(densevit.load("runs/setr_vit")).views
        1
    """

    needs_heads: bool = False
    needs_labels: bool = False
    views: int = 1
    any_channels: bool = False
    external_modules: tuple[str, ...] = ()

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_remove_external_modules)
        self.register_load_state_dict_pre_hook(_add_external_modules)

    def train(self, mode: bool = True) -> "Method":
        super().train(mode)
        for name in self.external_modules:
            self.get_submodule(name).eval()
        return self

    def transform(self, configured: Any) -> Any:
        """The training transform (sample, generator, types) -> sample, called once per view; or -> a list of all views,
        which may share their geometry or differ in size. Default: `configured`, the config's transform.
        """
        return configured

    def training_data(self, dataset: Dataset, folder: Path) -> Dataset:
        """The training data set, such as `dataset` with labels that the method predicts. Called before training, in
        each process. folder: the run's. Default: `dataset`."""
        return dataset

    def eval_model(self, model: Any) -> Any:
        """The validated and saved model, a `DenseModel` with the heads of `model`: `model` by default, or a
        teacher, which is a module of the method."""
        return model

    def check_steps(self, steps: int) -> None:
        """Raises ConfigError if the method cannot train for this number of optimiser steps. Default: no check."""

    def set_progress(self, progress: float) -> None:
        """Called with the share of the training that is done, when `Head.set_progress` is. Default: nothing."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """The loss terms of a batch. The model is in training mode. context: the normalisers of `Head.loss`.

        They must depend on the same parameters in each step, also for blank images without labels: a step on such
        images detects unused parameters, which several processes freeze.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a Method and must implement training_step(model, batch, context)."
        )

    def after_step(self, model: Any) -> None:
        """Called after each optimiser step, without gradients, for example to update a teacher. Default: nothing."""

    def callbacks(self) -> list[Any]:
        """Lightning callbacks of a run with this method, such as a warning of collapse. Default: none."""
        return []

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        """The loss of each image (B,), without gradients. Its mean is the metric `method/loss`, which selects the best
        epoch of a model without heads. Not implemented by default: only heads are evaluated.

        model: the result of `eval_model`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement validation_losses().")


def _remove_external_modules(method: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Removes the tensors of `Method.external_modules` from a state dict."""
    assert isinstance(method, Method)
    parts = tuple(f"{prefix}{name}." for name in method.external_modules)
    for key in [key for key in state if key.startswith(parts)]:
        del state[key]


def _add_external_modules(method: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adds the current tensors of `Method.external_modules` to a state dict before loading."""
    assert isinstance(method, Method)
    for name in method.external_modules:
        state |= method.get_submodule(name).state_dict(prefix=f"{prefix}{name}.")
