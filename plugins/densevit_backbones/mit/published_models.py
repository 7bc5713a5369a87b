"""Published MiTs, SegFormer's backbones."""

from densevit.interfaces import PublishedModel

MODELS = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=mit backbone.variant={options}")
    for name, parameters, options in (
        ("hf:nvidia/mit-b0", 3_319_392, "b0"),
        ("hf:nvidia/mit-b1", 13_151_424, "b1"),
        ("hf:nvidia/mit-b2", 24_196_288, "b2"),
        ("hf:nvidia/mit-b3", 44_072_128, "b3"),
        ("hf:nvidia/mit-b4", 60_842_688, "b4"),
        ("hf:nvidia/mit-b5", 81_443_008, "b5"),
    )
}
