"""My3DGen for ComfyUI: photos of one person in, a personal 3D head out."""

from .nodes.align import AlignFaces
from .nodes.camera import Camera, CameraFromLoad3D, CameraPath
from .nodes.compare import Compare
from .nodes.identity import ApplyIdentity, LoadIdentity, SaveIdentity
from .nodes.invert import Invert
from .nodes.load import LoadDemoPerson, LoadGenerator, LoadPhotos
from .nodes.paste import PasteBack
from .nodes.personalize import PivotalTuning, TrainIdentity
from .nodes.render import Render

NODE_CLASS_MAPPINGS = {
    "My3DGenLoadGenerator": LoadGenerator,
    "My3DGenLoadPhotos": LoadPhotos,
    "My3DGenLoadDemoPerson": LoadDemoPerson,
    "My3DGenAlignFaces": AlignFaces,
    "My3DGenInvert": Invert,
    "My3DGenTrainIdentity": TrainIdentity,
    "My3DGenPivotalTuning": PivotalTuning,
    "My3DGenSaveIdentity": SaveIdentity,
    "My3DGenLoadIdentity": LoadIdentity,
    "My3DGenApplyIdentity": ApplyIdentity,
    "My3DGenCamera": Camera,
    "My3DGenCameraPath": CameraPath,
    "My3DGenCameraFromLoad3D": CameraFromLoad3D,
    "My3DGenRender": Render,
    "My3DGenPasteBack": PasteBack,
    "My3DGenCompare": Compare,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "My3DGenLoadGenerator": "Load EG3D Generator",
    "My3DGenLoadPhotos": "Load Photos of a Person",
    "My3DGenLoadDemoPerson": "Load Demo Person",
    "My3DGenAlignFaces": "Align Faces",
    "My3DGenInvert": "Invert Photos",
    "My3DGenTrainIdentity": "Train Identity",
    "My3DGenPivotalTuning": "Pivotal Tuning",
    "My3DGenSaveIdentity": "Save Identity",
    "My3DGenLoadIdentity": "Load Identity",
    "My3DGenApplyIdentity": "Apply Identity",
    "My3DGenCamera": "Camera",
    "My3DGenCameraPath": "Camera Path",
    "My3DGenCameraFromLoad3D": "Camera from Load 3D",
    "My3DGenRender": "Render Head",
    "My3DGenPasteBack": "Paste Back",
    "My3DGenCompare": "Compare with Photos",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
