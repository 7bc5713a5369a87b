"""What the heads of the DETR family share: criterion, queries, denoising and predictions."""
