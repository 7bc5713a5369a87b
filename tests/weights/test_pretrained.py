"""Pretrained weights in a config, ours and those of a made-up project: a backbone and a complete model."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from densevit import config as configs
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Backbone, CheckpointLayout, Class, Head, Line, Neck, Publishing, SpecialTensors
from densevit.layouts import finding
from densevit.model import build_from_sections
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.model_file import load as load_file
from densevit.weights.model_file import save
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import resolve
from densevit.weights.weights_table import weights_line
from tests.built_models import build_model
from tests.weights.loading import built

CLASSES = (Class("cat", 17, (255, 0, 9)), Class("hot dog", 58, (0, 255, 1)))
HALF = (0.5, 0.5, 0.5)
SCORES = {"name": f"{__name__}:Scores"}


class Small(Backbone):
    """One convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 4, 4), nn.GroupNorm(2, 4)
        self.channels, self.strides = (4,), (4,)

    def forward(self, images):
        return [self.norm(self.conv(images))]


class Wide(Small):
    """Twelve channels in place of four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(3, 12, 4, 4), nn.GroupNorm(2, 12), (12,)


class Scores(Head):
    """A layer independent of the classes, and one that depends on them."""

    task = "detection"
    needs = ()

    def __init__(self, channels, strides, classes) -> None:
        super().__init__(channels, strides, classes)
        self.hidden, self.label_head = nn.Linear(channels[-1], 5), nn.Linear(5, len(classes) + 1)

    def forward(self, features, padding_mask, targets=None):
        return {"logits": self.label_head(self.hidden(features[-1].mean((2, 3))))}


class Widened(Neck):
    """A convolution of each feature."""

    def __init__(self, channels, strides) -> None:
        super().__init__([6] * len(channels), strides)
        self.convs = nn.ModuleList(nn.Conv2d(width, 6, 1) for width in channels)


LINES = (Line("patch.*", "conv.*"), Line("norm.*", "norm.*"))
ENCODER = CheckpointLayout(
    "made-encoder",
    ("patch.weight", "norm.weight"),
    LINES,
    lambda state: {"backbone": {"name": "small"}},
    special=SpecialTensors(no_effect={"head.*": "the classification head"}),
    publishing=Publishing(mean=HALF, std=HALF),
)
DETECTOR = CheckpointLayout(
    "made-detector",
    ("patch.weight", "norm.weight", "hidden.weight"),
    (
        *(Line(theirs, f"backbone.{ours}") for theirs, ours, _ in LINES),
        Line("hidden.*", "heads.detection.hidden.*"),
        Line("cls.*", "heads.detection.label_head.*"),
    ),
    lambda state: {},
    classes=lambda state, metadata: {"detection": metadata["known"]} if "known" in metadata else {},
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    known = {one.name: one for one in (ENCODER, DETECTOR)}
    found = SimpleNamespace(find=lambda group: known, load=lambda group, name: known[name])
    monkeypatch.setattr(finding, "registry", found)


def config_of(backbone=None, heads=None, **sections):
    return configs.from_mapping(
        {
            "backbone": {"name": f"{__name__}:Small", **(backbone or {})},
            "heads": heads or {"boxes": SCORES},
            "data": {"name": "scenes", "image_size": 32},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )


def model_of(backbone=None, heads=None, **sections):
    """A model with random weights."""
    return build_model(config_of(backbone, heads, **sections), {"detection": CLASSES})


def loaded(*arguments, classes=CLASSES, **sections):
    """A model with its weights, its final config, and the reports."""
    return built(config_of(*arguments, **sections), {"detection": classes})


def encoder(**more):
    state = {"patch.weight": torch.randn(4, 3, 4, 4), "patch.bias": torch.randn(4)}
    return {**state, "norm.weight": torch.randn(4), "norm.bias": torch.randn(4), **more}


def detector(classes=2):
    state = encoder(**{"hidden.weight": torch.randn(5, 4), "hidden.bias": torch.randn(5)})
    return {**state, "cls.weight": torch.randn(classes + 1, 5), "cls.bias": torch.randn(classes + 1)}


@pytest.fixture
def file(tmp_path):
    def file(state):
        torch.save(state, tmp_path / "theirs.pth")
        return str(tmp_path / "theirs.pth")

    return file


def test_foreign_backbone_sets_mean_and_std(file, tmp_path):
    state = encoder(**{"head.weight": torch.randn(7, 4)})
    model, _, [report] = loaded({"weights": file(state)})
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"])
    assert torch.equal(model.backbone.norm.bias, state["norm.bias"])
    assert report.left_out == {"head.weight": "the classification head"}
    assert report.notes[0] == "Read as made-encoder."
    assert report.notes[1].startswith(
        "backbone.mean is [0.5, 0.5, 0.5], as these weights were trained with, in place of"
    )
    assert model.sections.backbone.mean == model.sections.backbone.std == model.backbone.mean == HALF
    assert model.mean.flatten().tolist() == [127.5] * 3
    save(model, tmp_path / "model.safetensors")
    read = load_file(tmp_path, trust=True)
    assert torch.equal(read.mean, model.mean) and torch.equal(read.std, model.std)
    model, _, [report] = loaded({"weights": file(state), "mean": [0, 0, 0.25], "std": [0.5, 0.5, 0.5]})
    assert model.mean.flatten().tolist() == [0, 0, 63.75]
    assert report.notes[1:] == [
        "Warning: backbone.mean stays [0.0, 0.0, 0.25]; these weights were trained with [0.5, 0.5, 0.5]."
    ]


def test_foreign_model_loads_into_the_head_of_its_task_or_one_part_of_it(file):
    state = detector()
    source = file(state)
    for sections, parts, count in (
        ({"weights": source}, ("backbone", "head"), 8),
        ({"backbone": {"weights": source}}, ("backbone",), 4),
        ({"heads": {"boxes": {**SCORES, "weights": source}}}, ("head",), 4),
    ):
        model, _, [report] = loaded(**sections)
        assert report.loaded == count
        head = model.heads["boxes"].label_head.weight
        assert torch.equal(model.backbone.conv.weight, state["patch.weight"]) == ("backbone" in parts)
        assert torch.equal(head, state["cls.weight"]) == ("head" in parts)
        unknown = "The class names of head 'boxes' are unknown; assuming the data's classes, in order."
        assert unknown in report.notes or len(parts) == 1


def test_a_backbone_s_file_as_a_model_or_head_and_wrong_means_raise(file):
    source = file(encoder())
    for sections, facts in (
        ({"weights": source}, r"contains only a backbone\. Name it as backbone\.weights="),
        ({"heads": {"boxes": {**SCORES, "weights": source}}}, r"has no head; .* for detection"),
    ):
        with pytest.raises(WeightsError, match=facts):
            loaded(**sections)
    with pytest.raises(ConfigError, match=r"backbone\.mean"):
        model_of({"mean": [123, 117, 104]})


@pytest.mark.parametrize("neck", [None, {"name": f"{__name__}:Widened"}])
def test_a_head_of_another_backbone_is_loaded_but_for_its_projections(tmp_path, neck):
    head = {**SCORES, "neck": neck}
    source = model_of(heads={"boxes": head})
    save(source, tmp_path / "model.safetensors")
    model, _, reports = loaded({"name": f"{__name__}:Wide"}, {"boxes": {**head, "weights": str(tmp_path)}})
    kept = {"convs.0.weight"} if neck else {"hidden.weight"}
    assert {name for report in reports for name in report.left_out} == kept
    for part in ("heads", "necks"):
        for key, value in dict(getattr(source, part).items()).get("boxes", nn.Module()).state_dict().items():
            assert key in kept or torch.equal(getattr(model, part)["boxes"].state_dict()[key], value)


# ---- rows of classes ----


@pytest.mark.parametrize(
    ("theirs", "taken"),  # the row in the checkpoint of cat, of hot dog and of "no object"; None: initial
    [
        (None, (None, None, None)),
        (["cow", "Hot_dog", "pig", "cat"], (3, 1, 4)),
        (["Cat, felis", "hot_dog"], (0, 1, 2)),
        (["CAT", "Cat", "hot dog"], (None, 2, 3)),  # ambiguous
    ],
)
def test_rows_of_known_classes_are_loaded_by_name(file, theirs, taken):
    state = detector(5 if theirs is None else len(theirs))
    named = [Class(name, i, (0, 0, 0)) for i, name in enumerate(theirs or [])]
    object.__setattr__(DETECTOR, "classes", lambda state, metadata: {"detection": named} if named else {})
    torch.manual_seed(0)
    initial = model_of().heads["boxes"].label_head.state_dict()
    torch.manual_seed(0)
    model, _, [report] = loaded(weights=file(state))
    head = model.heads["boxes"]
    for key, value in head.label_head.state_dict().items():
        rows = [initial[key][i] if row is None else state[f"cls.{key}"][row] for i, row in enumerate(taken)]
        assert torch.equal(value, torch.stack(rows))
    assert torch.equal(head.hidden.weight, state["hidden.weight"])
    if taken[1] is None:
        why = f"other classes, {'5 there and 2' if theirs else '2'} here"
        assert report.left_out == {f"heads.boxes.label_head.{kind}": why for kind in ("weight", "bias")}
        return
    assert report.loaded == (8 if taken == (0, 1, 2) else 6) and report.left_out == {}
    known = sum(row is not None for row in taken[:2])
    if report.adapted:
        assert {one.how for one in report.adapted} == {f"the rows of {known} of 2 classes, by name"}
    lacked = [name for name, row in zip(("cat", "hot dog"), taken, strict=False) if row is None]
    notes = [note for note in report.notes if "lack" in note]
    assert notes == ([f"Classes of head 'boxes' that these weights lack: {lacked[0]}."] if lacked else [])


def test_missing_and_unexpected_tensors_raise_unless_allowed(file):
    state = encoder(**{"extra.w": torch.ones(1), "head.weight": torch.randn(7, 4)})
    state["patch.weight"] = torch.randn(4, 3, 8, 8)
    del state["norm.bias"]
    source = file(state)
    message = (
        r"1 tensors are missing \(norm\.bias\); 1 are unexpected \(extra\.w.*\)(.|\n)*"
        r"Read as made-encoder, the weights' config is\n  backbone:\n    name: small"
    )
    with pytest.raises(WeightsError, match=message):
        loaded({"weights": source})
    _, _, [report] = loaded({"weights": source, "weights_allow": ["extra.*", "norm.bias"]})
    assert report.missing == ["norm.bias"] and report.unexpected == ["extra.w"]
    counts = "2 tensors loaded, 1 adapted, 1 left out, 1 missing, 1 unexpected."
    assert weights_line(report).startswith(f"{report.source}: {counts} Read as made-encoder. backbone.mean is [0.5, ")


def test_all_sources_are_checked_before_loading(file, tmp_path):
    head = str(tmp_path / "head.pth")
    torch.save({"hidden.weight": torch.ones(5, 4)}, head)
    config = config_of({"weights": file(encoder())}, {"boxes": {**SCORES, "weights": head}})
    resolved = resolve(config, {"boxes": CLASSES})
    model = build_from_sections(resolved.sections, {"boxes": CLASSES})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"heads\.boxes\.weights"):
        load_pretrained(model, resolved)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_of_bgr_images_are_flipped():
    state = encoder()
    metadata = {"channel_order": "bgr", "mean": (0.1, 0.2, 0.3)}
    checkpoint = Checkpoint(state, "theirs.pth", metadata=metadata)
    config = config_of({"weights": "theirs.pth"})
    model, _, _ = built(config, {"detection": CLASSES}, {"theirs.pth": checkpoint})
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"].flip(1))
    assert model.backbone.mean == (0.3, 0.2, 0.1)
