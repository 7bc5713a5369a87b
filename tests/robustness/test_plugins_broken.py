"""Broken plugins: the message names the plugin, what went wrong and where; `densevit plugins` lists the others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from densevit.cli import main
from tests.robustness.conftest import Refused

BEGIN = "import densevit\nimport torch\nfrom torch import nn\n"


def backbone(
    body: str = "self.channels, self.strides = (8,), (32,)", forward: str = "return [x]", options: str = ""
) -> str:
    """The source of a backbone Net with this constructor and forward."""
    return (
        f"{BEGIN}\nclass Net(densevit.Backbone):\n"
        f"    def __init__(self{options}):\n        super().__init__()\n"
        "        self.embed = nn.Conv2d(3, 8, 32, 32)\n"
        f"        {body}\n"
        f"    def forward(self, x):\n        x = self.embed(x)\n        {forward}\n"
    )


# The source of the module net, and what the message says besides "The backbone 'mine' (net:Net, from own 1.0)".
IMPORTS = {
    "exits by argparse": ("import argparse as a\na.ArgumentParser().error('x')", "SystemExit: 2 (", "net.py, line 2)"),
    "an exception with an escape": ("raise ValueError('\\x1b[31mred')", "ValueError: \\x1b[31mred ("),
    "no syntax": ("def (", "SyntaxError: invalid syntax (", "net.py, line 1)"),
    "no such class": ("class Nets: pass", "net has no 'Net'. Did you mean 'Nets'?"),
    "an instance": (backbone().replace("class Net(", "class Own(") + "Net = Own()\n", "is a Own, which is not a"),
}  # fmt: skip

NO_SUPER = backbone().replace("super().__init__()", "pass").replace("self.embed = nn.Conv2d(3, 8, 32, 32)", "pass")
CONSTRUCTORS = {  # the source or the end of the constructor
    "no call of super": (NO_SUPER, "'mine': its constructor does not call super().__init__()"),
    "a required option": (backbone(options=", width: int"), "backbone.width is missing: 'mine' needs it"),
    "a RuntimeError": ("raise RuntimeError('boom\\nand more')", "RuntimeError: boom and more (", "net.py, line 9)"),
    "a ValueError": ("raise ValueError('width is odd')", "cannot be built with these options: width is odd"),
    "fewer channels than strides": (
        "self.channels, self.strides = (8,), (16, 32)", "has 1 channels and 2 strides"
    ),
    "a mean of one number": (
        "self.channels, self.strides, self.mean = (8,), (32,), 0.5", "has mean 0.5; expected: three numbers"
    ),
}  # fmt: skip

FORWARDS = {
    "too few features": ("return []", "returned features of shapes []; its channels are [8]"),
    "tokens": ("return [x.flatten(2)]", "its channels are [8]"),
    "nothing": ("return None", "returned a NoneType"),
}


@pytest.fixture
def broken(tiny: str, install: Callable[..., Path]) -> Callable[[str], Path]:
    """`broken(source)` installs `mine`, a backbone of the module net with that source."""
    return lambda source: install("own", "[densevit.backbones]\nmine = net:Net\n", {"net.py": source})


@pytest.mark.parametrize("name", IMPORTS)
def test_import_error_is_reported(broken: Callable, tiny: str, refused: Refused, name: str) -> None:
    source, *says = IMPORTS[name]
    broken(source)
    message = refused("config", tiny, "backbone.name=mine", says=("backbone.name: The backbone 'mine'", *says))
    assert len(message.splitlines()) == (3 if "argparse" in name else 1)  # argparse has printed a message itself
    assert len(message) < 1200
    assert "from own 1.0" in message
    assert main(["plugins", "backbones"]) == 0  # nothing is imported


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructor_error_is_reported(broken: Callable, tiny: str, refused: Refused, name: str) -> None:
    body, *says = CONSTRUCTORS[name]
    broken(body if body.startswith(BEGIN) else backbone(body))
    assert len(refused("train", tiny, "backbone={name: mine}", says=("'mine'", *says)).splitlines()) == 1


@pytest.mark.parametrize("name", FORWARDS)
def test_invalid_forward_output_is_reported(broken: Callable, tiny: str, refused: Refused, name: str) -> None:
    forward, says = FORWARDS[name]
    broken(backbone(forward=forward))
    refused("train", tiny, "backbone={name: mine}", "--run-dir", "out", says=("backbone Net: its forward", says))
