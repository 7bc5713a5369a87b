"""`push_to_hub` and `hf:ORG/NAME`, with huggingface_hub itself and a server on 127.0.0.1 in place of the Hub."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

import densevit
from densevit import config as configs
from densevit.errors import DensevitError, WeightsError
from densevit.evaluation import metrics_file
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.interfaces import Licences
from densevit.weights import model_file
from tests.checkpoints.hub_server import HubServer, hub_server
from tests.small_models import NAIVE

PIXELS = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BACKBONE = {"name": "vit", "variant": "nano"}
MIT = Licences("MIT", "MIT", "COCO", "none", "https://example.org/card", "2026-11-29")
METRICS = {"segmentation/mIoU": 0.4321, "segmentation/IoU/road": 0.5, "segmentation/aAcc": float("nan")}
BENCHMARKS = {"segmentation/mIoU": "ann/streets-data/miou"}


def small_model(**data: Any) -> densevit.DenseModel:
    values = {
        "backbone": BACKBONE,
        "heads": {"segmentation": {**NAIVE, "auxiliary": []}},
        "data": {"name": "segmentation", "image_size": 64, **data},
        "trainer": {"max_steps": 1},
    }
    return densevit.create_model(configs.from_mapping(values), classes=["road", "sky"]).eval()


def run_folder(folder: Path, model: densevit.DenseModel) -> "densevit.Run":
    """A run folder of a model, with METRICS."""
    folder.mkdir()
    densevit.save(model, folder / "model.safetensors")
    (folder / "config.yaml").write_text(configs.dump(model.sections))
    metrics_file.write(METRICS, folder / "metrics.json")
    return densevit.Run(folder)


@torch.no_grad()
def logits(model: densevit.DenseModel) -> torch.Tensor:
    outputs: dict[str, dict[str, torch.Tensor]] = model(PIXELS)
    return outputs["segmentation"]["logits"]


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The server, which the library uses in this process, with a token and an empty cache."""
    from huggingface_hub import constants

    with hub_server() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        yield hub


@pytest.mark.integration
def test_a_pushed_run_predicts_the_same_with_the_same_classes_and_licences(hub: HubServer, tmp_path: Path) -> None:
    model = small_model(root="streets")
    model.licences, model.score_thresholds = {"hf:org/vit": MIT}, {"segmentation": 0.3}
    run = run_folder(tmp_path / "run", model)
    assert densevit.push_to_hub(run, "ann/streets") == f"{hub.address}/ann/streets"
    loaded = densevit.load("hf:ann/streets")
    assert torch.equal(logits(loaded), logits(model)) and loaded.config == model.config
    assert loaded.classes == model.classes and loaded.score_thresholds == model.score_thresholds
    assert loaded.licences == model.licences
    config = configs.from_mapping(yaml.safe_load(hub.files["ann/streets"]["config.yaml"]))
    assert config == model.config
    values = {**model.sections.model_dump(), "weights": "hf:ann/streets"}
    started = densevit.create_model(configs.from_mapping(values), classes=["road", "sky"]).eval()
    assert torch.equal(logits(started), logits(model))
    assert started.licences == model.licences


