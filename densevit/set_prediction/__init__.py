"""Building blocks of DETR-like heads, public for heads of other packages (`docs/own-head.md`).

Box queries: queries, decoder layers, box refinement, denoising, proposals, criterion and predictions. Mask queries:
segments, matching, criterion and predictions.
"""
