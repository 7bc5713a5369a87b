"""The Hugging Face Hub's library, with a server on 127.0.0.1 in place of the Hub, or with none; made-up layouts."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from densevit.interfaces import CheckpointLayout
from densevit.layouts import finding
from tests.checkpoints.hub_server import HubServer, hub_server
from tests.training.process_groups import free_port


def use(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks this address, with an empty cache."""
    from huggingface_hub import constants

    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def hub(tmp_path: Path, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The server, without repositories."""
    environment(HF_TOKEN="hf_x")
    with hub_server() as hub:
        use(hub.address, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address that the library asks; it refuses connections, and waiting to try again fails the test."""
    address = f"http://127.0.0.1:{free_port()}"
    use(address, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
    return address


@pytest.fixture
def only_layouts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, CheckpointLayout]], None]:
    """`only_layouts(layouts)`: these, by name, are all registered layouts."""

    def only_layouts(layouts: Mapping[str, CheckpointLayout]) -> None:
        every = {"find": lambda group: layouts, "load_all": lambda *_: layouts.values()}
        monkeypatch.setattr(finding, "registry", SimpleNamespace(**every, load=lambda group, name: layouts[name]))

    return only_layouts
