"""Converts data sets of other formats to COCO's: YOLO, Pascal VOC, labelme, and COCO itself, split again."""
