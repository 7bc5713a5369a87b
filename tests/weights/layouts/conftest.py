"""What the tests of layouts share: random weights, released lists of names, translations that leave out nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.interfaces import Backbone
from densevit.weights.layout import Layout, translate
from densevit.weights.layouts import find, recognise


def _randomise(module: nn.Module) -> nn.Module:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith("running_mean"):
            nn.init.normal_(tensor, 0.0, 0.3)
        elif not isinstance(tensor, nn.Parameter):
            continue
        elif tensor.ndim == 1 and name.endswith("bias"):
            nn.init.normal_(tensor, 0.0, 0.3)
        elif tensor.ndim == 1:
            nn.init.normal_(tensor, 1.0, 0.3)
        elif any(word in name for word in ("pos_embed", "rel_pos", "bias_table", "_token", "logit_scale")):
            nn.init.normal_(tensor, 0.0, 1.0)
        else:
            nn.init.normal_(tensor, 0.0, tensor[0].numel() ** -0.5)
    return module.eval()


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Fills a module's parameters and statistics with numbers that a mistake would show in; for evaluation."""
    return _randomise


@pytest.fixture(scope="session")
def released() -> Callable[[str], dict[str, Tensor]]:
    """`released(name)`: random tensors of the names and shapes of a released checkpoint."""

    def released(name: str) -> dict[str, Tensor]:
        lines = (Path(__file__).parents[1] / "released" / f"{name}.txt").read_text().splitlines()
        rows = [line.split() for line in lines if not line.startswith("#")]
        return {key: torch.randn([int(side) for side in shape.split("x")]) for key, shape in rows}

    return released


def _loaded(state: dict[str, Tensor], name: str, recognised: str = "", **options: object) -> Backbone:
    layout = find(name)
    assert recognise(state).name == (recognised or name)
    done = translate(state, layout)
    assert done.unknown == [] and done.wrong == []
    whole = {key for key in done.left_out if "[" not in key}
    used = {key for origins in done.origins.values() for key in origins}
    assert used | whole == state.keys() and not used & whole
    meta = next(iter(state.values())).is_meta
    with torch.device("meta" if meta else "cpu"):
        backbone = densevit.create_backbone(**{**layout.describe(state)["backbone"], **options}).eval()
    own = backbone.state_dict()
    fresh = {key for key in own if _stays(key, layout)}
    assert {key: tuple(x.shape) for key, x in done.tensors.items() if not key.endswith("num_batches_tracked")} == {
        key: tuple(x.shape) for key, x in own.items() if key not in fresh
    }
    if not meta:
        backbone.load_state_dict(done.tensors, strict=False)
    return backbone


def _stays(key: str, layout: Layout) -> bool:
    counts = key.endswith("num_batches_tracked")
    return counts or any(key.startswith(pattern.removesuffix("*")) for pattern in layout.fresh)


@pytest.fixture(scope="session")
def loaded() -> Callable[..., Backbone]:
    """`loaded(state, layout)`: the backbone that `describe` names, with all tensors of a checkpoint and no other.

    Each of theirs is used or listed, and each of ours is there in its shape, but for those that begin afresh.
    recognised: the layout that the names are known as, where it is another. Options go to the backbone.
    """
    return _loaded
