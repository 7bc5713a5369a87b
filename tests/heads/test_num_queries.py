"""Weights of another number of queries, for every head with queries: which rows are loaded."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit import config as configs
from densevit import registry
from densevit.interfaces import Class
from densevit.model import DenseModel
from densevit.registry.plugin_options import nested_plugins
from densevit.weights.model_file import save
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.state_dict_loading import StateDictMatch
from tests.heads.cases import CASES
from tests.small_models import FOUR_MAPS

pytestmark = pytest.mark.integration

Q, MORE, FEWER = 6, 13, 5
VIT = {"name": "vit", "variant": "nano", "image_size": 64}


def with_queries(options: Mapping[str, Any], num_queries: int) -> dict[str, Any]:
    """The options, also of a nested detector, with this number of queries."""
    return {
        key: num_queries
        if key == "num_queries"
        else with_queries(value, num_queries)
        if isinstance(value, Mapping)
        else value
        for key, value in options.items()
    }


def counts_queries(kind: Any) -> bool:
    """Whether a head, or a detector inside it, has the option `num_queries`."""
    parameters = inspect.signature(kind).parameters
    return "num_queries" in parameters or any(
        counts_queries(plugin) for p in parameters.values() for plugin in nested_plugins(p.annotation)
    )


NAMES = [name for name, case in CASES.items() if with_queries(case.options, 0) != dict(case.options)]


def test_every_head_with_queries_is_a_case() -> None:
    heads = {name for name in densevit.list_plugins("heads") if counts_queries(registry.load("heads", name))}
    assert {CASES[name].head for name in NAMES} == heads and len(heads) > 15


def model_of(
    name: str, num_queries: int, weights: str = "", key: str = "weights", classes: str = "abcd", **options: Any
) -> tuple[DenseModel, list[StateDictMatch]]:
    """The model of a case, and the reports of its weights. key: `weights` or `heads.head.weights`."""
    case = CASES[name]
    head = {"name": case.head, **with_queries(case.options, num_queries), **options}
    sections: dict[str, Any] = {
        "backbone": VIT if case.head.startswith(("eomt", "pmt")) else FOUR_MAPS,
        "heads": {"head": head},
    }
    if weights:
        (sections if key == "weights" else head)["weights"] = weights
    made = {"head": tuple(Class(c, ord(c), (0, 0, i), thing=i != 1) for i, c in enumerate(classes))}
    model, reports = build_pretrained(configs.model_sections(sections, "test"), made)
    return model, reports


def resized(small: DenseModel, model: DenseModel) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors whose shape depends on the number of queries, as (G, Q, ...)."""
    before = small.state_dict()
    for key, tensor in model.state_dict().items():
        if before[key].shape != tensor.shape:
            [dim] = [i for i, (a, b) in enumerate(zip(before[key].shape, tensor.shape, strict=True)) if a != b]
            groups = before[key].shape[dim] // Q
            yield tuple(x.movedim(dim, 0).unflatten(0, (groups, -1)) for x in (before[key], tensor))


def saved(name: str, path: Path) -> DenseModel:
    """Saves the model of a case with Q queries and random values in all tensors, and returns it."""
    model, _ = model_of(name, Q)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and "mask_probability" not in key:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 4
            tensor += torch.randn(tensor.shape) * fan_in**-0.5
    save(model, path)
    return model


@pytest.mark.parametrize(("name", "key"), [(x, ("weights", "heads.head.weights")[i % 2]) for i, x in enumerate(NAMES)])
def test_weights_of_another_number_of_queries_are_loaded_and_reported(tmp_path: Path, name, key):
    """Each group keeps its first rows. The others are copies, from the last on, drawn to the mean, with some noise."""
    path = str(tmp_path / "model.safetensors")
    small = saved(name, path)
    for number, how in ((MORE, "these stay, 7 are copies with noise"), (FEWER, "the first 5")):
        torch.manual_seed(3)
        model, [report, *_] = model_of(name, number, path, key)
        tables = [*resized(small, model)]
        assert any(f": {number} queries for {Q}: {how}." in text for text in report.warnings) == bool(tables)
        for before, after in tables:
            assert after.shape[1] == number and torch.equal(after[:, :Q], before[:, :number])
            for group, rows in zip(before, after[:, Q:], strict=True):
                deviation, mean = torch.std_mean(group, dim=0, correction=0)
                copied = torch.stack([group[i] for i in (5, 4, 3, 2, 1, 0, 5)])[: len(rows)]
                noise = (rows - mean - (copied - mean) / 4) / deviation
                assert not len(rows) or (noise.abs().max() < 0.5 and 0.05 < noise.std() < 0.2)
        for part in ("heads", "backbone") if key == "weights" else ("heads",):
            state = getattr(model, part).state_dict()
            before = getattr(small, part).state_dict()
            assert all(torch.equal(x, before[name]) for name, x in state.items() if x.shape == before[name].shape)


GROUPED = [
    name for name in NAMES if "num_groups" in inspect.signature(registry.load("heads", CASES[name].head)).parameters
]


@pytest.mark.parametrize(("num_groups", "how"), [(2, "the first 2"), (5, "these stay, 2 are copies with noise")])
@pytest.mark.parametrize("name", GROUPED)
def test_weights_of_another_number_of_query_groups_are_loaded_and_reported(name, num_groups, how, tmp_path):
    """The first group predicts: predictions stay. Also with another number of queries, of which the first stay."""
    path, images = str(tmp_path / "model.safetensors"), torch.rand(1, 3, 64, 64)
    trained, _ = model_of(name, Q, num_groups=3)
    for tensor in trained.state_dict().values():
        tensor += 0.1 * torch.randn(tensor.shape) if tensor.is_floating_point() else 0
    save(trained, path)
    model, [report, *_] = model_of(name, Q, path, num_groups=num_groups)
    assert any(f"{num_groups} groups of queries for 3: {how}." in text for text in report.warnings)
    assert any(".groups.1." in key for key in report.tensors)
    with torch.no_grad():
        before, after = (x.eval()(images)["head"] for x in (trained, model))
    assert torch.equal(before["logits"], after["logits"]) and torch.equal(before["boxes"], after["boxes"])
    kept, state = trained.state_dict(), model.state_dict()
    for key in [key for key in state if ".groups." in key]:
        group = int(key.split(".groups.")[1].split(".")[0])
        source = kept[key.replace(f".groups.{group}.", f".groups.{group % 3}.")]
        noise = (state[key] - source).abs().max()
        assert noise == 0 if group < 3 else noise < 0.5 * source.std(correction=0) + 1e-6, key
    model, [report, *_] = model_of(name, FEWER, path, "heads.head.weights", num_groups=num_groups)
    for key, tensor in model.state_dict().items():
        if tensor.shape != kept[key.replace(".groups.4", ".groups.1").replace(".groups.3", ".groups.0")].shape:
            rows, first = tensor.unflatten(0, (num_groups, FEWER)), kept[key].unflatten(0, (3, Q))
            assert torch.equal(rows[:2], first[:2, :FEWER]), key


def test_every_head_with_query_groups_is_a_case() -> None:
    heads = {
        x
        for x in densevit.list_plugins("heads")
        if "num_groups" in inspect.signature(registry.load("heads", x)).parameters
    }
    assert {CASES[name].head for name in GROUPED} == heads and len(heads) > 2
