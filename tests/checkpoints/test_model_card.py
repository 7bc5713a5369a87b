"""The files that `push_to_hub` writes: the card, its metadata and licences, and no text of the machine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

import densevit
from densevit import config as configs
from densevit.interfaces import Licences
from tests.checkpoints.hub_server import HubServer
from tests.checkpoints.test_hub_upload import MIT, run_folder, small_model

BENCHMARKS = {"segmentation/mIoU": "ann/streets-data/miou"}


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


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
