"""Preprocessing of photos for EG3D: face crops, camera labels, masks of padded pixels, and a report."""

from .align import AlignedFaces, AlignmentError, align_faces
from .crop import CropTransform, warp_crops, warp_mask
from .detect import FaceModels
from .frame_choice import FrameChoice, choose_frames
from .mediapipe_models import MediaPipeModels
from .packs import FaceModelError
from .paste import paste_back
from .photo_files import PhotoError, list_photos
from .photos import load_photo, read_photos
from .pose import angles_from_labels, labels_from_angles
from .recognition import IdentityNetwork, embed
from .report import FaceReport, contact_sheet, format_report, report_to_json
from .sequence import FrameCut, align_sequence, cut_sequence
from .view_coverage import coverage_plot, describe_coverage

__all__ = [
    "AlignedFaces",
    "AlignmentError",
    "CropTransform",
    "FaceModelError",
    "FaceModels",
    "FaceReport",
    "FrameChoice",
    "FrameCut",
    "IdentityNetwork",
    "MediaPipeModels",
    "PhotoError",
    "align_faces",
    "align_sequence",
    "angles_from_labels",
    "choose_frames",
    "contact_sheet",
    "coverage_plot",
    "cut_sequence",
    "describe_coverage",
    "embed",
    "format_report",
    "labels_from_angles",
    "list_photos",
    "load_photo",
    "paste_back",
    "read_photos",
    "report_to_json",
    "warp_crops",
    "warp_mask",
]
