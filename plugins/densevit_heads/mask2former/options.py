"""Nested options of the heads; the defaults are the paper's."""

from dataclasses import dataclass

from densevit.set_prediction.levels import GROUPS
from densevit.set_prediction.limits import MAX_LAYERS, check_counts


@dataclass(frozen=True)
class MaskTransformer:
    """The option `transformer`: the decoder.

    width: channels of tokens, queries and per-pixel embeddings; `num_heads` and `dropout` are also the pixel decoder's.
    feedforward: width of the hidden layer of feed-forward networks.
    """

    width: int = 256
    num_heads: int = 8
    decoder_layers: int = 9
    feedforward: int = 2048
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_counts({"decoder_layers": self.decoder_layers}, 1, MAX_LAYERS)
        check_counts({"num_heads": self.num_heads, "feedforward": self.feedforward})
        if self.width % GROUPS or self.width < GROUPS:
            raise ValueError(f"width is {self.width}; it must be a multiple of {GROUPS}, the groups of the group norm.")
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of num_heads, {self.num_heads}.")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout:g}; expected a probability from 0 to 1.")


@dataclass(frozen=True)
class PixelDecoderOptions:
    """The option `pixel_decoder`.

    layers, feedforward: the number of layers with deformable attention, and the width of their feed-forward networks.
    fusion_blocks: number of residual blocks after a fusion of all features of stride 8 and above to the finest level
    (`FusedProjection`); 0: no fusion. Helps short training from random weights. mask_padding: sets features of padding
    to 0, excludes padding from attention and from positions, here and in the transformer decoder. False: padding is
    part of the image, as in the authors' code, for their weights.
    """

    layers: int = 6
    feedforward: int = 1024
    fusion_blocks: int = 0
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_counts({"layers": self.layers}, 1, MAX_LAYERS)
        check_counts({"feedforward": self.feedforward})
        check_counts({"fusion_blocks": self.fusion_blocks}, 0, MAX_LAYERS)
