"""Probes a frozen backbone: encodes the training images, fits, encodes the validation images, scores."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densevit.config import Config
from densevit.data.channel_statistics import with_channels
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.errors import DataError, DensevitError
from densevit.evaluation.metric_order import error_metrics
from densevit.inference.model_loading import device_of
from densevit.interfaces import Backbone, Batch, Evaluator, image_id
from densevit.model import DenseModel, build_from_sections, classes_by_head, nan_checked
from densevit.training.loop.data_checks import check_channels
from densevit.training.loop.device_transfer import on_device
from densevit.training.loop.evaluator_factory import add_indices, build_evaluators, flat_metrics
from densevit.training.loop.feature_cache import FeatureCache
from densevit.training.run.config_checks import changed_images, check_model
from densevit.training.run.process_state import kept_random_states
from densevit.weights.pretrained_models import build_pretrained, warn_of
from densevit.weights.resolving import read_files
from densevit_probes.probe import Condition, Encode, EncodedImage, LastBatch, Probe, bootstrap_intervals
from densevit_probes.protocols import Protocol, Section, backbone_section, check_data

RESAMPLES = 300  # of the images, for the intervals of metrics


@dataclass(frozen=True)
class ProbeResult:
    """The scores of a backbone under a protocol.

    metrics: HEAD/METRIC and PROBE/METRIC; None: undefined. intervals: 95 % bootstrap intervals of metrics. main: the
    main metric of each head and probe. error_metrics: those for which lower is better. config: the resolved config,
    without probes. insensitive: main metrics that do not fall with noise on features. facts: fields of a board's row.
    """

    backbone: str
    protocol: str
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    main: tuple[str, ...]
    error_metrics: tuple[str, ...]
    probes: Mapping[str, Section]
    config: Mapping[str, Any]
    seconds: float
    insensitive: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@kept_random_states()
def probe(
    backbone: str | Path | Section | nn.Module,
    protocol: str | Protocol,
    data: Section | str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    labels: Sequence[float] = (),
    robustness: bool = False,
    instances: bool = False,
    noise: bool = False,
    tokens: int | None = None,
    facts: bool = False,
) -> ProbeResult:
    """Scores the features of a frozen backbone: fits a protocol's probes to the training images, and trains its heads.

    backbone: the name of a shipped section (`dinov2_small`) or of a plugin, a section file, a section; a `Backbone`; or
    a module that gives maps (B, C, h, w) of images (B, 3, H, W), fine to coarse. protocol: a shipped name (`quick`), a
    file, or a `Protocol`. data: keys of the protocol's section `data` to replace, {"root": ...}, or a section file.
    More scores: `labels`, of a fit to these percentages of the training images; `robustness`, on corrupted images;
    `instances`, whether features tell objects apart; `noise`, with noise on the features. tokens: the side of the last
    map, for which the image size is chosen; data.transforms must stretch. facts: also those of a board's row.

    Example:
        >>> result = densevit.probe("pixels", "quick", {"train_length": 20, "val_length": 10})
        >>> result.main[0], len(result.intervals["knn/mIoU"])
        ('segmentation/mIoU', 2)
    """
    if not isinstance(protocol, Protocol):
        keys = data.items() if isinstance(data, Mapping) else ()
        overrides = [f"data={data}"] if isinstance(data, str | Path) else {f"data.{key}": x for key, x in keys}
        protocol = Protocol.read(protocol, overrides)
    if instances:
        protocol = replace(protocol, probes={**protocol.probes, "same_object": {}})
    name, module = type(backbone).__name__, None
    section: Section = {"name": "pixels"}  # the place of a module
    if isinstance(backbone, nn.Module):
        from densevit_probes.module_backbone import as_backbone  # late: for other backbones it is not needed

        module = as_backbone(copy.deepcopy(backbone))
    elif isinstance(backbone, Mapping):
        name, section = str(backbone.get("name")), copy.deepcopy(backbone)  # it may have a module
    else:
        name, section = backbone_section(str(backbone))
    start, config = time.perf_counter(), protocol.config(section)
    if tokens is not None:
        from densevit_probes.tokens import with_tokens  # late, like all that only an option needs

        config = with_tokens(config, module, tokens)
    splits = build_data(config)
    probes = protocol.build_probes(splits.train)
    splits.sort_classes()
    check_data(config, splits, probes)
    if labels:
        from densevit_probes.label_efficiency import check_labels

        check_labels(labels, [name for name, probe in probes.items() if probe.is_fitted])
    encoded = bool(config.heads and protocol.freeze and not changed_images(config, splits))
    if config.heads and not encoded:
        from densevit_probes.heads import trained  # late: probes alone do not need it

        model = trained(config, f"{protocol.name}-{name}", module)
    else:
        model = _built(config, splits, module)
    model.to(device_of(device)).eval()
    conditions = {"": Condition(probes)}
    if robustness or noise:
        from densevit_probes.conditions import conditions_of

        conditions |= conditions_of(probes, robustness, noise)
    evaluators = _evaluated(model, config, splits.padded_to(model.padding), conditions, encoded, labels)
    metrics = flat_metrics({name: evaluator.metrics() for name, evaluator in evaluators.items()})
    intervals = {
        f"{name}/{metric}": bounds
        for name, evaluator in evaluators.items()
        for metric, bounds in bootstrap_intervals(evaluator, RESAMPLES, np.random.default_rng(0)).items()
        if "/" not in metric and bounds[0] == bounds[0]
    }
    main = tuple(f"{name}/{evaluator.main}" for name, evaluator in evaluators.items())
    errors, insensitive, collected = tuple(error_metrics(evaluators)), tuple[str, ...](), dict[str, Any]()
    if facts:
        from densevit_probes.board_facts import facts_of

        collected = facts_of(config, splits, model, evaluators, protocol.probes)
        collected["columns"] = {"labels": [*labels], "robustness": robustness, "noise": noise}
    if noise:
        from densevit_probes.conditions import insensitive_metrics

        insensitive = insensitive_metrics(metrics, main, errors)
    return ProbeResult(
        backbone=name,
        protocol=protocol.name,
        metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        intervals=intervals,
        main=main,
        error_metrics=errors,
        probes=protocol.probes,
        config=config.model_dump(),
        seconds=time.perf_counter() - start,
        insensitive=insensitive,
        facts=collected,
    )


@torch.no_grad()
def _evaluated(
    model: DenseModel,
    config: Config,
    data: DataSplits,
    conditions: Mapping[str, Condition],
    encoded: bool,
    labels: Sequence[float],
) -> dict[str, Evaluator]:
    """The evaluators of heads and probes, with the validation images, under each condition.

    encoded: whether the heads are trained here, on the features of the training images.
    """
    device, ids, probes = model.mean.device, dict[int | str, int](), conditions[""].probes
    cache = model.cache = LastBatch(model.cache or model.backbone)

    def encode(batch: Batch) -> list[Tensor]:
        return [x.float() for x in model.encode(batch, ()).features]

    conditions = {**conditions, **_fit(model, config, data, probes, encode, encoded, labels)}
    evaluators = {
        condition: [
            (build_evaluators(model, data.val) if heads else {})
            | {name: probe.evaluator(probe.classes) for name, probe in scored.items()}
            for _ in changes
        ]
        for condition, (scored, heads, changes, _) in conditions.items()
    }
    for batch in data.val_loader():
        batch, truths = on_device(batch, device), []
        for target in batch["targets"]:
            size = tuple(map(int, target["original_size"]))
            truths.append({**target["truth"], "size": size, "original_size": size})
            add_indices(ids, [(image_id(truths[-1]), target["dataset_index"])])
        for condition, (scored, heads, changes, features) in conditions.items():
            model.cache = features(cache)
            for change, by_name in zip(changes, evaluators[condition], strict=True):
                changed = change(batch)
                with nan_checked(model):
                    predictions = model.infer(changed, {}) if heads else {}
                images = _read(scored, encode, changed, model.backbone.strides[-1])[1]
                for i, truth in enumerate(truths):
                    for name, evaluator in by_name.items():
                        if name not in scored:
                            evaluator.update([predictions[name][i]], [truth])
                        elif all(key in truth for key in scored[name].required_targets):
                            values = {key: truth[key] for key in scored[name].required_targets}
                            placed = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in values.items()}
                            prediction, expected = scored[name].scored(images[name][i], {**truth, **placed})
                            evaluator.update([prediction], [expected])
    return {
        name + condition: _mean_over([x[name] for x in changes])
        for condition, changes in evaluators.items()
        for name in changes[0]
    }


def _mean_over(evaluators: Sequence[Evaluator]) -> Evaluator:
    if len(evaluators) == 1:
        return evaluators[0]
    from densevit_probes.conditions import MeanOverChanges

    return MeanOverChanges(evaluators)


def _fit(
    model: DenseModel,
    config: Config,
    data: DataSplits,
    probes: Mapping[str, Probe],
    encode: Encode,
    heads: bool,
    labels: Sequence[float],
) -> dict[str, Condition]:
    """Fits the probes to the training images, each once, in the order of the data set; and the heads, if `heads`.

    Returns the conditions of `labels`: copies of the probes that are fitted to a share of the images.
    """
    fitted = {name: probe for name, probe in probes.items() if probe.is_fitted}
    by_share = {share: copy.deepcopy(fitted) for share in labels} | {100.0: fitted}
    images: dict[int | str, tuple[int, int, dict[str, Any]]] = {}  # by image id: a mix repeats images
    samples: dict[int, EncodedImage] = {}
    for batch in data.unaugmented_train_loader() if fitted or heads else ():
        targets, batch = batch["targets"], on_device(batch, model.mean.device)
        maps, features = _read(fitted, encode, batch, model.backbone.strides[-1])
        canvas = (batch["images"].shape[-2], batch["images"].shape[-1])
        pixels = batch["images"].cpu() if any(neck.needs_images for neck in model.necks.values()) else None
        for i, target in enumerate(targets):
            index, image_class = target["dataset_index"], int(target["truth"].get("image_class", -1))
            images[target["image_id"]] = (index, image_class, {name: x[i] for name, x in features.items()})
            if heads:
                kept = {key: value for key, value in target.items() if key != "truth"}
                image = None if pixels is None else pixels[i]
                samples[index] = EncodedImage([x[i].cpu() for x in maps], kept, canvas, image)
    ordered = sorted(images.values(), key=lambda image: image[0])
    for share, by_name in by_share.items():
        chosen = _subset(share, [image_class for _, image_class, _ in ordered])
        for name, probe in by_name.items():
            try:
                probe.fit([ordered[i][2][name] for i in chosen])
            except DensevitError as error:
                raise DataError(f"probes.{name}: {error}") from None
    if heads:
        from densevit_probes.heads import train_heads  # late: probes alone do not need it

        train_heads(model, samples, data, config)
    return {f", {share:g} % of the labels": Condition(by_share[share], heads=False) for share in labels}


def _read(
    probes: Mapping[str, Probe], encode: Encode, batch: Batch, stride: int
) -> tuple[list[Tensor], dict[str, list[Any]]]:
    """The maps of a batch, which is encoded once, and what each probe reads of its images."""
    maps = encode(batch)
    images = {
        name: probe.features(lambda other: maps if other is batch else encode(other), batch, stride)
        for name, probe in probes.items()
    }
    return maps, images


def _subset(percent: float, image_classes: Sequence[int]) -> Sequence[int]:
    """The indices of a share of the training images."""
    if percent == 100:
        return range(len(image_classes))
    from densevit_probes.label_efficiency import label_subset

    return label_subset(len(image_classes), percent / 100, image_classes)


def _built(config: Config, data: DataSplits, backbone: Backbone | None) -> DenseModel:
    """The model, with the seed's heads. backbone: replaces the config's backbone if it is given."""
    config = with_channels(config, data.train)
    classes = classes_by_head(config, data.train)
    torch.manual_seed(config.seed)
    if backbone is None:
        model, loaded = build_pretrained(config, classes, read_files(config))
        warn_of(loaded, stacklevel=3)
    else:
        model = build_from_sections(config, classes, backbone=backbone)
    check_channels(data.train, model)
    check_model(config, data, model)
    if config.backbone.cache is not None:
        model.cache = FeatureCache(model, config.backbone.cache, len(data.train) + len(data.val))
    return model
