"""Every call that resamples images goes through `missing_pixels`, found in the syntax trees of all modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("densevit", "plugins", "examples")
GATES = ("resampled", "valid_mean")  # of missing_pixels
RESAMPLING = {
    *("interpolate", "grid_sample", "Upsample", "UpsamplingBilinear2d", "avg_pool2d", "adaptive_avg_pool2d"),  # torch
    *("resize", "resized_crop", "rotate", "affine", "perspective", "elastic", "gaussian_blur"),  # torchvision, Pillow
    *("RandomResizedCrop", "RandomRotation", "RandomAffine", "Resize", "thumbnail"),
    *("remap", "warpAffine", "warpPerspective", "pyrDown", "pyrUp", "GaussianBlur", "blur"),  # OpenCV
    *("zoom", "map_coordinates", "affine_transform"),  # scipy
}
# A mode that averages no pixels.
NEAREST = re.compile(r"(\w+=)?('nearest(-exact)?'|cv2\.INTER_NEAREST(_EXACT)?|Image\.Resampling\.NEAREST)|resample=0")
TARGETS = {"types", "target_type", "super", "self", "np"}  # objects with methods of these names for other values

# Where nothing that is resampled can have missing pixels, with the reason.
NO_IMAGES = {
    "densevit/layers": "features",
    "densevit/set_prediction": "features and maps of heads",
    "densevit/targets": "labels",
    "densevit/weights": "parameters",
    "densevit/drawing": "8-bit colours",
    "densevit/reporting": "8-bit colours",
    "densevit/data/duplicate_images.py": "8-bit grey",
    "plugins/densevit_export/exported_outputs.py": "maps of heads",
    "densevit/model/streaming_resize.py": "maps of heads",
    "plugins/densevit_backbones": "normalised images, whose missing pixels are 0, and features",
    "plugins/densevit_heads": "features and maps of heads",
    "plugins/densevit_methods": "8-bit RGB: no method here has any_channels",
    "plugins/densevit_papers": "features and maps of heads",
    "plugins/densevit_probes/correspondence.py/sampled": "features",
    "plugins/densevit_probes/corruptions.py": "8-bit RGB images, which have no missing pixels",
    "plugins/densevit_probes/normals.py": "labels and maps of heads",
    "plugins/densevit_probes/pixels.py": "normalised images, whose missing pixels are 0",
    "plugins/densevit_probes/retrieval.py": "maps of heads",
    "plugins/densevit_probes/same_object.py": "masks",
    "plugins/densevit_workbench/doctor": "8-bit colours",
    "plugins/densevit_workbench/inspection": "8-bit colours",
    "plugins/densevit_workbench/testing": "features",
    "examples": "8-bit RGB, features and maps of heads",
}


def resampling_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of resampling functions, except in nearest mode and of target types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RESAMPLING:
            values = map(ast.unparse, (*node.args, *node.keywords))
            if not names_in(node.func) & TARGETS and not any(map(NEAREST.fullmatch, values)):
                yield node


def ungated(tree: ast.Module) -> list[tuple[str, int]]:
    """The function and the line of resampling calls that are neither in an argument of a gate, nor in a function that
    is only named in such arguments."""
    gates = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "densevit.layers.missing_pixels"
        for name in node.names
        if name.name in GATES
    }
    calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and names_in(call.func) & gates]
    inside = {id(node) for call in calls for node in ast.walk(call)}
    named = {name for call in calls for name in names_in(call)}
    named -= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in inside}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside |= {id(node) for function in functions if function.name in named for node in ast.walk(function)}
    parents = {id(node): function.name for function in functions for node in ast.walk(function)}
    return [(parents.get(id(call), ""), call.lineno) for call in resampling_calls(tree) if id(call) not in inside]


def names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_images_are_resampled_by_missing_pixels() -> None:
    unused, lines = {*NO_IMAGES}, []
    for file in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        for function, line in ungated(ast.parse(file.read_text(encoding="utf-8"))):
            exception = next((name for name in NO_IMAGES if f"{path}/{function}/".startswith(f"{name}/")), "")
            unused -= {exception}
            lines += [] if exception else [f"{path}:{line}"]
    assert not lines, "pass the call to missing_pixels.resampled, so that missing pixels do not spread"
    assert not unused, "exceptions without a call"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("F.interpolate(images, size)", 1),
        ("F.interpolate(images, size, mode='nearest')", 0),
        ("image.resize(size)", 1),
        ("types[key].resize(value)", 0),
        ("resampled(images, lambda x: F.interpolate(x, size))", 0),
        ("other(images, lambda x: F.interpolate(x, size))", 1),
        ("(valid_mean if a else resampled)(images, lambda x: F.interpolate(x, size))", 0),
        ("def f(x):\n    return cv2.resize(x)\nresampled(images, f)", 0),
        ("def f(x):\n    return cv2.resize(x)\nresampled(images, f)\nf(images)", 1),
    ],
)
def test_the_walk_by_hand(text: str, count: int) -> None:
    assert len(ungated(ast.parse(f"from densevit.layers.missing_pixels import resampled, valid_mean\n{text}"))) == count
