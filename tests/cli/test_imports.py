"""Commands that should answer at once import neither torch nor other slow modules."""

import subprocess
import sys
import warnings

import pytest

from densevit import registry
from densevit.cli import main

HEAVY = {
    "torch",
    "torchvision",
    "pytorch_lightning",
    "albumentations",
    "cv2",
    "matplotlib",
    "scipy",
    "pycocotools",
    "timm",
}
REPORT = f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"


def heavy_after(code: str, folder) -> str:
    """The heavy modules that a new interpreter has imported after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{REPORT}"], capture_output=True, text=True, cwd=folder, check=True
    )
    return done.stdout.rpartition("HEAVY ")[2].strip()


@pytest.mark.parametrize(
    "code",
    [
        "import densevit; densevit.list_backbones(); densevit.DensevitError",
        "import densevit.cli, densevit.registry, densevit.config, densevit.registry.options, densevit.errors",
        "from densevit import config; config.load('detr_swin', ['optim.lr=1e-3'])",
        "from densevit.cli import main; assert main(['plugins']) == 0",
        "from densevit.cli import main; assert main(['--help']) == main(['--version']) == 0",
        "from densevit.cli import main; assert main(['data', 'convert', 'yolo', '.', '.']) == 2",  # OUT exists
    ],
)
def test_light_commands_import_no_heavy_modules(code, tmp_path):
    assert heavy_after(code, tmp_path) == "[]"


def test_help_of_every_command_imports_no_heavy_modules(tmp_path):
    commands = [name.split() for name in registry.find("commands")]
    code = f"from densevit.cli import main\nfor words in {commands}: assert main([*words, '--help']) == 0, words"
    assert heavy_after(code, tmp_path) == "[]"


def test_overview_imports_no_command(tmp_path):
    code = (
        "from densevit.cli import main\nmain(['-h'])\n"
        "assert not {m for m in sys.modules if m[:13] == 'densevit.cli.' or m[:18] == 'densevit_workbench'}"
    )
    assert heavy_after(code, tmp_path) == "[]"


@pytest.mark.integration
def test_training_evaluation_prediction_and_export_import_no_workbench(tmp_path):
    small = ["trainer.max_steps=2", "data.train_length=4", "data.val_length=2", "data.batch_size=2"]
    small += ["data.num_workers=0", "data.image_size=64", "trainer.accelerator=cpu"]
    code = f"""
from densevit.cli import main
from PIL import Image
Image.new("RGB", (70, 50)).save("a.jpg")
assert main(["train", "detr_resnet", "--run-dir", "run", *{small}]) == 0
assert main(["evaluate", "run", "--quiet"]) == 0
assert main(["predict", "run", "a.jpg", "--out", "predicted", "--quiet"]) == 0
assert main(["export", "run", "--out", "model.pt2", "--quiet"]) == 0
print("WORKBENCH", [name for name in sys.modules if name.startswith("densevit_workbench")])
"""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("WORKBENCH ")[2].strip() == "[]"


def test_misspelt_command_suggests_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("densevit: there is no command 'trian'. Did you mean 'train'? Known: ")


def test_outdated_installation_is_told_to_install_again(capsys, monkeypatch):
    monkeypatch.setattr(registry, "find", lambda group: {})
    assert main(["train", "detr_swin"]) == 2
    assert "there is no command 'train'. densevit was installed before" in capsys.readouterr().err


def test_errors_print_a_message_and_return_2(capsys):
    assert main(["config", "no_such_file"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("there is no config file 'no_such_file'.")
    assert captured.out == ""
    assert main(["train", "--no-such-option"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "train needs a config"),
        (["train", "optim.lr=1"], "train needs a config"),
        (
            ["train", "detr_swin", "--resume", "runs/a"],
            "uses that folder and its config; remove 'detr_swin'",
        ),
        (["train", "detr_swin", "optim.lrr=1"], "command line: optim.lrr is not a key of optim"),
        (
            ["train", "detr_swin", "--run-dir", "x", "backbone.nam=y"],
            "command line: backbone.nam is not an option of 'swin'",
        ),
    ],
)
def test_train_refuses_invalid_arguments(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.integration
def test_output_whose_reader_ends_is_no_error():
    """As in `densevit config detr_swin | head -1`."""
    command = [sys.executable, "-m", "densevit", "config", "detr_swin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_warnings_have_their_usual_format_after_a_command(capsys):
    usual = warnings.formatwarning
    main(["plugins"])
    main(["train", "nowhere"])
    assert warnings.formatwarning is usual


def test_config_output_round_trips(capsys, tmp_path):
    from densevit import config

    assert main(["config", "detr_swin", "optim.lr=1e-3", "heads.detection.weight=2"]) == 0
    (tmp_path / "resolved.yaml").write_text(capsys.readouterr().out)
    resolved = config.load(tmp_path / "resolved.yaml")
    assert (resolved.optim.lr, resolved.heads["detection"].weight) == (1e-3, 2.0)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "convert"])
def test_tools_run_the_commands(command, project, tmp_path):
    tool = [sys.executable, str(project / "tools" / f"{command}.py"), "--help"]
    said = subprocess.run(tool, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert said.startswith(f"usage: densevit {command} ")


def test_python_m_densevit_runs_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "densevit", "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("densevit 0.")
