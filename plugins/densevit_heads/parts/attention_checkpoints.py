"""Key mappings of the attention layers in other projects' checkpoints."""

from densevit.interfaces import Line


def fused_attention(source: str, target: str) -> tuple[Line, ...]:
    """Maps the keys of torch's `nn.MultiheadAttention`, whose tensor of query, key and value is split into three.

    source, target: the prefixes of the keys in the checkpoint and in the model.
    """
    return (
        *(
            Line(f"{source}.in_proj_{x}[{i}/3]", f"{target}.{name}.{x}")
            for x in ("weight", "bias")
            for i, name in enumerate(("query", "key", "value"))
        ),
        Line(f"{source}.out_proj.*", f"{target}.output.*"),
    )


def projected_attention(source: str, target: str) -> tuple[Line, ...]:
    """Maps the keys of transformers' attention. source, target: the key of the module there and here."""
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    return tuple(Line(f"{source}.{name}.*", f"{target}.{part}.*") for name, part in names.items())


def deformable_attention(source: str, target: str) -> tuple[Line, ...]:
    """Maps the keys of a deformable attention. source, target: the key of the module there and here."""
    names = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value"}
    names["output_proj"] = "output"
    return tuple(Line(f"{source}.{name}.*", f"{target}.{part}.*") for name, part in names.items())
