"""DETR's masks of boxes (Carion et al. 2020, section 4.4), for detectors with queries."""