@pytest.mark.integration
def test_a_second_push_replaces_its_files_and_keeps_others(hub: HubServer, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", small_model())
    densevit.push_to_hub(run.path, "ann/streets", private=True)
    assert hub.private["ann/streets"]
    hub.files["ann/streets"]["LICENSE"] = b"MIT"
    model = small_model()
    densevit.push_to_hub(model, "ann/streets", private=True)
    files = ["README.md", "config.yaml", "model.safetensors"]
    assert [sorted(paths) for paths in hub.commits["ann/streets"]] == [files, files]
    assert hub.files["ann/streets"]["LICENSE"] == b"MIT"
    assert torch.equal(logits(densevit.load("hf:ann/streets")), logits(model))


def test_the_card_has_scores_with_their_command_and_the_library_reads_its_metadata(
    hub: HubServer, tmp_path: Path
) -> None:
    import huggingface_hub

    model = small_model(root="/home/eve/my streets")
    model.licences = {"hf:org/vit": MIT}
    densevit.push_to_hub(run_folder(tmp_path / "run", model), "ann/streets", benchmarks=BENCHMARKS)
    files = hub.files["ann/streets"]
    card = files["README.md"].decode()
    data = huggingface_hub.ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("densevit", "image-segmentation", "mit")
    assert data.tags == ["densevit", "vit", "setr"]
    assert hub.cards == [card]  # the Hub checks it before the upload
    command = "densevit evaluate hf:ann/streets data.root='my streets'"
    for fact in (
        "| segmentation | mIoU | 0.4321 |",
        "| segmentation | aAcc | – |",
        f"```bash\n{command}\n```",
        "2 classes: road, sky.",
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters",
        "- `my streets`, read as `segmentation`",
        "hf:org/vit: code MIT, weights MIT, data COCO, teacher none (https://example.org/card, read 2026-11-29)",
        'densevit.load("hf:ann/streets")',
    ):
        assert fact in card, fact
    assert "IoU/road" not in card
    entries = huggingface_hub.parse_eval_result_entries(
        yaml.safe_load(files[".eval_results/segmentation-mIoU.yaml"].decode())
    )
    assert entries == [huggingface_hub.EvalResultEntry("ann/streets-data", "miou", 0.4321, notes=command)]


@pytest.mark.integration
def test_a_model_without_scores_says_so_and_one_with_a_recorded_evaluation_has_it(
    hub: HubServer, tmp_path: Path
) -> None:
    model = small_model()
    densevit.push_to_hub(model, "ann/streets")
    assert "No score was measured." in hub.files["ann/streets"]["README.md"].decode()
    assert not [name for name in hub.files["ann/streets"] if name.startswith(".eval_results")]
    evaluation = RecordedEvaluation({"segmentation/mIoU": 0.25}, {}, "streets")
    model_file.save(model, tmp_path / "joined.safetensors", further={"evaluation": evaluation.as_json()})
    densevit.push_to_hub(tmp_path / "joined.safetensors", "ann/streets")
    assert "| segmentation | mIoU | 0.2500 |" in hub.files["ann/streets"]["README.md"].decode()


def test_a_backbone_is_pushed_and_is_the_backbone_of_a_model(hub: HubServer) -> None:
    backbone = small_model().backbone
    model = densevit.DenseModel(backbone, {})
    densevit.push_to_hub(model, "ann/backbone")
    card = hub.files["ann/backbone"]["README.md"].decode()
    assert front_matter(card)["pipeline_tag"] == "image-feature-extraction"
    assert "densevit train CONFIG backbone.weights=hf:ann/backbone" in card
    heads = {"segmentation": NAIVE}
    started = densevit.create_model({**BACKBONE, "weights": "hf:ann/backbone"}, heads, classes=["road", "sky"])
    state = started.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("weights", "stated"),
    [
        ([], {}),
        (["CC-BY-NC-4.0", "cc-by-nc-4.0"], {"license": "cc-by-nc-4.0"}),
        (["unknown"], {"license": "unknown"}),
        (["MIT", "DINOv3 License (own)"], {"license": "other", "license_name": "dinov3-license-own-and-mit"}),
    ],
)
def test_the_licence_is_that_of_the_weights_in_the_words_of_the_hub(
    weights: list[str], stated: dict[str, str], hub: HubServer
) -> None:
    model = small_model()
    model.licences = {f"hf:org/{i}": Licences("MIT", name) for i, name in enumerate(weights)}
    densevit.push_to_hub(model, "ann/streets")
    data = front_matter(hub.files["ann/streets"]["README.md"].decode())
    assert {key: value for key, value in data.items() if key.startswith("license")} == stated


