"""The cases of a benchmark: configs, runs and exported files, or backbones under heads by one protocol."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densevit import config as configs
from densevit import registry
from densevit.config import Config, layer_reading, yaml_io
from densevit.config.config_layers import ALTERNATIVES
from densevit.errors import ConfigError, DensevitError, did_you_mean
from densevit.evaluation import metrics_file, tables_file
from densevit.inference.model_loading import load
from densevit.model import InferenceModel
from densevit.paths import user_path
from densevit.weights.sources import source_of
from densevit_workbench.initial_weights import initial_weights
from densevit_workbench.reports.evaluated_data import evaluated_data

PROTOCOL = "benchmark/protocol"


@dataclass(frozen=True)
class Case:
    """A model of a benchmark.

    name: unique in the benchmark. backbone, head: names in a protocol's grid; empty for a config. values: the config as
    a dict. metrics: scores of a finished run. lower_is_better: names of metrics that are errors. file: an exported file
    to measure; None: measure a model built from the config.
    """

    name: str
    values: Mapping[str, Any]
    source: str
    backbone: str = ""
    head: str = ""
    metrics: Mapping[str, float] | None = None
    lower_is_better: Sequence[str] | None = None
    file: InferenceModel | None = None

    def config(self, seed: int | None = None, **trained: Any) -> Config:
        """The checked config. seed: None keeps the config's seed. trained: keys of `optim` and `trainer` to replace,
        such as {"optim": {"lr": 1e-3}}."""
        values = _replaced(self.values, trained) | ({} if seed is None else {"seed": seed})
        config = configs.from_mapping(values, self.source)
        configs.check_plugins(config)
        return config

    @property
    def fingerprint(self) -> str:
        """A hash of the config or the exported file, by which stored results are reused."""
        text = json.dumps(self.values, sort_keys=True, default=str).encode()
        return hashlib.sha256(text if self.file is None else user_path(self.source).read_bytes()).hexdigest()[:16]


def cases_of_configs(sources: Sequence[str], overrides: Sequence[str], trust: bool = False) -> list[Case]:
    """One case per source: a config file, a shipped config's name, a run folder (its scores are reused) or an exported
    file. trust: runs the code that a file names."""
    cases: dict[str, Case] = {}
    for source in sources:
        folder = user_path(source)
        name = folder.name if folder.is_dir() else Path(source).stem
        is_file = source_of(source, ("runtime",)) is not None  # an exported file
        name = Path(source).name if is_file else name
        if name in cases:
            name = source.strip("/")
        if name in cases:
            raise ConfigError(f"benchmark: {source} is given twice.")
        if is_file:
            cases[name] = _case_of_file(name, source, trust)
            continue
        config = configs.load(source, overrides)
        configs.check_plugins(config)
        file = folder / "metrics.json"
        metrics = metrics_file.read(file) if file.is_file() and not overrides else None
        errors = None if metrics is None else tables_file.read_lower_is_better(folder)
        cases[name] = Case(name, config.model_dump(), source, metrics=metrics, lower_is_better=errors)
    return list(cases.values())


def _case_of_file(name: str, source: str, trust: bool) -> Case:
    model: InferenceModel = load(source, trust=trust)
    if model.config is None:
        raise ConfigError(
            f"benchmark: {source}: the file was exported from a model without a config. Fix: export a run folder."
        )
    recorded = model.recorded_evaluation
    metrics = None if recorded is None else {key: value for key, value in recorded.file.items() if value == value}
    return Case(name, model.config.model_dump(), source, metrics=metrics, file=model)


def cases_of_protocol(
    protocol: str, backbones: Sequence[str], heads: Sequence[str], overrides: Sequence[str]
) -> list[Case]:
    """One case per pair of backbone and head: the protocol's config with this backbone and this head alone.

    protocol: a config whose heads are candidates. backbones: files beside a shipped protocol by name (`swin`), section
    files (`mine.yaml`), plugins with default options (`mynet`, `my_package:MyNet`), or names of weights
    (`timm:resnet18`). heads: names in the protocol, or
    plugins with default options. Raises ConfigError for an unknown name.
    """
    _check_overrides(overrides)
    file = yaml_io.find_file(protocol)
    layer = layer_reading.with_overrides(layer_reading.read(file), overrides)
    sections = {head: _head(head, layer.values.get("heads", {})) for head in heads}
    cases = []
    for backbone in backbones:
        name, section = _backbone(backbone)
        for head, values in sections.items():
            case_values = {**layer.values, "backbone": section, "heads": {head: values}}
            cases.append(Case(f"{name}-{head}", case_values, f"{file} with {backbone} and {head}", name, head))
    _check_names(cases)
    return cases


def _check_overrides(overrides: Sequence[str]) -> None:
    wrong = [override for override in overrides if override.split("=")[0].split(".")[0] == "backbone"]
    if wrong:
        raise ConfigError(
            f"benchmark: {wrong[0]}: with --backbones, options of a backbone must be in a separate file: write the "
            "section to mine.yaml, as in `{name: swin, variant: tiny}`, and give --backbones mine.yaml."
        )


def _check_names(cases: Sequence[Case]) -> None:
    repeated = {case.name for case in cases if [other.name for other in cases].count(case.name) > 1}
    if repeated:
        raise ConfigError(f"benchmark: {min(repeated)} is given twice. Fix: give files different names.")


def _backbone(backbone: str) -> tuple[str, dict[str, Any]]:
    """Name and section of a backbone."""
    shipped = yaml_io.shipped_configs()
    for folder in ("benchmark", "backbone"):
        if f"{folder}/{backbone}" in shipped:
            return backbone, yaml_io.read_file(shipped[f"{folder}/{backbone}"])
    if backbone.endswith((".yaml", ".yml")):
        return Path(backbone).stem, yaml_io.read_file(user_path(backbone))
    beside = [name.partition("/")[2] for name in shipped if name.startswith(("benchmark/", "backbone/"))]
    names = [*(name for name in beside if name != "protocol"), *registry.find("backbones")]
    section = configs.section("backbone", {"name": backbone}, "benchmark")
    if ":" not in section.name and section.name not in names:
        raise ConfigError(
            f"benchmark: there is no backbone {backbone!r}.{did_you_mean(backbone, names)} Or a file FILE.yaml with "
            "its section, module:Class, or a name of weights, such as timm:NAME."
        )
    return re.split("[:/]", backbone)[-1], section.model_dump(exclude_unset=True)


def _head(head: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    if head in sections:
        return dict(sections[head])
    names = [*sections, *registry.find("heads")]
    if ":" not in head and head not in names:
        raise ConfigError(f"benchmark: there is no head {head!r}.{did_you_mean(head, names)}")
    return {"name": head}


def _replaced(values: Mapping[str, Any], trained: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Replaces keys of sections. A learning rate or a budget also removes its alternatives, such as `lr_per_256`."""
    result = dict(values)
    for section, keys in trained.items():
        options = dict(result.get(section, {}))
        for alternatives in ALTERNATIVES.get((section,), ()):
            if any(key in keys for key in alternatives):
                options = {key: value for key, value in options.items() if key not in alternatives}
        result[section] = options | dict(keys)
    return result


def setting_of(config: Config) -> dict[str, Any]:
    """The settings of a config in the tables: data set, evaluated images, image size, batch size, initial weights."""
    data, root, size = config.data, config.data.options.get("root"), config.data.image_size
    return {
        "data": data.name if root is None else f"{data.name} ({root})",
        "evaluated_data": evaluated_data(data.model_dump()),
        "image_size": [size, size] if isinstance(size, int) else size,
        "batch_size": data.batch_size,
        "initial_weights": initial_weights(config),
        "frozen": config.backbone.freeze is True,
    }


def main_metrics(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """The main metric HEAD/METRIC of each head with an evaluator, among a run's metrics.

    A metric's name may have a suffix, as in `AbsRel_aligned_median`.
    """
    chosen = []
    for name, head in config.heads.items():
        if head.evaluation is None:
            continue
        kind = registry.load("heads", head.name)
        try:
            evaluator = registry.load("evaluators", head.evaluation.name or str(kind.task))
        except DensevitError:
            continue
        if isinstance(main := getattr(evaluator, "main", None), str):
            full = f"{name}/{main}"
            chosen += [metric for metric in metrics if metric == full or metric.startswith(f"{full}_")][:1]
    return chosen
