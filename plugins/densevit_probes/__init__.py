"""Probes of dense features: k-NN, logistic regression and retrieval of patches, correspondence, surface normals."""

from densevit_probes.classification import PatchKnn, PatchLogistic
from densevit_probes.correspondence import ViewCorrespondence
from densevit_probes.normals import SurfaceNormals
from densevit_probes.pixels import Pixels
from densevit_probes.retrieval import PatchRetrieval

__all__ = ["PatchKnn", "PatchLogistic", "PatchRetrieval", "Pixels", "SurfaceNormals", "ViewCorrespondence"]
