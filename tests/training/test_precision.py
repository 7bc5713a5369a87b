from pathlib import Path

import pytest
import torch

from densevit.training import precision
from densevit.training.precision import resolve


class Machine:
    """What the hardware is made out to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.has(cpu="")

    def has(self, gpu_bf16: bool | None = None, mps: bool = False, cpu: str | None = "") -> None:
        """gpu_bf16: None for no GPU. cpu: its flags, None where there is no /proc/cpuinfo."""

        def read_text(path: Path, *args: object, **kwargs: object) -> str:
            assert path == Path("/proc/cpuinfo")
            if cpu is None:
                raise FileNotFoundError(path)
            return f"processor\t: 0\nflags\t\t: fpu sse avx512f {cpu}\nbugs\t: none\n"

        self.patch.setattr(torch.cuda, "is_available", lambda: gpu_bf16 is not None)
        self.patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or gpu_bf16)
        self.patch.setattr(torch.backends.mps, "is_available", lambda: mps)
        self.patch.setattr(precision.Path, "read_text", read_text)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("name", ["32", "16-mixed", "bf16-mixed", "bf16-true", "64"])
def test_a_precision_that_was_chosen_is_kept(name, machine):
    machine.has(gpu_bf16=True, cpu="amx_bf16")
    assert resolve(name) == name


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu_takes_bf16_where_it_multiplies_it_and_fp16_where_it_would_emulate(accelerator, machine):
    machine.has(gpu_bf16=True)
    assert resolve("auto", accelerator) == "bf16-mixed"
    machine.has(gpu_bf16=False)
    assert resolve("auto", accelerator) == "16-mixed"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("amx_bf16 amx_tile", "bf16-mixed"),
        ("avx512_bf16", "bf16-mixed"),
        ("asimd bf16", "bf16-mixed"),  # ARM
        ("avx512_vnni avx512bw", "32-true"),
        ("avx512_bf16x", "32-true"),
        (None, "32-true"),
    ],
)
@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_a_cpu_takes_bf16_where_it_has_products_of_its_own(accelerator, flags, expected, machine):
    machine.has(cpu=flags)
    assert resolve("auto", accelerator) == expected


def test_the_cpu_is_asked_when_it_is_chosen_beside_a_gpu(machine):
    machine.has(gpu_bf16=True, cpu="")
    assert resolve("auto", "cpu") == "32-true"
    machine.has(gpu_bf16=False, cpu="amx_bf16")
    assert resolve("auto", "cpu") == "bf16-mixed"


@pytest.mark.parametrize("accelerator", ["auto", "mps", "gpu"])
def test_apple_s_gpu_takes_fp32(accelerator, machine):
    machine.has(mps=True, cpu=None)
    assert resolve("auto", accelerator) == "32-true"
