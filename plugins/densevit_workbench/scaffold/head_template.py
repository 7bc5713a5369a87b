"""Template of a head: a dense detector, to be replaced by your own layers and loss."""

MODULE = '''\
"""A head for densevit."""

from collections.abc import Sequence

import densevit
import torch
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.nms import class_nms
from densevit.layers.norms import LayerNorm2d
from densevit.losses.boxes import clipped_corners, to_centres
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects
from torch import Tensor, nn
from torch.nn import functional


class $cls(densevit.Head):
    """Boxes from every cell of the features of stride 8 and up, as distances to the four sides (FCOS)."""

    task = "detection"  # selects the classes and the evaluator: COCO AP for detection
    needs = ("boxes", "labels")  # required target keys; data without them are an error at the start

    # densevit passes the first three arguments. The others are options in YAML, checked against their annotations.
    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[densevit.Class],
        width: int = 128,
        num_predictions: int = 100,
    ) -> None:
        super().__init__(channels, strides, classes)
        if width < 1 or num_predictions < 1:
            raise ValueError(f"width is {width} and num_predictions is {num_predictions}; both must be at least 1.")
        self.num_predictions = num_predictions
        # Support any number of features of any strides: select by stride, and fall back to the last one.
        self.levels = [i for i, stride in enumerate(strides) if stride >= 8] or [len(strides) - 1]
        self.cell_sizes = [strides[i] for i in self.levels]
        # Put your own layers here.
        self.projections = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self.levels)
        self.tower = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(LayerNorm2d(width) for _ in self.tower)
        self.label_layer = nn.Conv2d(width, len(self.classes), 1)
        self.side_layer = nn.Conv2d(width, 4, 1)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Predictions of the S cells of all levels: `logits` (B, S, K), `boxes` (B, S, 4), and the cells' centres.

        boxes: cxcywh, centres: (B, S, 2), both in 0 ... 1 of the image without padding. padding: (B, S).
        """
        inside = ~padding_mask  # (B, H, W); its first row and column give the width and height of the image
        sizes = torch.stack([inside[:, 0].sum(1), inside[:, :, 0].sum(1)], dim=-1).float()[:, None]  # (B, 1, 2)
        levels = []
        for i, stride, project in zip(self.levels, self.cell_sizes, self.projections, strict=True):
            padding = padding_mask[:, ::stride, ::stride]  # (B, h, w), at the first pixel of each cell
            x = project(features[i])  # (B, C, h, w)
            for convolution, norm in zip(self.tower, self.norms, strict=True):
                x = x.masked_fill(padding[:, None], 0.0)  # padding does not affect the cells of the image
                x = functional.gelu(norm(convolution(x)))
            logits = self.label_layer(x) - 4.6  # initial probability of 0.01: most cells are background
            sides = 2 * stride * functional.softplus(self.side_layer(x).float())  # (B, 4, h, w), in pixels
            rows, columns = (stride * (torch.arange(side, device=x.device) + 0.5) for side in x.shape[-2:])
            centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)  # (h * w, 2)
            centres = (centres / sizes).clamp(max=1)  # (B, h * w, 2)
            left_top, right_bottom = (part / sizes for part in sides.flatten(2).transpose(1, 2).chunk(2, dim=-1))
            boxes = to_centres(torch.cat([centres - left_top, centres + right_bottom], dim=-1))  # (B, h * w, 4)
            levels.append((logits.flatten(2).transpose(1, 2), boxes, centres, padding.flatten(1)))
        names = ("logits", "boxes", "centres", "padding")
        return {name: torch.cat(parts, dim=1) for name, parts in zip(names, zip(*levels, strict=True), strict=True)}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """`label`, `l1` and `giou`: always the same keys, and 0 if no image is labelled.

        A missing key in a target means "unlabelled": the image is left out. Boxes of shape (0, 4) mean "no objects":
        the image is background.
        """
        labelled = [i for i, target in enumerate(targets) if all(key in target for key in self.needs)]
        logits, boxes, centres, padding = (outputs[key][labelled] for key in ("logits", "boxes", "centres", "padding"))
        objects = Objects.of([targets[i] for i in labelled], logits.device)
        # Put your own loss here. This loss assigns each object to the cells that match it best.
        losses = dense_detection(logits, boxes, centres, padding, objects, context)
        return {"label": losses.label, "l1": 5 * losses.l1, "giou": 2 * losses.giou}

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Boxes (N, 4) as xyxy in pixels of the original image, scores and labels (N,), by decreasing score."""
        scores, boxes = outputs["logits"].float().sigmoid(), clipped_corners(outputs["boxes"])
        scores = scores.masked_fill(outputs["padding"][..., None], 0.0)  # (B, S, K)
        predictions = []
        for score, box, target in zip(scores, boxes, targets, strict=True):
            best, index = score.flatten().topk(torch.sym_min(10 * self.num_predictions, score.numel()))
            cell, label = index // score.shape[-1], index % score.shape[-1]
            height, width = target["original_size"]
            x0, y0, x1, y1 = box[cell].unbind(-1)
            pixels = torch.stack([x0 * width, y0 * height, x1 * width, y1 * height], dim=-1)
            keep = class_nms(pixels, best, label, 0.6)
            keep = keep[best[keep] > 0][: self.num_predictions]  # not in the padding
            predictions.append({"boxes": pixels[keep], "scores": best[keep], "labels": label[keep]})
        return predictions
'''

CONFIG = """\
# $cls on a Swin, on the built-in scenes:
#   densevit train configs/$name.yaml
# On COCO, on a ResNet-50 for 12 epochs, with a width and a number of predictions for its 80 classes:
#   densevit train coco/dino_r50_12ep data.root=~/coco heads.detection.name=$name \\
#       heads.detection.width=256 heads.detection.num_predictions=300
base: detr_swin
heads:
  detection: {name: $name}
"""
