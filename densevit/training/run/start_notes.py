"""Lines at the start of a training on a missing neck and on the learning rate of a random backbone."""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from densevit import registry
from densevit.config.values import RANDOM
from densevit.model import create_neck
from densevit.model.meta_device import built_on_meta
from densevit.training.loop.optim import learning_rate
from densevit.training.run.plan import Plan


def missing_necks(plan: Plan) -> Iterator[str]:
    """Yields the necks that make finer features for heads without a neck, if all features have one stride."""
    model, strides = plan.model, plan.model.backbone.strides
    wanted = {
        name: head.finest_stride
        for name, head in model.heads.items()
        if head.finest_stride and len({*strides}) == 1 and name not in model.necks
    }
    for (name, limit), neck in itertools.product(wanted.items(), registry.list_plugins("necks")):
        with suppress(Exception):  # a neck that cannot be imported, or does not take these features
            levels = built_on_meta(partial(create_neck, neck, model.backbone.channels, strides)).strides
            if (finest := min(level for level in levels if level >= limit)) < strides[0]:
                yield (
                    f"heads.{name} ({plan.config.heads[name].name}): all features of the backbone have stride "
                    f"{strides[0]}. heads.{name}.neck.name={neck} gives it features from stride {finest} on, "
                    f"{(strides[0] / finest) ** 2:.3g} times the cells."
                )


def random_backbone(plan: Plan) -> Iterator[str]:
    """Yields a line if a backbone starts from random weights at a lower learning rate than the heads."""
    section, lr = plan.config.backbone, learning_rate(plan.config.optim, plan.budget.images_per_step)
    if (
        (rate := plan.config.optim.backbone_lr or lr) < lr
        and plan.checkpoint is None
        and plan.config.weights is None
        and section.weights in (None, RANDOM)
        and not section.options.get("pretrained")
    ):
        yield (
            f"The backbone starts from random weights with optim.backbone_lr={rate:g}, below the {lr:g} of the heads. "
            "The same rate for both: optim.backbone_lr=null."
        )
