"""Model files: what is saved comes back, in whole or in parts, and damaged files are refused."""

import enum
import functools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import densevit
from densevit import config as configs
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Class, Head, Neck
from densevit.model import DenseModel
from densevit.weights import model_file
from densevit.weights.model_file import load, save
from tests.built_models import build_model
from tests.model.small_models import batch_of
from tests.random_weights import randomise
from tests.weights.loading import CLASSES as THINGS
from tests.weights.loading import built
from tests.weights.states import equal

SMALL = {"name": "tests.weights.loading:Small"}
ALL = (*THINGS, Class("sky", 157, (1, 2, 3), thing=False))


class Scores(Head):
    """A head whose output layers are tied."""

    task = "detection"
    required_targets = ()

    def __init__(self, channels, strides, classes, width: int = 4) -> None:
        super().__init__(channels, strides, classes)
        self.first = nn.Linear(channels[-1], len(classes))
        self.last = nn.Linear(channels[-1], len(classes))
        self.last.weight = self.first.weight
        self.width = nn.Parameter(torch.randn(width))

    def forward(self, features, padding_mask, targets=None):
        x = features[-1].mean((2, 3))
        return {"logits": self.first(x) + self.last(x) + self.width.sum()}


class Maps(Scores):
    """The same for another task."""

    task = "segmentation"


class Shift(Neck):
    """A neck with one parameter."""

    def __init__(self, channels, strides) -> None:
        super().__init__(channels, strides)
        self.by = nn.Parameter(torch.randn(()))

    def forward(self, features, padding_mask):
        return [x + self.by for x in features]


