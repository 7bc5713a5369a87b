"""Names of backbones: a plugin's, a timm model's, and names of published weights, at every door that takes a name."""

import argparse
import importlib
import inspect
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import densevit
from densevit import config as configs
from densevit import registry
from densevit.config import Config
from densevit.config.key_types import parts
from densevit.errors import ConfigError, PluginError, WeightsError
from densevit.registry import option_types

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="names of timm's models")

NAME = "test_resnet.r160_in1k"  # from timm's own tests
SETR = {"name": "setr", "decoder": "naive", "width": 8}
VALUES = {
    "backbone": {"name": "timm", "model": "convnext_atto", "features": [1, 2], "freeze": 1},
    "heads": {"segmentation": SETR},
    "data": {"name": "scenes", "image_size": 64},
    "trainer": {"max_steps": 1},
}


@pytest.fixture
def downloads(hub, tmp_path):
    """timm's file on the server, of random tensors."""
    import timm

    state = timm.create_model(NAME).state_dict()
    state = {name: torch.rand_like(x) if x.is_floating_point() else x for name, x in state.items()}
    (tmp_path / "timm").mkdir()
    save_file(state, tmp_path / "timm/model.safetensors")
    hub.publish(f"timm/{NAME}", tmp_path / "timm")


def of_config(*overrides: str, **values: Any) -> dict[str, Any]:
    """The section `backbone` of a config with overrides, without defaults."""
    return configs.load({**VALUES, **values}, overrides).backbone.model_dump(exclude_defaults=True)


# ---- doors ----


def of_check(name: str) -> Any:
    from densevit.cli import main
    from densevit_workbench.testing import backbone_checks

    factories = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone_checks, "backbone_checks", lambda factory, skip: factories.append(factory) or ())
        assert main(["check", "backbone", name]) == 0
    return factories[0]()


def of_protocol(name: str) -> Any:
    from densevit_probes.protocols import Protocol, backbone_section, with_controls

    label, section = backbone_section(name)
    assert list(with_controls({label: section})) == [label, f"{label}, random", "pixels"]
    assert Protocol.read("quick").config({"name": name}).backbone.options["pretrained"]
    return Protocol.read("quick").config(section)


def of_benchmark(name: str) -> Any:
    from densevit_workbench.benchmarking.cases import cases_of_protocol

    [case] = cases_of_protocol("benchmark/protocol", [name], ["setr"], [])
    assert "/" not in case.name and ":" not in case.name
    return case.config()


def of_teacher(name: str) -> Any:
    from densevit_methods.teachers import load_backbone

    model = load_backbone({"name": name})
    assert torch.equal(load_backbone(name).backbone.model.conv1[0].weight, model.backbone.model.conv1[0].weight)
    return model


DOORS = {
    "densevit.create_model": lambda name: densevit.create_model(name, heads=SETR, classes=2),
    "densevit.create_backbone": densevit.create_backbone,
    "densevit.probe": of_protocol,
    "densevit.benchmark": of_benchmark,
    "densevit probe": of_protocol,
    "densevit benchmark": of_benchmark,
    "densevit check": of_check,
    "config backbone": lambda name: configs.load({**VALUES, "backbone": name}),
    "config method.teacher, feature_distillation": of_teacher,
    "config method.teacher, semantic_injection": of_teacher,
}


def all_doors() -> set[str]:
    """Parameters of public functions, arguments of commands, and keys of configs that take a backbone by name."""
    doors = set()
    for name in densevit.__all__:
        function = getattr(densevit, name)
        for key, parameter in inspect.signature(function).parameters.items() if inspect.isfunction(function) else ():
            is_text = any(word in str(parameter.annotation) for word in ("str", "Section"))
            if is_text and ("backbone" in key or (name == "create_backbone" and key == "name")):
                doors.add(f"densevit.{name}")
    for name, plugin in registry.find("commands").items():
        parser = argparse.ArgumentParser()
        importlib.import_module(plugin.value).add_arguments(parser)
        for action in parser._actions:
            if ("backbone" in action.dest and action.nargs != 0) or "backbone" in (action.choices or ()):
                doors.add(f"densevit {name}")
    doors |= {f"config {key}" for key, x in Config.model_fields.items() if "backbones" in {*map(str, x.metadata)}}
    for method in registry.find("methods"):
        for key, annotation in option_types("methods", method).items():
            if "backbones" in map(str, parts(annotation, inside=True)):
                doors.add(f"config method.{key}, {method}")
    return doors


