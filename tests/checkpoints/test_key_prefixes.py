"""Prefixes of keys and containers of state dicts do not change which tensors are read."""

import re

import pytest
import torch

import densevit
from densevit.cli import main
from densevit.errors import WeightsError
from densevit.layouts import every
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import read
from densevit_checkpoints.converting import convert_checkpoint
from densevit_checkpoints.key_mapping import canonical
from densevit_checkpoints.recognition import fitting, most_specific
from tests.small_models import FourMaps
from tests.weights.states import assert_state, equal

PREFIXES = ("model.backbone.", "encoder.", "encoder_q.", "backbone.body.", "model.teacher.", "0.")


def state_of(layout):
    """Tensors with the keys of a layout, of one block of each kind."""
    names = [*layout.signature_keys, *(line.foreign_key for line in layout.lines if line.foreign_key != "0")]
    names = [re.sub(r"\{\w+\}", "0", re.sub(r"\[\d/\d\]$", "", name)) for name in names]
    keys = dict.fromkeys(re.sub(r"\*$", part, name) for name in names for part in ("weight", "bias"))
    return {key: torch.full((2,), float(i)) for i, key in enumerate(keys)}


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.integration
def test_each_layout_is_read_below_prefixes_alone_and_beside_other_tensors():
    for i, layout in enumerate(every()):
        state = state_of(layout)
        same = most_specific(state)
        assert same, layout.name
        prefix, others = PREFIXES[i % 6], {"unlike.anything": torch.zeros(1)} if i // 6 % 2 else {}
        wrapped = prefixed(prefix, state) | others
        if most_specific(wrapped):  # the layout has this prefix itself
            continue
        checkpoint = fitting(Checkpoint(wrapped, "a.pth"), most_specific, WeightsError("no layout"))
        for found in same:
            assert equal(canonical(checkpoint.tensors, found), canonical(state, found)), (found.name, prefix)
        assert most_specific(checkpoint.tensors) == same
        [note] = checkpoint.notes
        assert repr(prefix)[:4] in note and ("unlike.anything" in note) is bool(others)


@pytest.mark.parametrize(
    ("average", "raw"),
    [
        *[
            (average, raw)
            for average in ("state_dict_ema", "model_ema", "ema_model", "ema")
            for raw in ("model", "net")
        ],
        *[("state_dict_ema", "state_dict"), ("model_ema", "state_dict"), ("ema", "module"), ("teacher", "student")],
    ],
)
def test_the_average_is_read_and_both_are_named(average, raw, tmp_path):
    state = {"conv1.weight": torch.zeros(2), "fc.bias": torch.ones(3)}
    averaged = {key: tensor + 1 for key, tensor in state.items()}
    for content in ({raw: state, average: averaged}, {average: {"module": averaged, "updates": 3}, raw: state}):
        torch.save(content | {"epoch": 3}, tmp_path / "a.pth")
        checkpoint = read(tmp_path / "a.pth").with_container()
        assert_state(checkpoint.tensors, averaged)
        [note] = checkpoint.notes
        assert re.search(rf"{average}\S* is loaded, not {raw}\b", note)


@pytest.mark.integration
def test_the_average_is_read_in_each_layout_unless_it_states_the_container(tmp_path):
    for layout in every():
        state = state_of(layout)
        averaged = {key: tensor + 1 for key, tensor in state.items()}
        torch.save({"model": state, "model_ema": averaged}, tmp_path / "a.pth")
        checkpoint = read(tmp_path / "a.pth").with_container(layout.container)
        assert_state(checkpoint.tensors, state if layout.container == "model" else averaged)


def test_a_stated_container_is_that_of_the_published_scores():
    """The authors' evaluation reads `model`, as DeiT's, whose code writes `model_ema` beside it."""
    stated = {layout.name: layout.container for layout in every() if layout.container}
    assert stated == dict.fromkeys(("ceit", "ceit-lca", "localvit", "cycle-mlp"), "model")


def test_an_average_of_a_few_tensors_is_not_the_model(tmp_path):
    state = {f"{i}.weight": torch.ones(2) for i in range(3)}
    torch.save({"model": state, "ema": {"decay": torch.tensor(0.99)}}, tmp_path / "a.pth")
    assert_state(read(tmp_path / "a.pth").tensors, state)


# ---- a model ----


class Backbone(FourMaps):
    """A third party's backbone without a layout."""


def random_state():
    return {key: torch.rand_like(x) if x.is_floating_point() else x for key, x in Backbone().state_dict().items()}


@pytest.fixture
def resnet():
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    return {key: torch.randn_like(x) if x.is_floating_point() else x for key, x in state.items()}


def test_the_keys_of_a_backbone_without_layout_are_found_below_a_prefix(tmp_path):
    state = random_state()
    torch.save(
        {"state_dict": prefixed("model.teacher.", state) | {"model.head.bias": torch.ones(2)}}, tmp_path / "a.pth"
    )
    backbone = densevit.create_backbone(f"{__name__}:Backbone", weights=tmp_path / "a.pth")
    assert_state(backbone.state_dict(), state)


def test_a_prefix_is_chosen_by_hand_where_several_fit(resnet, tmp_path, capsys):
    file = tmp_path / "a.pth"
    torch.save(prefixed("student.net.", resnet) | prefixed("teacher.", {k: x + 1 for k, x in resnet.items()}), file)
    for read_file in (
        lambda: densevit.create_backbone("resnet", depth=18, weights=file),
        lambda: convert_checkpoint(read(file)),
    ):
        with pytest.raises(
            WeightsError, match=r"a\.pth: models below the prefixes 'teacher\.' and 'student\.net\.'\. Fix: .* --prefix"
        ):
            read_file()
    assert main(["convert", str(file), str(tmp_path / "out"), "--prefix", "teacher."]) == 0
    assert "prefix 'teacher.' are read, without 122 other tensors (student.net.conv1.weight," in " ".join(
        capsys.readouterr().out.split()
    )
    assert torch.equal(read(tmp_path / "out").tensors["backbone.conv1.weight"], resnet["conv1.weight"] + 1)


def test_a_prefix_without_keys_is_refused_with_the_prefixes_of_the_file(resnet, tmp_path, capsys):
    torch.save(prefixed("model.teacher.", resnet), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "out"), "--prefix", "teacher."]) == 2
    assert re.search(
        r"a\.pth: no key begins with 'teacher\.'\. Fix: .* \('model\.', 'model\.teacher\.',", capsys.readouterr().err
    )
    assert main(["convert", "runs/a", str(tmp_path / "out"), "--to", "hf", "--prefix", "teacher."]) == 2


# ---- values ----


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_named_at_each_door(value, resnet, tmp_path):
    resnet["layer1.0.bn1.weight"][3] = value
    resnet["fc.bias"][0] = value  # not loaded
    torch.save(resnet, tmp_path / "a.pth")
    for load in (
        lambda: densevit.create_backbone("resnet", depth=18, weights=tmp_path / "a.pth"),
        lambda: convert_checkpoint(read(tmp_path / "a.pth")),
    ):
        with pytest.warns(UserWarning, match=r"a\.pth: 1 of 120 tensors .*NaN or infin.*\(layer1\.0\.bn1\.weight\)"):
            load()