def config_of(**sections):
    detection = {"name": f"{__name__}:Scores", "width": 3, "neck": {"name": f"{__name__}:Shift"}}
    return configs.from_mapping(
        {
            "seed": 5,
            "backbone": SMALL,
            "heads": {"detection": detection, "maps": {"name": f"{__name__}:Maps"}},
            "data": {"name": "scenes", "image_size": 64},
            "optim": {"lr": 3e-05},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )


CLASSES = {"detection": THINGS, "segmentation": ALL}


@pytest.fixture
def saved(tmp_path):
    """A model with random norm parameters and statistics, and its file in a run folder."""
    model = randomise(build_model(config_of(), CLASSES))
    save(model.with_config(config_of()), tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors"


def test_model_round_trips(saved):
    model, path = saved
    loaded = load(path.parent, trust=True)
    assert equal(loaded.state_dict(), model.state_dict()) and loaded.sections == config_of()
    assert loaded.classes == {"detection": THINGS, "maps": ALL} and not loaded.training
    given = batch_of(model, (64, 96), (40, 96))
    outputs, expected = loaded(given), model.eval()(given)
    assert outputs.keys() == expected.keys()
    assert all(torch.equal(outputs[head]["logits"], expected[head]["logits"]) for head in expected)


def test_score_thresholds_round_trip_and_files_without_them_load(saved):
    model, path = saved
    assert load(path, trust=True).score_thresholds == {}
    model.score_thresholds = {"detection": 0.3125}
    save(model.with_config(config_of()), path)
    assert densevit.load(path, trust=True).score_thresholds == {"detection": 0.3125}


def test_a_model_of_modules_is_written_with_their_options(saved, tmp_path):
    model, _ = saved
    parts = DenseModel(model.backbone, dict(model.heads))
    parts.save(tmp_path / "parts.safetensors")
    again = densevit.load(tmp_path / "parts.safetensors", trust=True)
    assert again.fingerprint() == parts.fingerprint() and again.backbone is not model.backbone


class Level(enum.IntEnum):
    HIGH = 3


class Kind(str, enum.Enum):
    SOFT = "soft"


class Mode(enum.Enum):
    A = "a"


class Limits(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Layers:
    width: int = 4


class Valued(Scores):
    def __init__(self, channels, strides, classes, value) -> None:
        super().__init__(channels, strides, classes)
        self.value = value


class ByName(Valued):
    def __init__(self, channels, strides, classes, *, value) -> None:
        super().__init__(channels, strides, classes, value)


class PassedOn(Valued):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)


class Sized(Valued):
    def __init__(self, channels, strides, classes, /, *values, width=4) -> None:
        super().__init__(channels, strides, classes, values[0])


class Annotated(Valued):
    def __init__(
        self, channels, strides, classes, *, layers: Layers, path: Path | None, limits: Limits, names: dict[int, str],
        count: int = 1
    ) -> None:  # fmt: skip
        super().__init__(channels, strides, classes, (layers, path, limits, names, count))


class Fixed(Valued):
    def __init__(self) -> None:
        super().__init__((4,), (4,), THINGS, 1)


WRITTEN = [
    *(math.inf, -math.inf, math.nan, -0.0, 0.0, 5e-324, 1e39, 10**30, -(2**63) - 1, 0, True, None),
    *(np.float64(0.5), np.float32(0.1), np.int64(3), np.uint64(2**64 - 1), np.bool_(True), np.str_("a")),
    *(Level.HIGH, Kind.SOFT, [], {}, (1, (2.0, "3")), torch.Size([1, 2])),
    *(
        "1e-4",
        "yes",
        "no",
        "null",
        "~",
        "nan",
        ".nan",
        ".inf",
        "true",
        "0x10",
        "1_000",
        "1:30",
        "2020-01-01",
        "<<",
        "=",
    ),
    *(
        "",
        " a ",
        "a: b",
        "# a",
        "!object a",
        "a\nb\n",
        "\r\n",
        "\t",
        "\x00\x07",
        "\x85\u2028\ufeff",
        "\udc80",
        "é😀",
        "- a",
    ),
    {"null": [math.inf, np.int32(1), {"1": Level.HIGH}], "": (None, -0.0), "<<": "1"},
]
UNWRITTEN: list[Any] = [
    *(1 + 2j, b"a", {1, 2}, frozenset(), Mode.A, range(3), np.ones(2), np.complex64(1), 10**5000, [{1}]),
    *(torch.float16, torch.ones(()), torch.device("cpu"), nn.GELU(), nn.GELU, len, functools.partial(max, 1)),
]
CONVERTED: list[Any] = [Path("a"), [Path("a")], Layers(8), [Layers(8)], Limits(0.0, 1.0), {1: "a"}, {"a": {None: 1}}]


def written(value: Any) -> str:
    """The value as text, with the family of its type: a boolean, number, text, sequence or mapping."""
    if isinstance(value, np.generic):
        return written(value.item())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return str({key: written(item) for key, item in value.items()})
    plain = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
    return repr(str.__str__(value) if isinstance(value, str) else plain(value) if plain else value)


@pytest.mark.parametrize("kind", [Valued, ByName, PassedOn, Sized])
def test_arguments_of_own_classes_are_loaded_equal_or_named_when_they_are_saved(kind: type[Head], tmp_path: Path):
    path, backbone = tmp_path / "m.safetensors", build_model(config_of(), CLASSES).backbone

    def head(value: Any) -> Head:
        arguments = (backbone.channels, backbone.strides, THINGS)
        return kind(*arguments, value=value) if kind in (ByName, PassedOn) else kind(*arguments, value)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in WRITTEN:
            DenseModel(backbone, {"boxes": head(value)}).save(path)
            assert written(load(path, trust=True).heads["boxes"].value) == written(value)
    for value in UNWRITTEN:
        name = rf"heads\.boxes\.values?[.0]*: files cannot hold \w+ of {__name__}:{kind.__name__}\. Fix"
        with pytest.warns(UserWarning, match=name):
            DenseModel(backbone, {"boxes": head(value)}).save(path)
        with pytest.raises(WeightsError, match=r"value.? was an object"):
            load(path, trust=True)
    for value in CONVERTED:
        name = rf"heads\.boxes\.values?: {__name__}:{kind.__name__} .* values? will be a .*Fix: annotate"
        with pytest.warns(UserWarning, match=name):
            DenseModel(backbone, {"boxes": head(value)}).save(path)


def test_annotated_arguments_of_own_classes_are_loaded_equal(tmp_path: Path):
    path, backbone = tmp_path / "m.safetensors", build_model(config_of(), CLASSES).backbone
    values = {"layers": Layers(8), "path": Path("a"), "limits": Limits(0.0, math.inf), "names": {1: "a"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = DenseModel(backbone, {"boxes": Annotated(backbone.channels, backbone.strides, THINGS, **values)})
        model.save(path)
    assert load(path, trust=True).heads["boxes"].value == (*values.values(), 1)
    head = Annotated(backbone.channels, backbone.strides, THINGS, **values, count=0.5)
    with pytest.warns(UserWarning, match=r"boxes\.count: .*:Annotated is not loaded .*count should be a valid integer"):
        DenseModel(backbone, {"boxes": head}).save(path)
    with pytest.warns(
        UserWarning, match=r"boxes\.name: .*:Fixed': its constructor must take channels, strides, classes"
    ):
        DenseModel(backbone, {"boxes": Fixed()}).save(path)


def test_a_model_with_another_resize_is_written_with_a_warning(saved):
    model, path = saved
    with pytest.warns(UserWarning, match="with_resize is not written"):
        model.with_resize(DefaultTransforms(32)).save(path)
    assert load(path, trust=True).replaced_resize is None


def rewrite(path, **entries) -> None:
    """Rewrites the file with a changed header."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    entries = {key: value for key, value in {**header, **entries}.items() if value is not None}
    save_file(load_file(path), path, metadata=entries)


def with_four_channels(model: DenseModel) -> str:
    model.backbone.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    return "backbone.conv1.weight"


def with_other_activation(model: DenseModel) -> str:
    model.backbone.relu = nn.GELU()
    return "backbone.relu"


def with_weight_norm(model: DenseModel) -> str:
    nn.utils.parametrizations.weight_norm(model.backbone.conv1)
    return "backbone.conv1, "


@pytest.mark.parametrize("change", [with_four_channels, with_other_activation, with_weight_norm])
@pytest.mark.parametrize("of_modules", [True, False])
def test_layers_that_were_changed_are_named_when_a_model_is_saved(change, of_modules: bool, tmp_path: Path) -> None:
    """The file would not load, or would load with the layers of the config and predict something else."""
    backbone = densevit.create_backbone("resnet", depth=18) if of_modules else {"name": "resnet", "depth": 18}
    model, file = densevit.create_model(backbone, "linear", ["a", "b"]), tmp_path / "model.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        densevit.save(model, file)
    name = change(model)
    with pytest.warns(UserWarning, match=rf"other layers than its config builds: {name}.*load\(FILE, model=model\)"):
        densevit.save(model, file)
    assert densevit.load(file, model=model).fingerprint() == model.fingerprint()


class Packed(nn.Module):
    """Has a state that is no tensor, as torch's quantised layers."""

    def get_extra_state(self) -> Any:
        return torch.qint8


def test_a_quantised_model_is_an_error_with_the_fix(tmp_path: Path) -> None:
    model = densevit.create_model({"name": "vit", "variant": "nano"}, "linear", ["a", "b"])
    model.backbone.add_module("packed", Packed())
    message = r"backbone\.packed\._extra_state is a dtype and no tensor, .*Fix: save the model before quantisation"
    with pytest.warns(UserWarning, match="other layers"), pytest.raises(WeightsError, match=message):
        densevit.save(model, tmp_path / "model.safetensors")


def test_another_format_version_is_one_line_wherever_weights_are_read(saved):
    path = saved[1]
    rewrite(path, format_version="1")
    readers = {
        "load": lambda: load(path.parent, trust=True),
        "backbone.weights": lambda: densevit.create_backbone(SMALL["name"], weights=path),
        "weights": lambda: built(config_of(weights=str(path)), CLASSES),
    }
    for name, read in readers.items():
        with pytest.raises(WeightsError) as caught:
            read()
        assert (
            str(caught.value)
            == f"{path}: format version 1, densevit {densevit.__version__} reads 2. Fix: write the file again."
        ), name


@pytest.mark.parametrize(
    "entries",
    [
        {"config": None},
        {"classes": "["},
        {"score_thresholds": '{"detection": 2.5}'},
    ],
)
def test_corrupt_header_error_names_the_file(saved, entries):
    rewrite(saved[1], **entries)
    with pytest.raises(densevit.DensevitError, match=r"model\.safetensors"):
        load(saved[1])


def test_heads_missing_in_weights_are_added_and_extra_ones_dropped(saved):
    source, path = saved
    heads = {"maps": {"name": f"{__name__}:Maps"}, "more": {"name": f"{__name__}:Scores"}}
    config = config_of(heads=heads, weights=str(path))
    torch.manual_seed(0)
    before = build_model(config, CLASSES).heads["more"].state_dict()
    torch.manual_seed(0)
    model, _, [report] = built(config, CLASSES)
    assert equal(model.backbone.state_dict(), source.backbone.state_dict())
    assert equal(model.heads["maps"].state_dict(), source.heads["maps"].state_dict())
    assert equal(model.heads["more"].state_dict(), before)
    assert set(report.ignored_keys.values()) == {"this model has no head 'detection'"}
    assert sorted(report.ignored_keys) == sorted(key for key in source.state_dict() if key.split(".")[1] == "detection")
    assert report.initialised == {f"heads.more.{key}": "the weights have no head 'more'" for key in before}


def test_weights_without_a_common_head_are_refused_unless_the_backbone_is_frozen(saved):
    source, path = saved
    heads = {"mops": {"name": f"{__name__}:Maps"}, "more": {"name": f"{__name__}:Scores"}}
    with pytest.raises(WeightsError, match="mops"):
        built(config_of(heads=heads, weights=str(path)), CLASSES)
    frozen = config_of(heads=heads, weights=str(path), backbone={**SMALL, "freeze": True})
    assert equal(built(frozen, CLASSES)[0].backbone.state_dict(), source.backbone.state_dict())


def test_reference_data_runs_no_code_without_trust():
    model = densevit.create_model({"name": "resnet", "depth": 18}, {"seg": "setr"}, {"seg": ["a"]})
    model.reference_data = {"seg": configs.section("data", {"name": "scenes", "transforms": "os:system"}, "test")}
    entries = model_file.entries(model, model.sections)
    with pytest.raises(ConfigError, match="'os:system' is named in this file"):
        model_file.described(entries, "x.safetensors")
    assert (
        model_file.described(entries, "x.safetensors", trust=True).reference_data["seg"].transforms.name == "os:system"
    )
