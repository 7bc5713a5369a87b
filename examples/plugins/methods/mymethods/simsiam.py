"""Training with two views of each image (SimSiam, Chen and He 2021)."""

from torch import Tensor, nn
from torch.nn import functional

from densevit.interfaces import Batch, LossContext, Losses, Method


class SimSiam(Method):
    """Predicts the pooled features of one view of an image from another view, without negatives (SimSiam)."""

    views = 2  # a batch has the first views; its `other_views` is a list of one batch, of the second views

    def __init__(self, model: nn.Module, width: int = 64) -> None:
        super().__init__(model)
        channels = model.backbone.channels[-1]
        self.projector = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.predictor = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))

    def training_step(self, model: nn.Module, batch: Batch, context: LossContext) -> Losses:
        first, second = (self.projected(model, view) for view in (batch, *batch["other_views"]))
        return {"similarity": (self.distance(first, second) + self.distance(second, first)) / 2}

    def projected(self, model: nn.Module, view: Batch) -> Tensor:
        """The pooled and projected features of a view, (B, C)."""
        features = model.backbone(model.normalise(view["images"], view["padding_mask"]))
        return self.projector(features[-1].mean((2, 3)))

    def distance(self, view: Tensor, target: Tensor) -> Tensor:
        """Negative cosine similarity between features predicted from one view and features of the other view."""
        return -functional.cosine_similarity(self.predictor(view).float(), target.detach().float()).mean()