OTHER = {"densevit.load": "a model's file", "densevit new": "the name of a new package"}


@pytest.mark.integration
def test_every_door_takes_a_name_of_timm(downloads):
    assert all_doors() - set(OTHER) == set(DOORS)
    expected = densevit.create_backbone("timm", model=NAME, pretrained=True).state_dict()
    for door, named in DOORS.items():
        result = named(f"timm:{NAME}")
        if isinstance(result, Config):
            section = result.backbone
            assert (section.name, section.options) == ("timm", {"model": NAME, "pretrained": True}), door
        else:
            backbone = getattr(result, "backbone", result)
            assert type(backbone).__name__ == "Timm" and backbone.name == NAME, door
            same = all(torch.equal(x, expected[name]) for name, x in backbone.state_dict().items())
            assert same is (door != "densevit check"), door  # which checks random weights


# ---- timm ----


def test_a_plain_name_of_timm_is_said_once_and_a_plugin_has_priority(no_hub, recwarn):
    from densevit.errors import warn_once

    warn_once.cache_clear()
    for _ in range(2):
        model = densevit.create_model(NAME, heads=SETR, classes=2, pretrained=False)
    assert model.sections.backbone.options == {"model": NAME, "pretrained": True}
    lines = [str(x.message) for x in recwarn]
    assert lines == [f"{NAME!r} is not a plugin's name: backbone={NAME} means timm's model, timm:{NAME}."]
    assert of_config("backbone=vit") == of_config("backbone.name=vit", "backbone.freeze=false") == {"name": "vit"}
    assert len(recwarn) == 1
    assert densevit.create_backbone(NAME, pretrained=False).name == NAME


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ((f"backbone=timm:{NAME}",), {"pretrained": True}),
        ((f"backbone={{name: 'timm:{NAME}', freeze: true}}",), {"pretrained": True, "freeze": True}),
        ((f"backbone.name=timm:{NAME}",), {"pretrained": True, "freeze": 1}),  # keys of any backbone stay
        ((f"backbone=timm:{NAME}", "backbone.pretrained=false"), {"pretrained": False}),
        ((f"backbone.name=timm:{NAME}", "backbone.pretrained=false"), {"pretrained": False, "freeze": 1}),
        ((f"backbone=timm:{NAME}", "backbone.weights=a.pth"), {"weights": "a.pth"}),
        ((f"backbone.name=timm:{NAME}", "backbone.weights=random"), {"weights": "random", "freeze": 1}),
        ((f"backbone=timm:{NAME}", "weights=a.pth"), {"pretrained": False}),
        ((f"backbone=timm:{NAME}", "backbone.features=[3]"), {"pretrained": True, "features": [3]}),
        ((f"backbone=timm:{NAME}", "backbone.freeze=2"), {"pretrained": True, "freeze": 2}),
    ],
)
def test_overrides_and_initial_weights_beside_a_name(overrides, options, no_hub):
    assert of_config(*overrides) == {"name": "timm", "model": NAME, **options}


def test_a_file_s_name_is_expanded_and_replaces_the_weights_of_its_base(no_hub, tmp_path):
    (tmp_path / "base.yaml").write_text("backbone: {name: swin, variant: tiny, weights: swin.pth, freeze: 1}\n")
    (tmp_path / "mine.yaml").write_text(f"base: base.yaml\nbackbone: timm:{NAME}\n")
    values = {key: VALUES[key] for key in ("heads", "data", "trainer")}
    (tmp_path / "base.yaml").open("a").write(configs.yaml_io.write(values))
    config = configs.load(tmp_path / "mine.yaml")
    assert config.backbone.model_dump(exclude_defaults=True) == {"name": "timm", "model": NAME, "pretrained": True}
    configs.check_plugins(config)
    written = configs.dump(config)
    assert f"model: {NAME}" in written and "timm:" not in written
    (tmp_path / "config.yaml").write_text(written)
    assert configs.load(tmp_path / "config.yaml") == config


