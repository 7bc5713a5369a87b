"""Additions of further papers to DETR with boxes as queries."""

from dataclasses import dataclass

from densevit.set_prediction.limits import MAX_LAYERS, check_counts, check_weights


@dataclass(frozen=True)
class Extensions:
    """The option `extensions` of `box_query_detr`: additions for faster convergence, which are off by default.

    stride: finest stride of the features to use, coarser ones are fused into it (`FusedProjection`); None: the
        coarsest only. fusion_blocks: residual convolution blocks after the fusion (RT-DETR).
    position_bias: biases cross-attention by the position of a cell relative to the box (SMCA, Plain DETR;
        `BoxPositionBias`).
    two_stage: initial boxes are the top-scoring proposals, one per cell (Deformable DETR, A.4; `Proposals`), instead of
        learned; the contents stay learned, and are the only tensor whose size depends on the number of queries.
    denoising: number of groups of denoising queries in training (DN-DETR; `Denoising`); 0 disables.
    contrastive_denoising: number of positive denoising queries of an image in training, each with a negative one (DINO;
        `ContrastiveDenoising`); instead of `denoising`; 0 disables.
    dense_loss: weight of a one-to-many loss on all cells in training, with TOOD's assignment (`dense_detection`); it is
        an auxiliary branch as in Co-DETR (Zong et al. 2023); 0 disables.
    """

    stride: int | None = None
    fusion_blocks: int = 0
    position_bias: bool = False
    two_stage: bool = False
    denoising: int = 0
    contrastive_denoising: int = 0
    dense_loss: float = 0.0

    def __post_init__(self) -> None:
        if self.fusion_blocks and self.stride is None:
            raise ValueError("fusion_blocks need fused features. Fix: set stride.")
        check_counts({"fusion_blocks": self.fusion_blocks}, 0, MAX_LAYERS)
        check_counts({"stride": 1 if self.stride is None else self.stride})
        check_weights({"dense_loss": self.dense_loss})
