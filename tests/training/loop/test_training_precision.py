"""Training precision: automatic selection; each precision trains each head without casting targets."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from densevit.layers.fast import hardware


@pytest.fixture
def resolve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """On mocked hardware. gpu_bf16 is None for no GPU; cpu: its flags, None without /proc/cpuinfo; capability: the
    instructions that torch uses."""
    from densevit.training.loop.training_precision import resolve  # late: Lightning

    has = {"gpu_bf16": None, "mps": False, "cpu": "", "capability": "AVX512", **request.param}

    def read_text(path: Path, *args: object, **kwargs: object) -> str:
        assert path == Path("/proc/cpuinfo")
        if has["cpu"] is None:
            raise FileNotFoundError(path)
        return f"processor\t: 0\nflags\t\t: fpu sse avx512f {has['cpu']}\nbugs\t: none\n"

    replaced = (
        (torch.backends.cpu, "get_cpu_capability", lambda: has["capability"]),
        (torch.cuda, "is_available", lambda: has["gpu_bf16"] is not None),
        (torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or has["gpu_bf16"]),
        (torch.backends.mps, "is_available", lambda: has["mps"]),
        (hardware.Path, "read_text", read_text),
    )
    for owner, name, value in replaced:
        monkeypatch.setattr(owner, name, value)
    hardware._cpu_words.cache_clear()
    yield resolve
    hardware._cpu_words.cache_clear()


@pytest.mark.parametrize(
    ("resolve", "accelerators", "expected"),
    [
        ({"gpu_bf16": True}, ("auto", "gpu", "cuda"), "bf16-mixed"),
        ({"gpu_bf16": False}, ("auto", "gpu"), "16-mixed"),  # emulated
        ({"gpu_bf16": True}, ("cpu",), "32-true"),
        ({"gpu_bf16": False, "cpu": "amx_bf16"}, ("cpu",), "bf16-mixed"),
        ({"cpu": "avx512_bf16"}, ("auto", "cpu"), "bf16-mixed"),
        ({"cpu": "asimd bf16", "capability": "DEFAULT"}, ("cpu",), "bf16-mixed"),  # ARM
        ({"cpu": "avx512_bf16x avx512_vnni"}, ("auto", "cpu"), "32-true"),
        ({"cpu": "avx512_bf16", "capability": "AVX2"}, ("cpu",), "32-true"),  # as by ATEN_CPU_CAPABILITY=avx2
        ({"cpu": None}, ("auto", "cpu"), "32-true"),
        ({"mps": True, "cpu": None}, ("auto", "mps", "gpu"), "32-true"),
    ],
    indirect=["resolve"],
)
def test_the_automatic_precision_is_what_the_hardware_computes_natively(resolve, accelerators, expected):
    for accelerator in accelerators:
        assert resolve("auto", accelerator) == expected
    assert [resolve(name) for name in ("32", "16-mixed", "bf16-true")] == ["32", "16-mixed", "bf16-true"]
