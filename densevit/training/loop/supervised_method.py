"""Supervised training, the default method, and creation of methods by name."""

from typing import Any, cast

from densevit import registry
from densevit.errors import PluginError
from densevit.interfaces import Batch, LossContext, Losses, Method
from densevit.model import DenseModel, unwrapped


class Supervised(Method):
    """Minimises the weighted losses of all heads on labelled images."""

    needs_heads = True
    needs_labels = True
    any_channels = True

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        return cast(Losses, model.loss(batch, context=context))


def create_method(name: str, model: DenseModel, **options: Any) -> Method:
    """Builds a training method by its plugin name.

    Example:
        >>> method = densevit.create_method("mean_teacher", densevit.load("runs/detr_swin"))
        >>> method.needs_heads, method.views
        (True, 2)
    """
    model = unwrapped(model, "create_method", trains=True)
    return cast(Method, registry.create("methods", name, model, options=options, where=f"method {name!r}"))


def labels_data(method: Any) -> bool:
    """Whether the method replaces the training data (`Method.training_data`)."""
    return isinstance(method, Method) and type(method).training_data is not Method.training_data


def check_method(method: Method, model: DenseModel) -> None:
    """Raises PluginError if `eval_model` is not part of the method, or for images that it cannot use."""
    if not method.any_channels and not model.channels.is_rgb:
        raise PluginError(
            f"method {type(method).__name__} is for 8-bit RGB images; the data has {model.channels}. Fix: use "
            "the method supervised, or set any_channels in the method's class."
        )
    saved = method.eval_model(model)
    if saved is not model and not (isinstance(saved, DenseModel) and any(part is saved for part in method.modules())):
        raise PluginError(
            f"method {type(method).__name__}: its eval_model returned a {type(saved).__name__}; the model, or a "
            "DenseModel that is a module of the method, is expected. Fix: create it in the constructor, as in "
            "self.teacher = copy.deepcopy(model)."
        )
