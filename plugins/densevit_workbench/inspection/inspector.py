"""What `densevit inspect` shows of a backbone or a head; others' are in the entry-point group `densevit.inspectors`."""

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
    """What `densevit inspect` shows of a backbone or a head; the methods here are the defaults.

    An entry point of the group `densevit.inspectors`. If its name is that of a class with its module, as in
    my_package.my_module.MyNet, it is used for parts of this class and of its subclasses without an inspector. An
    inspector with any other name adds its figures where the user names it: `--inspector NAME`. There is one instance
    for each part and inspection, constructed without arguments.

    part: the backbone or the head. recorded: the attention weights that its modules computed, in this order, by the
    name of the module in the part. outputs: those of the head; empty for a backbone. size: (H, W) of the padded image.
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
        """The attention of each object that a head predicts to the cells of a map that covers the image, (N, h, w), in
        the order of `predict`. Default: None."""
        return None

    def hooks(self, part: Any) -> Sequence[RemovableHandle]:
        """Registers hooks for the forward pass, which keep what `figures` needs; they are removed after it.

        Default: none.
        """
        return ()

    def figures(
        self, part: Any, recorded: Sequence[RecordedAttention], outputs: dict[str, Any], image: Any
    ) -> Sequence[Figure]:
        """Further figures of a backbone or a head. image: (H, W, 3) uint8, as the model sees it. Default: none."""
        return ()
