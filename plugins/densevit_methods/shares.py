"""Limits of options that methods share."""


def check_shares(**shares: float | None) -> None:
    """Raises ValueError unless each is from 0 to 1 or None."""
    for option, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{option} is {share}; a number from 0 to 1 is expected.")
