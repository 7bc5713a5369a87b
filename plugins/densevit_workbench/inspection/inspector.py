"""The base class of inspectors, which tell `densevit inspect` what to show of a backbone or a head."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from densevit_workbench.inspection.attention_layers import (
    AttentionLayer,
    Grid,
    RecordedAttention,
    grid_of,
    layers_on_grids,
)
from densevit_workbench.inspection.figures import Figure


class Inspector:
    """Positions, attention and figures of a backbone or a head for `densevit inspect`.

    Registered by an entry point of the group `densevit.inspectors`. An entry point named like a class, as in
    my_package.my_module.MyNet, inspects parts of this class, and of subclasses without an inspector. An inspector with
    any other name adds its figures on request: `--inspector NAME`. Each part and inspection gets a new instance,
    constructed without arguments.

    part: the backbone or the head. recorded: attention weights in the order of computation, by module names relative to
    the part. outputs: the head's outputs; empty for a backbone. size: (H, W) of the padded image.
    """

    def positions(self, part: Any) -> Tensor | None:
        """The position embeddings of the cells of a backbone's map, (H, W, C). Default: None."""
        return None

    def attention(self, part: Any, recorded: Sequence[RecordedAttention], size: Grid) -> list[AttentionLayer]:
        """The attention of a backbone's layers, on the cells of their maps.

        Default: the layers of global self-attention over ceil(H / s) x ceil(W / s) cells for one of the strides s, with
        at most 16 tokens before the cells. Windows and pooled keys need an inspector of the class.
        """
        return layers_on_grids(recorded, [grid_of(size, stride) for stride in dict.fromkeys(part.strides)])

    def objects(
        self, part: Any, recorded: Sequence[RecordedAttention], outputs: dict[str, Any], size: Grid
    ) -> Tensor | None:
        """The attention (N, h, w) from each predicted object to the cells of a map of the image, in the order of
        `predict`. Default: None."""
        return None

    def hooks(self, part: Any) -> Sequence[RemovableHandle]:
        """Registers hooks that collect values for `figures`; `inspect_model` removes them after the forward pass.

        Default: none.
        """
        return ()

    def figures(
        self, part: Any, recorded: Sequence[RecordedAttention], outputs: dict[str, Any], image: Any
    ) -> Sequence[Figure]:
        """Additional figures. image: (H, W, 3) uint8, the model's input. Default: none."""
        return ()
