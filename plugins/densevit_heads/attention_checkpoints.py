"""Key mappings of the attention layers in other projects' checkpoints."""

from densevit.interfaces import Line


def fused_attention(theirs: str, ours: str) -> tuple[Line, ...]:
    """The lines of torch's `nn.MultiheadAttention`, with query, key and value in one tensor."""
    return (
        *(
            Line(f"{theirs}.in_proj_{x}[{i}/3]", f"{ours}.{name}.{x}")
            for x in ("weight", "bias")
            for i, name in enumerate(("query", "key", "value"))
        ),
        Line(f"{theirs}.out_proj.*", f"{ours}.output.*"),
    )


def deformable_attention(theirs: str, ours: str) -> tuple[Line, ...]:
    """The lines of a deformable attention."""
    names = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value"}
    names["output_proj"] = "output"
    return tuple(Line(f"{theirs}.{name}.*", f"{ours}.{own}.*") for name, own in names.items())
