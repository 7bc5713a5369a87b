"""Systems of the history of attention in vision, for study and comparison: a file a paper, of public interfaces only."""
