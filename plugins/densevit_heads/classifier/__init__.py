"""Image classification by a linear layer."""

from densevit_heads.classifier.head import Classifier

__all__ = ["Classifier"]
