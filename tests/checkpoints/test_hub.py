"""Published weights by name. Nothing is downloaded: the libraries' downloads are mocked with generated files."""

import json
import socket
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import densevit
from densevit import config as configs
from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from tests.weights.states import STATE, assert_state

SMALL = "test_vit.r160_in1k"  # from timm's own tests, a third of a million parameters


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("hf:bert", r"hf:bert: no repository name\. Expected hf:ORG/NAME"),
        ("torchvision:resnet50/IMAGENET1K_V3", r"no weights 'IMAGENET1K_V3'\. Did you mean 'IMAGENET1K_V"),
        ("timm:test_vjt", r"no model 'test_vjt'\. Did you mean 'test_vit"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(source, facts):
    with pytest.raises(WeightsError, match=facts):
        read(source)


# ---- the Hugging Face Hub ----


class Hub:
    """Repositories in a folder; `requested`: the files looked up over the network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requested, self.failure = folder, [], None
        self.cached: set[str] = set()
        self.tried = 0

    def metadata(self, url, timeout):
        self.tried += 1
        if self.failure is not None:
            raise self.failure

    def download(self, repository, file, local_files_only=False, **_):
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        path = self.folder / repository / file
        if file in self.cached:
            return str(path)
        if local_files_only:
            raise LocalEntryNotFoundError("Cannot find the requested files in the disk cache.")
        self.requested.append(file)
        if self.failure is not None:
            raise LocalEntryNotFoundError("An error happened while trying to locate the file.") from self.failure
        if not path.is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub(tmp_path / "hub")
    (tmp_path / "hub/facebook/model").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.metadata)
    return hub


def test_hub_repository_gives_weights_and_metadata(hub):
    folder = hub.folder / "facebook/model"
    save_file(STATE, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    found = read("hf:facebook/model")
    assert_state(found.tensors)
    assert found.metadata["licence"] == "cc-by-nc-4.0"
    assert found.source == "hf:facebook/model" and found.header == {"format": "pt"}
    assert found.metadata["classes"] == ["cat", "dog"]
    (folder / "old").mkdir()
    torch.save({"model": STATE}, folder / "old/detr.pth")
    by_name = read("hf:facebook/model/old/detr.pth")
    assert_state(by_name.tensors)
    assert by_name.metadata["classes"] == ["cat", "dog"]
    assert found.metadata["mean"] == pytest.approx((0.5,) * 3) and found.metadata["std"] == pytest.approx((0.25,) * 3)


def test_all_hub_shards_are_downloaded(hub):
    folder = hub.folder / "facebook/model"
    where = {"a.weight": "model-00001-of-00002.safetensors", "a.bias": "model-00002-of-00002.safetensors"}
    for name, file in where.items():
        save_file({name: STATE[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert_state(read("hf:facebook/model").tensors)
    assert set(where.values()) < set(hub.requested)


def test_a_published_model_is_that_of_its_file(hub):
    image = torch.randint(256, (40, 50, 3), dtype=torch.uint8).numpy()
    config = configs.from_mapping(
        {
            "backbone": {"name": "resnet", "depth": 18},
            "heads": {"segmentation": {"name": "setr", "decoder": "naive", "width": 16}},
            "data": {"name": "scenes", "image_size": 64},
            "trainer": {"max_steps": 1},
        }
    )
    expected = densevit.create_model(config, classes=["a", "b"]).eval()
    densevit.save(expected, hub.folder / "facebook/model/model.safetensors")
    loaded = densevit.load("hf:facebook/model")
    assert loaded.config == config and loaded.classes == expected.classes
    assert torch.equal(loaded.predict(image).semantic, expected.predict(image).semantic)


def test_a_repository_without_the_file_is_an_error(hub):
    with pytest.raises(WeightsError, match=r"facebook/model has no model\.safetensors or .*Name a file in it: hf:"):
        read("hf:facebook/model")
    with pytest.raises(WeightsError, match=r"has no detr-r51\.pth\."):
        read("hf:facebook/model/detr-r51.pth")


def test_offline_the_cache_is_used_or_the_error_lists_the_files_to_download(hub):
    torch.save(STATE, hub.folder / "facebook/model/pytorch_model.bin")
    hub.failure, hub.cached = ConnectionError("no route"), {"pytorch_model.bin"}
    assert_state(read("hf:facebook/model").tensors)
    hub.failure, hub.cached, hub.tried = ConnectionError("Failed to resolve 'huggingface.co'"), set(), 0
    hub.requested.clear()
    with pytest.raises(WeightsError) as error:
        read("hf:facebook/model")
    message = str(error.value)
    assert "ConnectionError: Failed to resolve 'huggingface.co'" in message
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert f"https://huggingface.co/facebook/model/resolve/main/{file}" in message
    assert "Without a network: name a downloaded file or folder in place of hf:facebook/model." in message
    assert hub.tried == 1 and hub.requested == []  # one request, which is not repeated


@pytest.mark.parametrize("source", ["hf:facebook/model", f"timm:{SMALL}"])
def test_without_network_the_real_library_is_asked_once(source, tmp_path, monkeypatch):
    """At a port that refuses: the library's own repetitions take minutes."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for name in ("HUGGINGFACE_CO_URL_TEMPLATE", "ENDPOINT"):
        value = getattr(constants, name).replace(constants.ENDPOINT, f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(WeightsError, match=r"not in the cache, and the download failed.*127\.0\.0\.1"):
        read(source)


# ---- torchvision ----


@pytest.fixture
def torch_hub(tmp_path, monkeypatch):
    """torch.hub's cache in a folder of its own, and the arguments of its downloads: address, file, digest."""
    requested = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def download(url, file, digest=None, progress=True):
        requested.append((url, Path(file), digest))
        torch.save(STATE, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return requested


def test_torchvision_weights_use_its_cache_and_metadata(torch_hub, tmp_path, monkeypatch):
    found = read("torchvision:resnet50/IMAGENET1K_V1")
    assert_state(found.tensors)
    cached = tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"
    assert torch_hub == [("https://download.pytorch.org/models/resnet50-0676ba61.pth", cached, "0676ba61")]
    assert found.metadata["mean"] == (0.485, 0.456, 0.406) and found.metadata["std"] == (0.229, 0.224, 0.225)
    assert len(found.metadata["classes"]) == 1000 and found.metadata["classes"][:2] == ["tench", "goldfish"]
    read("torchvision:resnet50/IMAGENET1K_V1")
    assert len(torch_hub) == 1  # the second time from the cache
    read("torchvision:resnet50")
    assert torch_hub[1][1].name == "resnet50-11ad3fa6.pth"  # without a name the best weights, IMAGENET1K_V2

    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    file = "swin_t-704ceda3.pth"
    facts = f"Name or service.*or put it at {tmp_path / 'hub/checkpoints' / file}.*org/models/{file}"
    with pytest.raises(WeightsError, match=facts):
        read("torchvision:swin_t")


# ---- timm ----


def test_timm_weights_use_its_download_and_names(tmp_path, monkeypatch):
    import timm

    state = {name: torch.randn_like(value) for name, value in timm.create_model(SMALL).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    requested = []

    def download(repo_id, filename, **_):
        requested.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: pytest.fail("timm downloads"))
    random = torch.get_rng_state()
    found = read(f"timm:{SMALL}")
    assert_state(found.tensors, state)
    assert requested == [(f"timm/{SMALL}", "model.safetensors")]
    assert found.metadata["mean"] == (0.5,) * 3 and found.metadata["std"] == (0.5,) * 3
    assert torch.equal(random, torch.get_rng_state())
    assert_state(read("timm:test_vit").tensors, state)
