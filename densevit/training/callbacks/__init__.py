"""Lightning callbacks: what happens around the steps of a training."""
