"""Alignments files: every container and generation read into one model, and written back as what they were."""

from gpu_extract.alignments.document import Alignments
from gpu_extract.alignments.face_table import FaceTable, LandmarkGroup
from gpu_extract.alignments.limits import Limits

__all__ = ["Alignments", "FaceTable", "LandmarkGroup", "Limits"]
