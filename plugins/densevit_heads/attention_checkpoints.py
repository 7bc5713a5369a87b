"""Key mappings of the attention layers in other projects' checkpoints."""

from densevit.interfaces import Line


def fused_attention(source: str, target: str) -> tuple[Line, ...]:
    """The lines of torch's `nn.MultiheadAttention`, with query, key and value in one tensor."""
    return (
        *(
            Line(f"{source}.in_proj_{x}[{i}/3]", f"{target}.{name}.{x}")
            for x in ("weight", "bias")
            for i, name in enumerate(("query", "key", "value"))
        ),
        Line(f"{source}.out_proj.*", f"{target}.output.*"),
    )


def deformable_attention(source: str, target: str) -> tuple[Line, ...]:
    """The lines of a deformable attention."""
    names = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value"}
    names["output_proj"] = "output"
    return tuple(Line(f"{source}.{name}.*", f"{target}.{part}.*") for name, part in names.items())
