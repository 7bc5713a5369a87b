"""Object queries with the denoising queries of training before them (DN-DETR, DINO)."""

from densevit.interfaces import Outputs, Targets
from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import DenoisingQueries, NoisedObjects
from densevit.set_prediction.queries import BoxQueries


def with_denoising(
    denoising: NoisedObjects | None, queries: BoxQueries, targets: list[Targets] | None, outputs: Outputs
) -> tuple[BoxQueries, DenoisingQueries | None]:
    """Prepends the denoising queries of a batch, and adds its `objects` to the outputs.

    denoising, targets: None, as outside of training: returns the queries unchanged, and None.
    """
    if denoising is None or targets is None:
        return queries, None
    outputs["objects"] = objects = Objects.of(targets, queries.boxes.device)
    noised = denoising(objects, queries.boxes.shape[1])
    return noised.prepended_to(queries), noised
