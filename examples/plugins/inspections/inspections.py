"""Inspectors of another package: features of any backbone in colours, and reference points of Deformable DETR."""

import numpy as np
import torch

from densevit_workbench.inspection.figures import Figure, with_point
from densevit_workbench.inspection.inspector import Inspector


class FeatureComponents(Inspector):
    """The first three principal components of a backbone's features as RGB (Oquab et al. 2024, figure 1)."""

    def hooks(self, part):
        self.features = []
        return [part.register_forward_hook(lambda module, inputs, output: self.features.append(output))]

    def figures(self, part, recorded, outputs, image):
        if outputs:  # a head
            return []
        strides = [f"stride {stride}" for stride in part.strides]
        tiles = [(name, colours(x[0])) for name, x in zip(strides, self.features[0], strict=True)]
        return [Figure("components", "Features", "The first three principal components, as RGB.", tiles)]


def colours(feature):
    """(C, H, W) -> (H, W, 3) uint8."""
    cells = feature.float().flatten(1).T.cpu()  # (H * W, C)
    cells = cells - cells.mean(0)
    components = cells @ torch.linalg.svd(cells, full_matrices=False).Vh[:3].T
    low, high = components.amin(0), components.amax(0)
    scaled = (components - low) / (high - low).clamp(min=1e-12)
    pixels = np.zeros((len(cells), 3), np.uint8)
    pixels[:, : scaled.shape[1]] = (255 * scaled).round()  # maps of one or two cells have fewer components
    return pixels.reshape(*feature.shape[1:], 3)


class ReferencePoints(Inspector):
    """The points around which the queries of Deformable DETR sample, in the last decoder layer."""

    def hooks(self, part):
        self.layer_inputs = []
        return [part.decoder[-1].register_forward_pre_hook(lambda module, inputs: self.layer_inputs.append(inputs))]

    def figures(self, part, recorded, outputs, image):
        points = self.layer_inputs[0][2][0, :, 0, :2].cpu()  # (Q, 2), x and y in 0 ... 1 of the padded image
        drawn = image
        for query in outputs["logits"][0].amax(1).topk(min(20, len(points))).indices.tolist():
            x, y = points[query].tolist()
            drawn = with_point(drawn, (y, x))
        caption = "Of the 20 queries with the highest scores."
        return [Figure("reference-points", "Reference points", caption, [("", drawn)], columns=1, side=420)]
