"""The model: normalisation, a backbone, and a head with its neck per task."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from densevit.config import ModelSections
from densevit.errors import DensevitError, PluginError, head_names
from densevit.interfaces import (
    Backbone,
    BackboneOutput,
    Batch,
    Head,
    Losses,
    Neck,
    Outputs,
    Predictions,
    Targets,
    TokenBackbone,
    Transforms,
)
from densevit.layers.precision import HALF, in_float32
from densevit.layers.unchanged import evaluation_mode
from densevit.losses.context import LossContext, step_context
from densevit.model.augmented_inference import augmented_predictions
from densevit.model.batch_checks import check_partial_labels, check_step
from densevit.model.compiling import compile_regions
from densevit.model.contract_checks import (
    check_features,
    check_grids,
    check_last_blocks,
    check_number_of_classes,
)
from densevit.model.duplicate_boxes import without_duplicates
from densevit.model.fingerprint import fingerprint
from densevit.model.freezing import frozen_modules
from densevit.model.head_inference import inference_of
from densevit.model.inference_model import InferenceModel
from densevit.model.meta_device import unsaved_buffers
from densevit.model.nan_check import NanCheck
from densevit.model.normalisation import imagenet_normalised, normalised
from densevit.model.part_sections import LossWeight, sections_of_parts
from densevit.model.running_checks import RunningChecks
from densevit.model.target_checks import CheckedTargets, TargetChecks, check_labelled, is_labelled
from densevit.model.tensor_batches import as_batch
from densevit.model.training_record import TrainingRecord
from densevit.model.uncertainty_weighting import uncertainty_weighted
from densevit.model.zoom import at_reference_size
from densevit.targets.labelled_classes import by_class
from densevit.targets.types import TargetTypes


class DenseModel(InferenceModel, nn.Module):
    """A backbone with one or more named heads, each with an optional neck: trains, predicts, is saved and exported.

    loss_weights: a factor for each head, 1 by default; "learned": a parameter per head (`uncertainty_weighted`).
    Raises ConfigError for a neck or a weight of a head that does not exist, as do methods for names of heads.

    Example:
        >>> backbone = densevit.create_backbone("resnet", depth=18)
        >>> head = densevit.create_head("dpt", backbone.channels, backbone.strides, classes=[])
        >>> model = densevit.DenseModel(backbone, heads={"depth": head})
        >>> model.size_divisor, [*model.heads]
        (32, ['depth'])
    """

    range_low: Tensor
    range_high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        necks: Mapping[str, Neck] | None = None,
        loss_weights: Mapping[str, LossWeight] | None = None,
        sections: ModelSections | None = None,
    ) -> None:
        nn.Module.__init__(self)
        for name, head in heads.items():
            check_number_of_classes(name, head)
            check_last_blocks(name, head, backbone, name in (necks or {}))
        for argument, by_head in (("necks", necks), ("loss_weights", loss_weights)):
            head_names(by_head or {}, heads, f"DenseModel: {argument}")
        self.backbone = backbone
        self.heads = cast("Mapping[str, Head]", nn.ModuleDict(heads))
        self.necks = nn.ModuleDict(necks or {})
        self.classes = {name: head.classes for name, head in heads.items()}
        self.score_thresholds = {}
        self.target_types = {name: head.target_types for name, head in heads.items()}
        self.target_checks: Mapping[str, TargetChecks] = {
            name: TargetChecks(name, TargetTypes.for_head(head), head.required_targets) for name, head in heads.items()
        }
        self.checked: set[Any] = set()  # the kinds of values of targets that are already checked
        self.running_checks = RunningChecks()
        self.unread_nan_checks: list[NanCheck] = []  # of the last `infer`, for `nan_checked`
        self.cache: Callable[[Tensor], list[Tensor]] | None = None  # gives the feature maps in place of the backbone
        self.loss_weights = {name: (loss_weights or {}).get(name, 1.0) for name in heads}
        learned = [name for name, weight in self.loss_weights.items() if weight == "learned"]
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})
        self.sections = sections = sections or sections_of_parts(backbone, heads, necks or {}, self.loss_weights)
        self.training_data = sections.data
        self.reference_data = {}
        self.training_record = TrainingRecord()
        self.inference = inference_of(self, sections)
        self.licences = dict(backbone.licences)
        self.channels = sections.backbone.channels or backbone.image_channels
        exact = torch.promote_types(torch.get_default_dtype(), torch.float32)
        for name, values in zip(("range_low", "range_high"), zip(*self.channels.range, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=exact)[:, None, None], persistent=False)
        span = self.range_high - self.range_low  # mean and std are the backbone's, in units of the images
        mean, std = (torch.tensor(values, dtype=exact)[:, None, None] for values in (backbone.mean, backbone.std))
        self.register_buffer("mean", self.range_low + span * mean, persistent=False)
        self.register_buffer("std", span * std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def with_heads(self, names: Collection[str]) -> "DenseModel":
        part = super().with_heads(names)
        for name in ("heads", "necks", "log_variances"):  # new modules, of parts whose modes stay
            getattr(part, name).training = getattr(self, name).training
        return part

    def _by_head(self) -> dict[str, Any]:
        parts = {"necks": self.necks, "log_variances": self.log_variances, "loss_weights": self.loss_weights}
        return super()._by_head() | parts

    def _sharing(self, **changes: Any) -> "DenseModel":
        return super()._sharing(_modules={**self._modules}, **changes)

    def save(self, path: str | Path) -> None:
        """Writes a model file for `load`: weights, classes, and the config or sections, with the inference options. A
        replaced `resize` is not written. Warns of objects that a file cannot hold.

        Example:
            >>> densevit.load("runs/setr_vit").save("mine.safetensors")
        """
        from densevit.weights import model_file

        model_file.save(self, path)

    def fingerprint(self) -> str:
        """16 hexadecimal digits from classes and weights, equal on each device."""
        return fingerprint(self.classes, self.state_dict())

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles the repeated blocks of backbone, heads and necks (`densevit.model.compiling`)."""
        compile_regions((self.backbone, *self.heads.values(), *self.necks.values()), *args, **options)

    def forward(
        self,
        batch: Batch | Tensor,
        heads: Collection[str] | None = None,
        head_targets: Mapping[str, list[Targets]] | None = None,
    ) -> dict[str, Outputs]:
        """Computes each head's outputs. Heads receive targets in training mode only.

        batch: a batch, or images (B, C, H, W) of the type of `channels`; for 8-bit RGB also floats from 0 to 1. The
        model normalises them. heads: names; None: all heads. head_targets: targets by head, replace the batch's.
        """
        batch = as_batch(batch, self)
        names = [*self.heads] if heads is None else head_names(heads, self.heads, "forward: heads")
        head_names(head_targets or {}, self.heads, "forward: head_targets")
        backbone_output = self.encode(batch, names)
        outputs = {}
        for name in names:
            head, padding_mask = self.heads[name], batch["padding_mask"]
            blocks = backbone_output.last_blocks.get(head.last_blocks)
            inputs: Any = blocks or self.head_inputs(name, backbone_output.features, padding_mask, batch["images"])
            targets = None
            if self.training:
                targets = self._checked_targets(name, batch["targets"], head_targets)
            outputs[name] = head(inputs, padding_mask, targets)
        return outputs

    def features(self, images: Batch | Tensor) -> list[Tensor]:
        """The backbone's feature maps (B, C_i, H / s_i, W / s_i), fine to coarse. images: `batch` of `forward`."""
        return self.encode(as_batch(images, self), ()).features

    def encode(self, batch: Batch, heads: Collection[str]) -> BackboneOutput:
        """Runs the backbone on a batch for some heads: feature maps, and last blocks for heads that run them. If no
        head takes feature maps, blocks that heads run are not computed."""
        names = head_names(heads, self.heads, "encode: heads")
        images = self.normalise(batch["images"], batch["padding_mask"])
        counts = {self.heads[name].last_blocks for name in names} or {None}
        if isinstance(self.backbone, TokenBackbone) and counts != {None}:
            numbers = {count for count in counts if count is not None}
            backbone_output = self.backbone.encode(images, numbers, None in counts)
        else:
            backbone_output = BackboneOutput((self.cache or self.backbone)(images), {})
        if None in counts:
            check_features("backbone", self.backbone, backbone_output.features, images.shape[-2:])
        for blocks in backbone_output.last_blocks.values():
            check_grids("backbone", self.backbone, [blocks.grid], self.backbone.strides[-1:], images.shape[-2:])
        return backbone_output

    def head_inputs(
        self, head: str, features: list[Tensor], padding_mask: Tensor, images: Tensor | None = None
    ) -> list[Tensor]:
        """The input features of a head, from its neck or else the backbone. head: its name. images: the batch's, not
        normalised, for necks that need them.

        Raises PluginError for a head that runs the backbone's last blocks, or takes its tokens, and no features, and
        for a neck that needs the images without them.
        """
        head_names([head], self.heads, "head_inputs: head")
        if self.heads[head].last_blocks is not None:
            raise PluginError(
                f"heads.{head} ({self.plugin_name(head)}) takes tokens of the backbone and no feature maps. "
                "Fix: call model(batch), or model.encode(batch, heads)."
            )
        if head not in self.necks:
            return features
        neck: Any = self.necks[head]
        if not neck.needs_images:
            inputs = neck(features, padding_mask)
        elif images is None:
            raise PluginError(
                f"heads.{head}.neck ({type(neck).__name__}) needs the images. Fix: model.head_inputs(head, features, "
                'padding_mask, batch["images"]); an export of heads alone takes another neck.'
            )
        else:
            inputs = neck(features, padding_mask, self.neck_images(images, padding_mask).to(features[-1].dtype))
        check_features(f"heads.{head}.neck", neck, inputs, padding_mask.shape[-2:], max(self.backbone.strides))
        return cast("list[Tensor]", inputs)

    def normalise(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """`normalised` with the model's buffers, in the dtype of the backbone's parameters."""
        dtypes = (p.dtype for p in self.backbone.parameters() if p.is_floating_point())
        statistics = (self.range_low, self.range_high, self.mean, self.std)
        pixels = normalised(images, padding_mask, self.channels, *statistics, self.backbone.black_padding)
        return pixels.to(next(dtypes, pixels.dtype))

    def neck_images(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """The images for necks that need them: normalised by ImageNet's mean and standard deviation, in float32."""
        return imagenet_normalised(images, padding_mask, self.channels, self.range_low, self.range_high)

    def loss_context(self, targets: Sequence[list[Targets]], step: int = 0, batches: int | None = None) -> LossContext:
        """The loss context of an optimiser step of several batches. All processes must call it together.

        targets: one list per batch, on the CPU. step: the optimiser step's number. batches: divisor of the summed
        gradients; None: the number of batches. Raises DataError for other targets.
        """
        check_step(targets, batches)
        counts = {
            name: [head.loss_counts(self._checked_targets(name, batch)) for batch in targets]
            for name, head in self.heads.items()
        }
        return step_context(counts, batches or len(targets), step, self.mean.device)

    def loss(self, images: Batch | Tensor, targets: Any = None, context: LossContext | None = None) -> Losses:
        """Runs the model and returns the weighted losses of all heads, named HEAD/TERM. Training minimises their sum.

        images: a batch, or as in `forward`, with targets: masks (B, H, W) of class indices, 255 and -100 = ignored;
        depth (B, H, W) in metres, 0 = unknown; or a list of dicts, one per image, {"boxes": (N, 4) xyxy in pixels,
        "labels": (N,) from 0, ...}. context: the counts that normalise losses; None: those of this batch.
        Raises DataError for targets of another type, shape or range than the images and heads allow (`TargetChecks`),
        and for tensors of which no image has the labels of a head; DensevitError in evaluation mode with gradients.

        Example:
            >>> model = densevit.create_model("resnet", "setr", classes=["road", "sky"])
            >>> images = model.blank_images(2, (64, 96))
            >>> [*model.loss(images, images[:, 0])]  # all pixels of class 0
            ['segmentation/cross_entropy', 'segmentation/auxiliary']
        """
        if not self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            raise DensevitError("loss: the model is in evaluation mode. Fix: model.train(), or torch.no_grad().")
        batch = as_batch(images, self, targets)
        if isinstance(images, Tensor):  # images of a batch may be unlabelled, as a mixed data set labels some
            check_labelled(batch["targets"], self.heads)
        head_targets = {name: self._checked_targets(name, batch["targets"]) for name in self.heads}
        outputs = self(batch, head_targets=head_targets)
        losses = self.losses_of(outputs, batch["targets"], context, head_targets)
        if self.training and self.training_data is None and not torch.compiler.is_compiling():
            height, width = (images if isinstance(images, Tensor) else batch["images"]).shape[-2:]
            self.training_record.add_size((height, width))
        return losses

    def losses_of(
        self,
        outputs: Mapping[str, Outputs],
        targets: list[Targets],
        context: LossContext | None = None,
        head_targets: Mapping[str, list[Targets]] | None = None,
    ) -> Losses:
        """The weighted losses of all heads from their outputs, named HEAD/TERM.

        context: None: computed from this batch in all processes; for accumulated batches, from `loss_context`.
        head_targets: targets by head, replace `targets`, as in `forward`.

        A learned weight adds HEAD/log_variance (`uncertainty_weighted`).
        """
        losses: Losses = {}
        head_names(head_targets or {}, self.heads, "losses_of: head_targets")
        context = LossContext.across_processes() if context is None else context
        for name, head in self.heads.items():
            head_context = context.for_head(name)
            targets_of_head = self._checked_targets(name, targets, head_targets)
            terms = head.loss(outputs[name], targets_of_head, head_context)
            weight = self.loss_weights[name]
            if weight == "learned":
                has_labels = any(is_labelled(target, head) for target in targets_of_head)
                terms = uncertainty_weighted(terms, self.log_variances[name], has_labels, head_context)
            elif weight != 1:
                terms = {term: weight * value for term, value in terms.items()}
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
        return losses

    def _checked_targets(
        self, name: str, targets: list[Targets], head_targets: Mapping[str, list[Targets]] | None = None
    ) -> CheckedTargets:
        """The targets of a head, from `head_targets` if it is there, checked and converted (`TargetChecks`)."""
        head, targets = self.heads[name], (head_targets or {}).get(name, targets)
        if isinstance(targets, CheckedTargets):
            return targets
        targets = self.target_checks[name].checked(targets, self.checked)
        counts = self.target_checks[name].object_counts(targets)
        head.warn_of_objects([*counts.values()], [*counts])
        if any("labelled" in target for target in targets):
            check_partial_labels(f"heads.{name} ({self.plugin_name(name)})", head)
            targets = by_class(targets, head.classes)
        return CheckedTargets(targets)

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """Converts outputs to predictions: by head, a list with one dict per image, in original pixels.

        Converts half-precision outputs to float32 first.
        """
        head_names(outputs, self.heads, "predictions: outputs")
        return {name: self.heads[name].predict(in_float32(values), targets) for name, values in outputs.items()}

    @torch.no_grad()
    def infer(self, batch: Batch, references: Mapping[str, Transforms] | None = None) -> dict[str, list[Predictions]]:
        """Computes each head's predictions on a batch, one per image, in original pixels, in evaluation mode and with
        the inference options.

        Without any options, at the size of the training's evaluation, the result equals
        `predictions(self(batch), targets)`. references: replace `references`. Raises WeightsError if the outputs have
        NaN: on the CPU; on other devices at the end of the surrounding `nan_checked`.
        """
        head_names(references or {}, self.heads, "infer: references")
        with evaluation_mode(self):
            results = self._inferred(NanCheck(self, batch, self._inferred), batch)
        return at_reference_size(
            without_duplicates({name: results[name] for name in self.heads}, self.inference),
            batch["targets"],
            self.target_types,
            self.references if references is None else references,
            self.canonical_focals,
        )

    def _inferred(self, model: Any, batch: Batch) -> dict[str, list[Predictions]]:
        """The predictions before duplicates are removed. model: this model, called through a `NanCheck`."""
        augmented = {name: options for name, options in self.inference.items() if not options.single_pass}
        plain = [name for name in self.heads if name not in augmented]
        results = self.predictions(model(batch, plain), batch["targets"]) if plain else {}
        return results | augmented_predictions(model, batch, augmented)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "DenseModel":
        before = {name: getattr(self, name) for name in ("range_low", "range_high", "mean", "std")}
        super()._apply(fn, recurse)
        if self.mean.dtype in HALF:  # normalisation stays in float32
            for name, value in before.items():
                setattr(self, name, value.to(self.mean.device))
        return self

    def to_empty(self, *, device: Any, recurse: bool = True) -> "DenseModel":
        """`nn.Module.to_empty`, without buffers that state dicts lack, such as `mean`: they move with their values.
        Raises DensevitError for those on the meta device."""
        kept = unsaved_buffers(self)
        super().to_empty(device=device, recurse=recurse)
        for name, value in kept.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self.get_submodule(owner), attribute, value.to(device))
        return self

    def train(self, mode: bool = True) -> "DenseModel":
        """Sets the training mode. Frozen modules stay in evaluation mode: no dropout, no updates of norms. So does a
        completely frozen model, such as a teacher."""
        trained = [parameter.requires_grad for parameter in self.parameters()]
        super().train(mode and (any(trained) or not trained))
        for part in (self.backbone, *self.heads.values(), *self.necks.values()):
            for module in frozen_modules(part):
                module.eval()
        return self
