"""Key mappings of convolutions in other projects' checkpoints."""

from densevit.interfaces import Line


def conv_norm(source: str, target: str, norm: str = "norm") -> tuple[Line, Line]:
    """Maps the keys of a convolution, `conv`, with batch norm. source, target: the prefixes of the keys in the
    checkpoint and in the model. norm: the name of the norm in the checkpoint."""
    return Line(f"{source}.conv.*", f"{target}.0.*"), Line(f"{source}.{norm}.*", f"{target}.1.*")
