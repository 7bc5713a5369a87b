"""The interface of necks."""

from collections.abc import Sequence

from torch import Tensor, nn

from densevit.constructor_call import Recorded


class Neck(nn.Module, Recorded):
    """Transforms the feature maps for a head (`heads.NAME.neck`).

    needs_images: whether `forward` gets a third argument: the images (B, C, H, W), normalised by ImageNet's mean and
    standard deviation, whatever the backbone's; 0 in the padding.

    Example:
        >>> class Coarsest(densevit.Neck):
        ...     def __init__(self, channels, strides): super().__init__(channels[-1:], strides[-1:])
        ...     def forward(self, features, padding_mask): return features[-1:]
        >>> Coarsest([64, 128], [8, 16]).strides
        (16,)
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    needs_images: bool = False

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Returns features with the neck's `channels` and `strides`.

        padding_mask: (B, H, W) bool of the batch, True = padding; `densevit.layers.positions.mask_on_grid` resizes it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a Neck and must implement forward(features, padding_mask)."
        )
