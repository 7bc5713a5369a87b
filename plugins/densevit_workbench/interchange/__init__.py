"""Converts data sets to COCO's format: from YOLO, Pascal VOC, labelme, and COCO itself, with new splits."""
