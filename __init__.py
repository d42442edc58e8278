"""My3DGen for ComfyUI: photos of one person in, a personal 3D head out."""

from .nodes.align import AlignFaces
from .nodes.camera import CameraPath
from .nodes.compare import Compare
from .nodes.invert import Invert
from .nodes.load import LoadDemoPerson, LoadGenerator, LoadPhotos
from .nodes.personalize import ApplyIdentity, LoadIdentity, SaveIdentity, TrainIdentity
from .nodes.render import Render

NODE_CLASS_MAPPINGS = {
    "My3DGenLoadGenerator": LoadGenerator,
    "My3DGenLoadPhotos": LoadPhotos,
    "My3DGenLoadDemoPerson": LoadDemoPerson,
    "My3DGenAlignFaces": AlignFaces,
    "My3DGenInvert": Invert,
    "My3DGenTrainIdentity": TrainIdentity,
    "My3DGenSaveIdentity": SaveIdentity,
    "My3DGenLoadIdentity": LoadIdentity,
    "My3DGenApplyIdentity": ApplyIdentity,
    "My3DGenCameraPath": CameraPath,
    "My3DGenRender": Render,
    "My3DGenCompare": Compare,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "My3DGenLoadGenerator": "Load EG3D Generator",
    "My3DGenLoadPhotos": "Load Photos of a Person",
    "My3DGenLoadDemoPerson": "Load Demo Person",
    "My3DGenAlignFaces": "Align Faces",
    "My3DGenInvert": "Invert Photos",
    "My3DGenTrainIdentity": "Train Identity",
    "My3DGenSaveIdentity": "Save Identity",
    "My3DGenLoadIdentity": "Load Identity",
    "My3DGenApplyIdentity": "Apply Identity",
    "My3DGenCameraPath": "Camera Path",
    "My3DGenRender": "Render Head",
    "My3DGenCompare": "Compare with Photos",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
