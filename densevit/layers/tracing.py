"""Whether a model is traced for an exported file."""

import torch


def is_exporting() -> bool:
    """Whether `torch.export` traces the model, with symbolic sizes; False under torch.compile."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
