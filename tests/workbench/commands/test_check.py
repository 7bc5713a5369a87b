"""`densevit check`: a table, findings, and an exit code."""

import re

import pytest

from densevit.cli import main

pytestmark = pytest.mark.integration

OWN = '''
    """Backbones of one's own."""

    import densevit
    from torch import nn


    class Sound(densevit.Backbone):
        """One convolution."""

        def __init__(self, width: int = 8, depth: int = 1) -> None:
            super().__init__()
            if depth > 1:
                raise ValueError(f"depth is {depth}; it is 1.")
            self.channels, self.strides = (width,), (2,)
            self.convolution = nn.Conv2d(3, width, 3, stride=2, padding=1)

        def forward(self, images):
            return [self.convolution(images)]


    class Broken(Sound):
        """States another stride."""

        def __init__(self, width: int = 8) -> None:
            super().__init__(width)
            self.strides = (4,)
'''


@pytest.fixture
def own(install):
    """A distribution with a valid backbone and a broken one."""
    entries = "[densevit.backbones]\nown = own_backbones:Sound\nbroken = own_backbones:Broken\n"
    install("own", entries, {"own_backbones.py": OWN})


def test_findings_return_1(own, capsys):
    assert main(["check", "backbone", "broken", "--skip", "export"]) == 1
    captured = capsys.readouterr()
    assert all(fact in captured.err for fact in ("strides: ", "17 x 24", "33 x 47", "9 x 12"))
    finished = re.findall(r"^(\w+): (passed|FAILED), \d+\.\d s$", captured.err, re.MULTILINE)
    assert len(finished) == 31 and [name for name, verdict in finished if verdict == "FAILED"] == ["strides"]
    assert "FAILED" in next(line for line in captured.out.splitlines() if line.startswith("strides"))
    assert "30 of 31 checks passed" in captured.out
    assert main(["check", "backbone", "own", "depth=2"]) == 1
    assert "ValueError: depth is 2; it is 1 (own_backbones.py, line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("own widht=4", "backbone.widht is not an option of 'own'. Did you mean 'width'?"),
        ("own width", "command line: 'width' is not an option: write key=value"),
        ("own --skip exprt", "--skip: There is no check 'exprt'. Did you mean 'export'?"),
        ("onw", "There is no backbone 'onw'. Did you mean 'own'?"),
    ],
)
def test_command_line_error_returns_2(arguments, message, own, run):
    assert message in run("check", "backbone", *arguments.split(), code=2)
