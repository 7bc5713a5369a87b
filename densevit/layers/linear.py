"""The linear layer in the form that is fastest where it runs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST_TOKENS = 256


class Linear(nn.Linear):
    """`nn.Linear`, written as a 1x1 convolution on a CPU with AVX-512 in float32.

    A convolution goes to oneDNN, a linear layer to the BLAS that torch ships, whose float32 products stay on AVX2
    outside Intel's own processors: half the speed there (`tools/benchmarks/linear.py`). In bf16 both go to oneDNN. For
    few tokens it stays a linear layer: the convolution's gradient by its weights is slow then.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not _as_convolution(x):
            return super().forward(x)
        rows = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # (1, C, N, 1): channels last, no copy
        y = F.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


def _as_convolution(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() >= FEWEST_TOKENS * x.shape[-1]
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.get_num_threads() > 1  # with one, torch computes a 1x1 convolution by the same BLAS
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )
