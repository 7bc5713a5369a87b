"""Shared by the tests of layouts: lists of released keys, complete translations, padded images."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import densevit
from densevit import config as configs
from densevit.interfaces import Backbone, CheckpointLayout
from densevit.layouts import find
from densevit.model import DenseModel
from densevit_checkpoints.key_mapping import Translation, canonical, describe, translate, translate_back
from densevit_checkpoints.recognition import recognise
from tests.built_models import build_model
from tests.padded_batches import padded

NOTHING = "(?!)"  # a pattern without matching keys


def released(name: str) -> dict[str, Tensor]:
    """Random tensors of the names and shapes of a released checkpoint."""
    lines = (Path(__file__).parents[1] / "released" / f"{name}.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    shapes = {key: "" if key.endswith("num_batches_tracked") else shape for key, shape in rows}
    return {key: torch.randn([int(side) for side in shape.split("x") if side]) for key, shape in shapes.items()}


READ_ONLY = "google-vit"
# Tokens include their positions here; rows of no class and biases of keys have no effect.
REWRITTEN = r"(cls_token|class_token|dist\w*_token|cls|pos\w*|class_\w+\.(\d\.)?(weight|bias)|qkv\.bias)$"


def written_back(state: dict[str, Tensor], done: Translation, layout: CheckpointLayout) -> None:
    """Written in their layout, our tensors have their keys and values, and are read as the same tensors."""
    if layout.name == READ_ONLY:
        return
    back, unknown = translate_back(done.tensors, layout)
    again = translate(back, layout)
    assert (unknown, again.unknown, again.errors) == ([], [], [])
    assert again.tensors.keys() == done.tensors.keys()
    assert all(torch.equal(x, done.tensors[key]) for key, x in again.tensors.items())
    state = canonical(state, layout) or state
    if layout.special.rearrange is None:
        assert len({key for origins in done.origins.values() for key in origins}) <= len(back)  # in any spelling
    for key in (back.keys() & state.keys()) - done.ignored_keys.keys():
        assert re.search(REWRITTEN, key) or torch.equal(back[key].flatten(), state[key].flatten()), key


def loaded(state: dict[str, Tensor], name: str, recognised: str = "", **options: object) -> Backbone:
    """The backbone that `describe` returns, with exactly the tensors of a checkpoint of this layout.

    Each of theirs is used or listed, and each of ours is present in its shape, except for those initialised afresh.
    recognised: the layout under which the names are recognised, if it differs. Options go to the backbone.
    """
    layout = find(name)
    assert recognise(state).name == (recognised or name)
    done = translate(state, layout)
    assert done.unknown == [] and done.errors == []
    whole = {key for key in done.ignored_keys if "[" not in key}
    used = {key for origins in done.origins.values() for key in origins}
    own = canonical(state, layout) or state
    own = layout.special.rearrange.forward(own) if layout.special.rearrange else own
    assert len(own) >= len(state)  # copies of a shared table
    assert used | whole == own.keys() and not used & whole
    meta = next(iter(state.values())).is_meta
    with torch.device("meta" if meta else "cpu"):
        backbone = densevit.create_backbone(**{**describe(state, layout)["backbone"], **options}).eval()
    own = backbone.state_dict()
    norms = {key for key in own.keys() - done.tensors.keys() if key.startswith("feature_norms.")}  # no classifier has
    fresh = {key for key in own if _stays(key, layout)} | norms
    assert {key: tuple(x.shape) for key, x in done.tensors.items() if not key.endswith("num_batches_tracked")} == {
        key: tuple(x.shape) for key, x in own.items() if key not in fresh
    }
    if not meta:
        backbone.load_state_dict(done.tensors, strict=False)
        written_back(state, done, layout)
    return backbone


def _stays(key: str, layout: CheckpointLayout) -> bool:
    counts = key.endswith("num_batches_tracked")
    return counts or any(key.startswith(pattern.removesuffix("*")) for pattern in layout.special.missing)


def whole(
    state: dict[str, Tensor],
    layout: CheckpointLayout,
    without_effect: str = NOTHING,
    thirds: str = NOTHING,
    metadata: Mapping[str, object] | None = None,
    **backbone: object,
) -> DenseModel:
    """The model that `describe` returns, with exactly the tensors of a checkpoint.

    Each of theirs is used once, or omitted if it matches the pattern `without_effect`, as all such tensors are.
    thirds: pattern of tensors that join query, key and value, which are three tensors here. metadata: of the
    checkpoint. Options go to the backbone.
    """
    done = translate(state, layout)
    assert (done.unknown, done.errors) == ([], [])
    uses = Counter(key for origins in done.origins.values() for key in origins)
    state = canonical(state, layout) or state
    parts = {key: 3 if re.search(thirds, key) else 1 for key in state.keys() - done.ignored_keys.keys()}
    assert uses == parts
    assert {key for key in state if re.match(without_effect, key)} == done.ignored_keys.keys()
    sections = describe(state, layout)
    sections["backbone"] |= {"mean": layout.publishing.mean, "std": layout.publishing.std}
    sections["backbone"] |= backbone
    config = configs.from_mapping({**sections, "data": {"name": "scenes"}, "trainer": {"max_steps": 1}})
    meta = next(iter(state.values())).is_meta
    with torch.device("meta" if meta else "cpu"):
        model = build_model(config, layout.classes(state, metadata or {}) if layout.classes else {})
    own = model.state_dict()
    assert {key: x.shape for key, x in done.tensors.items()} == {key: x.shape for key, x in own.items()}
    if not meta:
        model.load_state_dict(done.tensors)
        written_back(state, done, layout)
    return model.eval()


def padded_batch(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Images of whole patches, padded to one size."""
    torch.manual_seed(4)
    patches = [torch.randint(256, (3, h // 16 + 1, w // 16 + 1), dtype=torch.uint8) for h, w in sizes]
    images = (x.repeat_interleave(16, 1).repeat_interleave(16, 2) for x in patches)
    return padded([x[:, :h, :w] for x, (h, w) in zip(images, sizes, strict=True)])
