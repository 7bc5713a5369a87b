"""What heads of the DETR family share: queries, decoder layers, box refinement, denoising, proposals, criterion and
predictions; and the segments, matching, criterion and predictions of mask queries. Public: a head of another package
may be made of them (`docs/own-head.md`).
"""