def texts(values: Any) -> Iterator[str]:
    """All keys and values of nested values that are texts."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from (*texts(key), *texts(value))
    elif isinstance(values, list):
        for value in values:
            yield from texts(value)
    elif isinstance(values, str):
        yield values


def test_no_folder_of_the_machine_and_no_account_is_in_any_file(hub: HubServer, tmp_path: Path) -> None:
    secret, classes = "/home/mallory/secret", ["/m/0199g", "sky"]
    model = small_model(root=f"{secret}/streets", images=f"{secret}/a;b/{{split}}", classes=classes)
    sections = model.sections.model_dump()
    sections["weights"] = "~/secret/start.pth"
    sections["backbone"]["weights"] = None
    sections["trainer"]["loggers"] = [{"name": "wandb", "entity": "mallory", "project": "secret"}]
    sections["trainer"]["callbacks"] = [
        {"name": "pytorch_lightning.callbacks:ModelCheckpoint", "dirpath": "C:\\mallory\\secret\\out"}
    ]
    sections["data"]["labels"] = "C:\\mallory\\secret\\labels"
    model.sections = configs.from_mapping(sections)
    model.training_data = model.reference_data["segmentation"] = model.sections.data
    model.licences = {f"{secret}/start.pth": Licences("MIT", source=f"https://example.org/x; {secret}/start.pth")}
    densevit.push_to_hub(run_folder(tmp_path / "run", model), "ann/streets", benchmarks=BENCHMARKS)
    for name, content in hub.files["ann/streets"].items():
        assert b"secret" not in content and b"mallory" not in content, name
    (tmp_path / "model.safetensors").write_bytes(hub.files["ann/streets"]["model.safetensors"])
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        header = file.metadata()
    shown = [*texts(yaml.safe_load(header["config"])), *texts(json.loads(header["licences"]))]
    assert {"streets", "start.pth", "{split}", "labels", "https://example.org/x; start.pth"} <= {*shown}
    assert configs.from_mapping(yaml.safe_load(header["config"])).trainer.callbacks == ()
    densevit.load("hf:ann/streets")  # without trust, which the callback would need
    assert [text for text in shown if re.match(r"[/~]|[A-Z]:", text)] == ["/m/0199g"]  # a class, not a path


# ---- errors ----


@pytest.mark.parametrize(
    ("repository", "token", "arguments", "facts"),
    [
        (
            "ann/streets",
            "",
            {},
            r"ann/streets: not pushed \(.*401.*\)\. Fix: log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("bob/streets", "hf_x", {}, r"bob/streets: not pushed \(.*403.*rights.*\)\. Fix: log in with"),
        ("ann/public", "hf_x", {"private": True}, r"ann/public: not pushed: it is public\. Fix: make it private"),
        ("streets", "hf_x", {}, r"'streets' is not a repository name\. Expected ORG/NAME"),
        ("ann/a--b", "hf_x", {}, r"ann/a--b: not pushed \(.*--.*\)\. Fix: check the name"),
        (
            "ann/streets",
            "hf_x",
            {"benchmarks": {"segmentation/AP": "a/b/c"}},
            r"segmentation/AP: a/b/c: expected the name of a score",
        ),
        (
            "ann/streets",
            "hf_x",
            {"benchmarks": {"segmentation/mIoU": "a/b"}},
            r"segmentation/mIoU: a/b: expected.*ORG/DATASET/TASK",
        ),
        (
            "ann/streets",
            "hf_x",
            {"benchmarks": {"segmentation/aAcc": "a/b/c"}},
            r"segmentation/aAcc: a/b/c: expected the name of a score",
        ),
    ],
)
def test_what_cannot_be_pushed_is_an_error_in_one_line_and_uploads_nothing(
    repository: str,
    token: str,
    arguments: dict[str, Any],
    facts: str,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.create("ann", "public", private=False)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DensevitError, match=facts) as error:
        densevit.push_to_hub(run_folder(tmp_path / "run", small_model()), repository, **arguments)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert not any(hub.files.values())


def test_without_the_library_or_the_network_the_error_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    model = small_model()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(WeightsError, match=r"needs huggingface_hub, which is not installed\. Fix: `pip install"):
            densevit.push_to_hub(model, "ann/streets")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(
        WeightsError, match=r"ann/streets: not pushed \(.*refused.*\)\. Fix: check the name and the network"
    ):
        densevit.push_to_hub(model, "ann/streets")


# ---- without a network ----

PROGRAM = """
import sys, torch, densevit

torch.set_num_threads(1)
pixels, expected = torch.load(sys.argv[1])
with torch.no_grad():
    print(torch.equal(densevit.load("hf:ann/streets")(pixels)["segmentation"]["logits"], expected))
try:
    densevit.load("hf:ann/other")
except densevit.WeightsError as error:
    print(error)
"""


@pytest.mark.integration
def test_offline_the_cached_model_predicts_the_same_and_else_the_error_names_the_file(
    hub: HubServer, tmp_path: Path
) -> None:
    """In a process with the environment variables of the Hub, whose address refuses connections."""
    model = small_model()
    densevit.push_to_hub(model, "ann/streets")
    densevit.load("hf:ann/streets")  # into the cache
    torch.save((PIXELS, logits(model)), tmp_path / "expected.pt")
    variables = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "expected.pt")]
    finished = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True)
    is_same, error = finished.stdout.splitlines()
    assert is_same == "True"
    assert error.startswith("hf:ann/other: not in the cache, and the download failed (OfflineModeIsEnabled")
    assert "Download http://127.0.0.1:9/ann/other/resolve/main/model.safetensors" in error
