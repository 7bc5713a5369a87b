"""Data sets: COCO files, folders of label maps and of depth maps, and mixes of several."""
