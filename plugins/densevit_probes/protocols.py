"""Protocols of probes: what all backbones share (configs/probe), and backbones by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from densevit import config as configs
from densevit import registry
from densevit.config import Config, Overrides, layer_reading, yaml_io
from densevit.config.config_layers import ConfigLayer
from densevit.config.training_schema import BUDGETS, EVALUATIONS
from densevit.config.values import RANDOM
from densevit.data.data_splits import DataSplits
from densevit.data.split_overlap import check_overlap
from densevit.errors import ConfigError, listed, warn_once
from densevit.interfaces import Dataset
from densevit.training.run.config_checks import check_frozen, check_labels
from densevit_probes.probe import Probe

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    """What all backbones share.

    name: the file's. source: the file. values: the sections of a config that it has, `data`, `heads`, `optim`, ...
    probes: the section of each probe. freeze: whether the backbone is frozen; false: it is trained with the heads.
    """

    name: str
    source: str
    values: Mapping[str, Any]
    probes: Mapping[str, Section]
    freeze: bool

    @classmethod
    def read(cls, name: str, overrides: Overrides = ()) -> "Protocol":
        """Reads a shipped protocol, configs/probe/NAME.yaml, or a file. overrides: `data.root=...`, `probes.knn.k=[1]`.

        Raises ConfigError for a protocol with a backbone.
        """
        file = yaml_io.find_file(name if name.endswith((".yaml", ".yml")) else f"probe/{name}")
        return cls._of(layer_reading.read(file), file.stem, str(file), overrides)

    @classmethod
    def of(cls, values: Mapping[str, Any], name: str, source: str, overrides: Overrides = ()) -> "Protocol":
        """The protocol of a mapping in place of a file. source: its name in messages. Raises as `read`."""
        return cls._of(layer_reading.over_base(values, source), name, source, overrides)

    @classmethod
    def _of(cls, layer: ConfigLayer, name: str, source: str, overrides: Overrides) -> "Protocol":
        values = layer_reading.with_overrides(layer, overrides).values
        probes, freeze = values.pop("probes", None) or {}, values.pop("freeze", True)
        if "backbone" in values or not isinstance(freeze, bool):
            raise ConfigError(
                f"{source}: a protocol has no backbone, and freeze is true or false. Fix: write the backbone to a "
                "file, as in `{name: swin, variant: tiny}`, and name the file: densevit probe mine.yaml."
            )
        for probe, section in probes.items():
            if not isinstance(section, Mapping) or probe in values.get("heads", {}):
                raise ConfigError(
                    f"{source}: probes.{probe} is {section!r}; expected a section with the name of no head, as in "
                    "`knn: {name: patch_knn}`."
                )
        return cls(name, source, values, probes, freeze)

    def config(self, backbone: Section) -> Config:
        """The config of a backbone's section under this protocol, without the probes. Heads that are not trained have a
        budget of one step."""
        trainer = {"precision": "32", "devices": 1, **self.values.get("trainer", {})}
        for keys, default in ((BUDGETS, {"max_steps": 1}), (EVALUATIONS, {"evaluations": 1})):
            trainer |= {} if any(key in trainer for key in keys) else default
        named = configs.section("backbone", backbone, self.source)  # of timm:resnet18, pretrained
        weights = {} if named.weights or named.options.get("pretrained") else {"weights": RANDOM}
        if backbone.get("freeze", self.freeze) is not self.freeze:
            warn_once(f"backbone.freeze={backbone['freeze']} is replaced by freeze={self.freeze} of the protocol.")
        section = {**backbone, **weights, "freeze": self.freeze}
        values = {"heads": {}, **self.values, "trainer": trainer, "backbone": section}
        return configs.from_mapping(values, self.source)

    def with_neck(self, neck: str) -> "Protocol":
        """The protocol with a neck below each head: "none", a plugin's name, or a section file. A neck that has weights
        is frozen. Raises ConfigError without heads."""
        if not self.values.get("heads"):
            raise ConfigError(f"--necks: the protocol {self.name} has no heads. Fix: another protocol.")
        section: Any = {"name": neck}
        if neck.endswith((".yaml", ".yml")):
            section = layer_reading.read(yaml_io.find_file(neck)).values
        changes: Section = {"neck": None if neck == "none" else section}
        if "weights" in section:
            changes = {**changes, "freeze": ["neck.*"]}
        heads = {name: {**head, **changes} for name, head in self.values["heads"].items()}
        return replace(self, values={**self.values, "heads": heads})

    def build_probes(self, dataset: Dataset) -> dict[str, Probe]:
        """Builds the probes. dataset: the training split. Raises ConfigError if it lacks a probe's labels."""
        probes = {}
        for name, section in self.probes.items():
            plugin = section.get("name", name)
            kind = registry.load("probes", plugin)
            missing = [key for key in kind.required_targets if key not in dataset.provides]
            classes = () if kind.task is None else dataset.classes.get(kind.task, ())
            if missing or (kind.task is not None and not classes):
                raise ConfigError(
                    f"probes.{name}: the data has no {listed(missing) or f'classes of the task {kind.task}'}. Fix: use "
                    "a data set with these labels, or remove the probe."
                )
            options = {key: value for key, value in section.items() if key != "name"}
            probes[name] = registry.create("probes", plugin, classes, options=options, where=f"probes.{name}")
        return probes


def backbone_section(name: str) -> tuple[str, Section]:
    """The name and the section of a backbone: a shipped one of configs/backbone, a section file, a plugin with default
    options, module:Class, or a name of weights, such as timm:resnet18."""
    section = configs.section("backbone", name, "probe").model_dump(exclude_unset=True)
    return re.split("[:/]", name)[-1].removesuffix(".yaml"), section


def with_controls(backbones: Mapping[str, Section]) -> dict[str, Section]:
    """Sections of backbones by name, and of their controls: those that have weights with random ones, and `pixels`."""
    controls = {}
    for name, section in backbones.items():
        if section.get("weights", RANDOM) != RANDOM or section.get("pretrained"):
            off = {"pretrained": False} if "pretrained" in section else {}
            controls[f"{name}, random"] = {**section, "weights": RANDOM, **off}
    return {**backbones, **controls, "pixels": backbones.get("pixels", {"name": "pixels"})}


def check_data(config: Config, data: DataSplits, probes: Mapping[str, Probe]) -> None:
    """Checks the config and the data as in a run."""
    (configs.check_plugins if config.heads else configs.check_evaluation_plugins)(config)
    check_frozen(config)
    data.check_splits(bool(config.heads) or any(probe.required_targets for probe in probes.values()))
    check_labels(config, data)
    check_overlap(data)
