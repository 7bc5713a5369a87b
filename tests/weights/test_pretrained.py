"""Pretrained weights in a config, ours and those of a made-up project: a backbone and a complete model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from densevit import config as configs
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Backbone, CheckpointLayout, Class, Head, Neck, Publishing, SpecialTensors
from densevit.model import build_from_sections
from densevit.weights import layouts, pretrained
from densevit.weights.building import build_model
from densevit.weights.class_rows import class_tensors
from densevit.weights.key_mapping import Line
from densevit.weights.model_file import load as load_file
from densevit.weights.model_file import save
from densevit.weights.pretrained import load_pretrained
from densevit.weights.weights_table import weights_line, weights_table

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


class Looks(Scores):
    """A head that cannot be built on the meta device, with an option that tensors do not show."""

    def __init__(self, channels, strides, classes, scale: float = 1.0) -> None:
        super().__init__(channels, strides, classes)
        assert self.hidden.weight.detach().sum().item() != 0
        self.scale = scale


class Filled(Small):
    """A backbone that loads weights itself."""

    def __init__(self, pretrained: bool = False) -> None:
        super().__init__()
        nn.init.constant_(self.conv.weight, 3.0 if pretrained else 0.0)


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
    monkeypatch.setattr(layouts, "registry", found)


def model_of(backbone=None, heads=None, **sections):
    """A model and its config."""
    config = configs.from_mapping(
        {
            "backbone": {"name": f"{__name__}:Small", **(backbone or {})},
            "heads": heads or {"boxes": SCORES},
            "data": {"name": "scenes", "image_size": 32},
            "trainer": {"max_steps": 1},
            **sections,
        }
    )
    return build_model(config, {"detection": CLASSES}), config


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
    model, config = model_of({"weights": file(state)})
    [report] = load_pretrained(model, config)
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"])
    assert torch.equal(model.backbone.norm.bias, state["norm.bias"])
    assert report.left_out == {"head.weight": "the classification head"}
    assert report.notes[0] == "Read as made-encoder."
    assert report.notes[1].startswith(
        "backbone.mean is [0.5, 0.5, 0.5], as these weights were trained with, in place of"
    )
    built = model.sections.backbone
    assert built.mean == built.std == model.backbone.mean == HALF
    assert model.mean.flatten().tolist() == [127.5] * 3
    save(model, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path, trust=True).model
    assert torch.equal(loaded.mean, model.mean) and torch.equal(loaded.std, model.std)
    again, config = model_of({"weights": str(tmp_path)})
    load_pretrained(again, config)
    assert again.sections.backbone.mean == HALF  # a run's weights state it too
    model, config = model_of({"weights": file(state), "mean": [0, 0, 0.25], "std": [0.5, 0.5, 0.5]})
    [report] = load_pretrained(model, config)
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
        model, config = model_of(**sections)
        [report] = load_pretrained(model, config)
        assert report.loaded == count
        head = model.heads["boxes"].label_head.weight
        assert torch.equal(model.backbone.conv.weight, state["patch.weight"]) == ("backbone" in parts)
        assert torch.equal(head, state["cls.weight"]) == ("head" in parts)
        unknown = "The names of head 'boxes''s classes are not known; assuming the data's classes, in order."
        assert unknown in report.notes or len(parts) == 1


def test_of_the_same_head_the_whole_model_s_weights_are_loaded(tmp_path):
    """A part's weights are loaded where the whole model's lack the part."""
    scores, sources = {**SCORES, "neck": {"name": f"{__name__}:Widened"}}, {}
    for names in (("boxes",), ("boxes", "parts")):
        sources[names], _ = model_of(heads=dict.fromkeys(names, scores))
        save(sources[names], tmp_path / f"{len(names)}.safetensors")
    one, both = sources.values()

    def loaded(whole, overrides=()):
        values = {"boxes": scores, "parts": {**scores, "weights": str(tmp_path / "2.safetensors")}}
        model, config = model_of(heads=values, weights=None if overrides else str(tmp_path / f"{whole}.safetensors"))
        config = configs.with_overrides(config, overrides)
        return model, config, load_pretrained(model, config)

    model, config, reports = loaded(1)
    assert len(reports) == 3 and model.sections.heads["parts"].weights and not config.set_aside
    for name, source in (("boxes", one), ("parts", both)):
        for kind in ("heads", "necks"):
            state, expected = (getattr(own, kind)[name].state_dict() for own in (model, source))
            assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert torch.equal(model.backbone.conv.weight, one.backbone.conv.weight)

    model, config, reports = loaded(2)
    assert len(reports) == 1 and model.sections.heads["parts"].weights is None
    [line] = config.set_aside
    assert line.startswith("Set aside: 6 of 6 tensors of heads.parts.weights=")
    assert all(torch.equal(value, both.state_dict()[key]) for key, value in model.state_dict().items())

    typed = [f"{key}={tmp_path / '2.safetensors'}" for key in ("weights", "heads.parts.weights")]
    with pytest.raises(
        ConfigError, match=r"weights=\S+ \(command line\) and heads\.parts\.weights=\S+ \(command line\)"
    ):
        loaded(2, typed)


def test_a_backbone_s_file_as_a_model_or_head_and_wrong_means_raise(file):
    source = file(encoder())
    for sections, facts in (
        ({"weights": source}, r"contains only a backbone\. Name it as backbone\.weights="),
        ({"heads": {"boxes": {**SCORES, "weights": source}}}, r"has no head; .* for detection"),
    ):
        with pytest.raises(WeightsError, match=facts):
            load_pretrained(*model_of(**sections))
    for section in ({"mean": [123, 117, 104]}, {"std": [0, 1, 1]}, {"mean": [0.5]}):
        with pytest.raises(ConfigError, match=rf"backbone\.{next(iter(section))}"):
            model_of(section)


def test_options_of_a_head_s_weights_keep_the_weights_that_the_backbone_loads_itself(file, monkeypatch):
    """The head is not built without memory; its class tensors are detected without another random state."""
    looks = {"name": f"{__name__}:Looks"}
    sections = {"backbone": {}, "heads": {"detection": {**looks, "scale": 2.0}}}
    known = layouts.registry.find("checkpoints")
    monkeypatch.setitem(known, "made-detector", replace(DETECTOR, describe=lambda _: sections))
    filled = {"name": f"{__name__}:Filled", "pretrained": True}
    model, config = model_of(filled, {"boxes": {**looks, "weights": file(detector())}})
    state = torch.random.get_rng_state()
    assert class_tensors(model, "boxes") == {"label_head.weight": 1, "label_head.bias": 1}
    assert torch.equal(torch.random.get_rng_state(), state)
    load_pretrained(model, config)
    assert model.heads["boxes"].scale == model.sections.heads["boxes"].options["scale"] == 2.0
    assert (model.backbone.conv.weight == 3.0).all()


@pytest.mark.parametrize("neck", [None, {"name": f"{__name__}:Widened"}])
def test_a_head_of_another_backbone_is_loaded_but_for_its_projections(tmp_path, neck):
    head = {**SCORES, "neck": neck}
    source, _ = model_of(heads={"boxes": head})
    save(source, tmp_path / "model.safetensors")
    model, config = model_of({"name": f"{__name__}:Wide"}, {"boxes": {**head, "weights": str(tmp_path)}})
    reports = load_pretrained(model, config)
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
        ([*"abcde"], (None, None, None)),
        (["cow", "Hot_dog", "pig", "cat"], (3, 1, 4)),
        (["Cat, felis", "hot_dog"], (0, 1, 2)),
        (["cat", "hot dog", "hot_dog"], (0, 1, 3)),  # of several similar names, the equal one
        (["CAT", "Cat", "hot dog"], (None, 2, 3)),  # ambiguous
    ],
)
def test_rows_of_known_classes_are_loaded_by_name(file, theirs, taken):
    model, config = model_of(weights=file(detector(5 if theirs is None else len(theirs))))
    state = torch.load(config.weights, weights_only=True)
    named = [Class(name, i, (0, 0, 0)) for i, name in enumerate(theirs or [])]
    object.__setattr__(DETECTOR, "classes", lambda state, metadata: {"detection": named} if named else {})
    head = model.heads["boxes"]
    initial = {key: value.clone() for key, value in head.label_head.state_dict().items()}
    [report] = load_pretrained(model, config)
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


def test_two_heads_of_a_task_keep_their_own_classes(tmp_path):
    """Each head is compared with the head of its name in the file, not with the last one of its task."""
    source, config = model_of(heads={"street": SCORES, "sky": SCORES})
    street, sky, other = (tuple(Class(n, i, (0, 0, 0)) for i, n in enumerate(names)) for names in ("ab", "cd", "bx"))
    source = build_from_sections(source.sections, {"street": street, "sky": sky})
    save(source, tmp_path / "model.safetensors")
    config = config.model_copy(update={"weights": str(tmp_path)})
    for classes, rows in (((street, sky), [0, 1, 2]), ((sky, sky), None), ((other, sky), [1, None, 2])):
        model = build_from_sections(source.sections, dict(zip(("street", "sky"), classes, strict=True)))
        initial = model.heads["street"].label_head.weight.clone()
        load_pretrained(model, config)
        assert torch.equal(model.heads["sky"].label_head.weight, source.heads["sky"].label_head.weight)
        own = source.heads["street"].label_head.weight
        expected = initial if rows is None else [initial[i] if r is None else own[r] for i, r in enumerate(rows)]
        assert torch.equal(model.heads["street"].label_head.weight, expected if rows is None else torch.stack(expected))
    alone, config = model_of(heads={"street": {**SCORES, "weights": str(tmp_path)}})
    alone = build_from_sections(alone.sections, {"street": street})
    load_pretrained(alone, config)
    assert torch.equal(alone.heads["street"].label_head.weight, source.heads["street"].label_head.weight)


def test_missing_and_unexpected_tensors_raise_unless_allowed(file):
    state = encoder(**{"extra.w": torch.ones(1), "head.weight": torch.randn(7, 4)})
    state["patch.weight"] = torch.randn(4, 3, 8, 8)
    del state["norm.bias"]
    source = file(state)
    message = (
        r"1 tensors are missing \(norm\.bias\); 1 are not the model's \(extra\.w.*\)(.|\n)*"
        r"Read as made-encoder, the weights are of\n  backbone:\n    name: small"
    )
    with pytest.raises(WeightsError, match=message):
        load_pretrained(*model_of({"weights": source}))
    [report] = load_pretrained(*model_of({"weights": source, "weights_allow": ["extra.*", "norm.bias"]}))
    assert report.missing == ["norm.bias"] and report.unexpected == ["extra.w"]
    counts = "2 tensors loaded, 1 adapted, 1 left out, 1 missing, 1 unexpected."
    assert weights_line(report).startswith(f"{report.source}: {counts} Read as made-encoder. backbone.mean is [0.5, ")
    console = Console(width=150)
    with console.capture() as printed:
        console.print(weights_table(report))
    rows = [" ".join(line.split()) for line in printed.get().splitlines()]
    assert {"loaded 2", "adapted 1 conv.weight: 4 x 3 x 8 x 8 -> 4 x 3 x 4 x 4, patch kernel resized"} < {*rows}
    assert {"left out 1 head.weight: the classification head", "unexpected 1 extra.w: allowed"} < {*rows}


def test_all_sources_are_checked_before_loading(file, tmp_path):
    head = str(tmp_path / "head.pth")
    torch.save({"hidden.weight": torch.ones(5, 4)}, head)
    model, config = model_of({"weights": file(encoder())}, {"boxes": {**SCORES, "weights": head}})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"heads\.boxes\.weights"):
        load_pretrained(model, config)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.sections.backbone.mean is None


def test_weights_of_bgr_images_are_flipped(file, monkeypatch):
    state = encoder()
    metadata = {"channel_order": "bgr", "mean": (0.1, 0.2, 0.3)}
    checkpoint = pretrained.Checkpoint(dict(state), "theirs.pth", metadata=metadata)
    monkeypatch.setattr(pretrained, "read", lambda source, instead: checkpoint)
    model, config = model_of({"weights": "theirs.pth"})
    load_pretrained(model, config)
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"].flip(1))
    assert model.backbone.mean == (0.3, 0.2, 0.1)
