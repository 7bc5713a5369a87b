"""Training methods: the default, and creation by name."""

from typing import Any

from densevit import registry
from densevit.inference.predictor import Predictor, dense_model
from densevit.interfaces import Batch, Losses, Method
from densevit.model import DenseModel


class Supervised(Method):
    """Minimises the weighted losses of all heads on labelled images."""

    needs_heads = True
    needs_labels = True

    def training_step(self, model: Any, batch: Batch) -> Losses:
        losses: Losses = model.loss(model(batch), batch["targets"])
        return losses


def create_method(name: str, model: DenseModel | Predictor, **options: Any) -> Method:
    """Builds a training method by its plugin name, for this model."""
    method: Method = registry.create("methods", name, dense_model(model), options=options, where=f"method {name!r}")
    return method
