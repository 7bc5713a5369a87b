"""Systems of the history of attention in vision, for study and comparison, built from public interfaces only."""