def test_weights_of_the_model_or_of_the_backbone_replace_those_of_the_name(no_hub, tmp_path):
    name = f"timm:{NAME}"
    saved = densevit.create_model(name, heads=SETR, classes=2, pretrained=False)
    densevit.save(saved, tmp_path / "model.safetensors")
    torch.save(saved.backbone.model.state_dict(), tmp_path / "backbone.pth")
    for file in ("model.safetensors", "backbone.pth"):
        model = densevit.create_model(name, heads=SETR, classes=2, weights=tmp_path / file)
        backbone = densevit.create_backbone(name, weights=tmp_path / file)
        for key, value in saved.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[key], value)
            assert torch.equal(backbone.state_dict()[key], value)
    with pytest.raises(ConfigError, match=r"weights=.* and pretrained=True are both set"):
        densevit.create_backbone(name, weights=tmp_path / "backbone.pth", pretrained=True)


# ---- published weights ----


@pytest.mark.integration
def test_the_hub_s_model_names_its_backbone(hub, tmp_path):
    """A checkpoint of densevit has the section in its header; that of another project is recognised."""
    from torchvision.models import resnet18

    file, name = tmp_path / "net/model.safetensors", "hf:org/net"
    file.parent.mkdir()
    trained = densevit.create_model({"name": "resnet", "depth": 18, "dilation": True}, heads=SETR, classes=2)
    densevit.save(trained, file)
    hub.publish("org/net", file.parent)
    model = densevit.create_model(name, heads={"depth": "dpt"})
    assert (
        model.sections.backbone.options == {"depth": 18, "dilation": True} and model.sections.backbone.weights == name
    )
    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)
    assert of_config(f"backbone.name={name}")["weights"] == name
    state = resnet18().state_dict()
    save_file(state, file)
    hub.publish("org/other", file.parent)
    name = "hf:org/other"
    backbone = densevit.create_backbone(name)
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"]) and backbone.channels[-1] == 512
    assert not torch.equal(densevit.create_backbone(name, weights="random").conv1.weight, state["conv1.weight"])


# ---- errors ----


def create(name: str, **options: Any) -> Any:
    return densevit.create_backbone(name, **options)


UNKNOWN = [  # what takes a name, the name, the error and its facts
    (create, "convnext_tini", PluginError, r"no backbone 'convnext_tini'\..* Did you mean 'convnext_tiny'\?.*hf:"),
    (create, "swim", PluginError, r"There is no backbone 'swim'\. Did you mean 'swin'\? Known: [^?]*timm:NAME"),
    (create, "timm:resnt18", PluginError, r"timm .* has no model 'resnt18'\. Similar names: .*resnet18"),
    (of_config, "backbone=resnt", ConfigError, r"no config file 'resnt'.*Did you mean 'resnet'\?.*timm:NAME"),
    (densevit.create_model, "timm:resnet18", ConfigError, "a backbone without heads"),
]
WITHOUT_NETWORK = [
    (create, "timm:resnet18", WeightsError, r"refused.*Without a network: .*backbone\.pretrained=false"),
    (
        of_config,
        "backbone=hf:org/x",
        WeightsError,
        r"hf:org/x: .*refused.*name the plugin, with backbone\.weights=FILE",
    ),
]


@pytest.mark.parametrize(("take", "name", "error", "facts"), UNKNOWN + WITHOUT_NETWORK)
def test_an_unknown_name_or_a_failed_download_is_an_error_with_the_fix(take, name, error, facts, no_hub):
    with pytest.raises(error, match=facts):
        take(name)
