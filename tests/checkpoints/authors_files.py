"""Files of models of ours in the authors' layouts."""

from pathlib import Path

import torch
from torch import Tensor

from densevit.layouts import find
from densevit_checkpoints.key_mapping import translate_back
from densevit_checkpoints.transformers_export import by_task, model_of


def in_layout(source: Path, layout: str) -> dict[str, Tensor]:
    """The tensors of a run or a converted backbone in a layout, or in the variant of it that has a place for them."""
    model = model_of(source, trust=False)
    found = find(layout)
    state = by_task(model)[0]
    if found.is_backbone:
        state = model.backbone.state_dict()
    errors = []
    for one in (found, *found.variants):
        try:
            tensors, unknown = translate_back(state, one)
        except ValueError as error:
            errors.append(str(error))
            continue
        if not unknown:
            return {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        errors.append(f"{one.name} has no place for {unknown}")
    raise AssertionError(errors)


def write_in_layout(source: Path, layout: str, out: Path) -> None:
    """Writes a .pth file of these tensors."""
    torch.save(in_layout(source, layout), out)
