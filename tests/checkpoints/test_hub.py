"""Published weights by name, of generated files."""

import json
import urllib.error
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.fixture
def folder(tmp_path):
    """The files of a repository."""
    (tmp_path / "repository/old").mkdir(parents=True)
    return tmp_path / "repository"


def test_hub_repository_gives_weights_and_metadata(hub, folder):
    save_file(STATE, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    torch.save({"model": STATE}, folder / "old/detr.pth")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    hub.publish("facebook/model", folder)
    found, by_name = read("hf:facebook/model"), read("hf:facebook/model/old/detr.pth")
    for checkpoint in (found, by_name):
        assert_state(checkpoint.tensors)
        assert checkpoint.metadata["licence"] == "cc-by-nc-4.0" and checkpoint.metadata["classes"] == ["cat", "dog"]
    assert found.source == "hf:facebook/model" and found.header == {"format": "pt"}
    assert found.metadata["mean"] == pytest.approx((0.5,) * 3) and found.metadata["std"] == pytest.approx((0.25,) * 3)
    with pytest.raises(WeightsError, match=r"has no detr-r51\.pth\."):
        read("hf:facebook/model/detr-r51.pth")


@pytest.mark.parametrize(
    ("source", "beside"),
    [
        ("hf:facebook/model", " With config.json and preprocessor_config.json, if the repository has them."),
        (f"timm:{SMALL}", ""),
    ],
)
def test_without_a_network_the_error_lists_the_files_to_download(source, beside, no_hub):
    """After one request: the library's own repetitions take minutes."""
    with pytest.raises(WeightsError, match=r"not in the cache, and the download failed.*127\.0\.0\.1") as error:
        read(source)
    repository = source.removeprefix("hf:").replace("timm:", "timm/")
    download = f"{no_hub}/{repository}/resolve/main/model.safetensors"
    message = f"Without a network: name a downloaded file or folder in place of {source}. Download {download}."
    assert str(error.value).endswith(message + beside)
    assert error.value.__suppress_context__ and not error.value.__cause__  # a network library's traceback


# ---- torchvision ----


def test_torchvision_weights_use_its_cache_and_metadata(tmp_path, environment, monkeypatch):
    download = Mock(side_effect=lambda url, file, *_, **__: torch.save(STATE, file))
    environment(TORCH_HOME=tmp_path)
    for name, value in (("_hub_dir", None), ("download_url_to_file", download)):
        monkeypatch.setattr(torch.hub, name, value)
    found = read("torchvision:resnet50/IMAGENET1K_V1")
    assert_state(found.tensors)
    cached = tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"
    url, file, digest, *_ = download.call_args.args
    assert (url, Path(file), digest) == (f"https://download.pytorch.org/models/{cached.name}", cached, "0676ba61")
    assert found.metadata["mean"] == (0.485, 0.456, 0.406) and found.metadata["std"] == (0.229, 0.224, 0.225)
    assert len(found.metadata["classes"]) == 1000 and found.metadata["classes"][:2] == ["tench", "goldfish"]
    read("torchvision:resnet50/IMAGENET1K_V1")
    assert download.call_count == 1  # the second time from the cache
    read("torchvision:resnet50")  # without a name the best weights, IMAGENET1K_V2
    assert Path(download.call_args.args[1]).name == "resnet50-11ad3fa6.pth"

    download.side_effect = urllib.error.URLError("Name or service not known")
    file = "swin_t-704ceda3.pth"
    facts = f"Name or service.*or put it at {tmp_path / 'hub/checkpoints' / file}.*org/models/{file}"
    with pytest.raises(WeightsError, match=facts) as error:
        read("torchvision:swin_t")
    assert error.value.__suppress_context__ and not error.value.__cause__


# ---- timm ----


def test_timm_weights_use_its_download_and_names(hub, folder):
    import timm

    state = {name: torch.randn_like(value) for name, value in timm.create_model(SMALL).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    hub.publish(f"timm/{SMALL}", folder)
    random = torch.get_rng_state()
    found = read(f"timm:{SMALL}")
    assert_state(found.tensors, state)
    assert found.metadata["mean"] == (0.5,) * 3 and found.metadata["std"] == (0.5,) * 3
    assert torch.equal(random, torch.get_rng_state())
    assert_state(read("timm:test_vit").tensors, state)
