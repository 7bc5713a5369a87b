"""Class-wise NMS in exported files against brute force."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densevit.layers.nms import class_nms
from densevit_export import files
from densevit_export.runtimes import silenced
from tests.layers.test_nms import IOU, SIZES, brute_force, objects


class Suppressed(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        return class_nms(boxes, scores, classes, IOU)


@pytest.mark.integration
def test_exported_files_have_the_operators_axis_of_classes(tmp_path: Path) -> None:
    """One graph for any number of boxes and classes, as pt2 and as ONNX."""
    import onnx
    import onnxruntime

    rows = {0: torch.export.Dim("rows", min=2)}
    with torch.no_grad():
        program = torch.export.export(Suppressed(), objects(60, 3, 64), dynamic_shapes=(rows, rows, rows))
    torch.export.save(program, tmp_path / "x.pt2")
    loaded = torch.export.load(tmp_path / "x.pt2").module()
    with silenced():
        files.converted(program, ["boxes", "scores", "classes"], ["kept"]).save(tmp_path / "x.onnx")
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert [node.op_type for node in graph.node].count("NonMaxSuppression") == 1 and len(graph.node) < 40
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for classes, pixels in SIZES:
        image = objects(800, classes, pixels)
        inputs = dict(zip(("boxes", "scores", "classes"), (x.numpy() for x in image), strict=True))
        expected = brute_force(*image)
        assert session.run(None, inputs)[0].tolist() == expected, (classes, pixels)
        assert loaded(*image).tolist() == expected
