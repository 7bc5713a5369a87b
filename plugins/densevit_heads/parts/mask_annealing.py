"""The schedule of mask annealing: masked attention is turned off during training, block after block."""

POWER = 0.9  # of the polynomial
_START, _SPAN, _DURATION = 1 / 6, 1 / 2, 1 / 6  # shares of the run, from the authors' configs


def mask_probabilities(progress: float, num_blocks: int, first_duration: float | None = None) -> list[float]:
    """The probability of each block that the attention of a query is masked.

    progress: the share of the run that is done. The probability starts at 1, falls to 0 over a sixth of the run, and
    stays 0. The fall begins at 1/6 of the run in the first block, at 2/3 in the last block, and evenly spaced between.
    first_duration: the share of the run at whose end it is 0 in the first block, where it falls from the start of the
    run on; None: as in the others.
    """
    probabilities = []
    for i in range(num_blocks):
        start, duration = _START + (_SPAN * i / (num_blocks - 1) if num_blocks > 1 else 0.0), _DURATION
        if i == 0 and first_duration is not None:
            start, duration = 0.0, first_duration
        done = min(1.0, max(0.0, (progress - start) / duration))
        probabilities.append((1 - done) ** POWER)
    return probabilities
