"""Flags that all commands have, and what they write where."""

import json
import shlex
from pathlib import Path

import pytest

from densevit import progress, registry
from densevit.cli import command, main
from densevit.cli.command_output import Output

COMMANDS = [*registry.find("commands")]
TINY = """
backbone: {name: resnet, depth: 18, norm: group}
heads: {depth: {name: dpt, width: 8}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 8, val_length: 3}
optim: {lr: 1e-3}
trainer: {max_steps: 4, precision: "32", accelerator: cpu, loggers: []}
"""


def output(**flags: bool) -> Output:
    from argparse import Namespace

    return Output(Namespace(**{"quiet": False, "json": False, **flags}))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_the_common_flags_and_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "--quiet" in text and "--json" in text
    examples = text.partition("examples:\n")[2].splitlines()
    assert examples
    for example in examples:
        program, *words = shlex.split(example.rpartition(" | ")[2], comments=True)
        given = max((one for one in COMMANDS if f"{' '.join(words)} ".startswith(f"{one} ")), key=len)
        assert program == "densevit"
        command(given)[1].parse_intermixed_args(words[len(given.split()) :])  # exits for an unknown flag


def test_json_is_the_only_output_and_has_null_for_what_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    for out in (output(json=True), output(json=True, quiet=True)):
        out.show("a table")
        out.result({"AP": float("nan"), "names": ("é", float("inf"), 1.5)})
        assert json.loads(capsys.readouterr().out) == {"AP": None, "names": ["é", None, 1.5]}
    output().show("runs/[a]: 3 images")
    output().result({"a": 1})
    output(quiet=True).show("nothing")
    assert capsys.readouterr().out == "runs/[a]: 3 images\n"


def test_redirected_progress_is_a_line_every_half_minute(capsys, monkeypatch):
    now = iter(range(0, 4000, 12))  # 12 seconds a call: at the start and after each item
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    assert list(output().track("abcdefg", "Predicting", 20)) == list("abcdefg")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Predicting: 3 of 20, about 3 min left", "Predicting: 6 of 20, about 3 min left"]


@pytest.fixture
def tiny(cwd: Path) -> Path:
    Path("tiny.yaml").write_text(TINY)
    return cwd


# ---- names from files, and streams ----

HOSTILE = "[/x] [red] :smile: \x1b[31m \x9b1m \ud800 é"
SHOWN = r"[/x] [red] :smile: \x1b[31m \x9b1m \ud800 é"


def test_tables_and_lines_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "bold"))
    for shown in (table, Text(HOSTILE), HOSTILE):
        output().show(shown)
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 5 and "\x1b" not in said
