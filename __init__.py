"""My3DGen for ComfyUI: nodes that turn photos of one person into a personal 3D head."""

from .nodes.camera.camera import Camera, CameraFromLoad3D, CameraToLoad3D, WidenView
from .nodes.camera.paths import CameraKeyframes, CameraPath
from .nodes.host import first_copy, log
from .nodes.input_bounds import check_inputs
from .nodes.latent.alpha_space import InterpolateLatents, MixAnchors, ProjectAlphaSpace, SampleAlphaSpace
from .nodes.latent.direction_examples import ComponentSheet, DirectionFromExamples
from .nodes.latent.directions import ApplyDirection, FindDirection, LoadDirection
from .nodes.latent.latents import LoadLatents, RandomLatent, SaveLatents
from .nodes.latent.restore import RestorePhotos
from .nodes.output.compare import Compare
from .nodes.output.comparison_grid import ComparisonGrid
from .nodes.output.mesh import ExtractMesh
from .nodes.output.paste import PasteBack
from .nodes.output.render import Render
from .nodes.person.align import AlignFaces
from .nodes.person.blend import InterpolatePersons, MixPersons
from .nodes.person.dataset import LoadEG3DDataset
from .nodes.person.identity import ApplyIdentity, LoadIdentity, SaveIdentity
from .nodes.person.invert import Invert
from .nodes.person.load import LoadDemoPerson, LoadGenerator, LoadPhotos
from .nodes.person.train import PivotalTuning, TrainIdentity

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
    "My3DGenCameraKeyframes": CameraKeyframes,
    "My3DGenCameraFromLoad3D": CameraFromLoad3D,
    "My3DGenWidenView": WidenView,
    "My3DGenRender": Render,
    "My3DGenPasteBack": PasteBack,
    "My3DGenCompare": Compare,
    "My3DGenComparisonGrid": ComparisonGrid,
    "My3DGenRandomLatent": RandomLatent,
    "My3DGenSaveLatents": SaveLatents,
    "My3DGenLoadLatents": LoadLatents,
    "My3DGenSampleAlphaSpace": SampleAlphaSpace,
    "My3DGenMixAnchors": MixAnchors,
    "My3DGenProjectAlphaSpace": ProjectAlphaSpace,
    "My3DGenInterpolateLatents": InterpolateLatents,
    "My3DGenRestorePhotos": RestorePhotos,
    "My3DGenMixPersons": MixPersons,
    "My3DGenInterpolatePersons": InterpolatePersons,
    "My3DGenLoadDirection": LoadDirection,
    "My3DGenFindDirection": FindDirection,
    "My3DGenDirectionFromExamples": DirectionFromExamples,
    "My3DGenComponentSheet": ComponentSheet,
    "My3DGenApplyDirection": ApplyDirection,
    "My3DGenExtractMesh": ExtractMesh,
    "My3DGenLoadEG3DDataset": LoadEG3DDataset,
    "My3DGenCameraToLoad3D": CameraToLoad3D,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "My3DGenLoadGenerator": "Load EG3D Generator",
    "My3DGenLoadPhotos": "Load Photo Folder",
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
    "My3DGenCameraKeyframes": "Camera Keyframes",
    "My3DGenCameraFromLoad3D": "Camera from Load 3D",
    "My3DGenWidenView": "Widen Field of View",
    "My3DGenRender": "Render Head",
    "My3DGenPasteBack": "Paste Back",
    "My3DGenCompare": "Compare with Photos",
    "My3DGenComparisonGrid": "Comparison Grid",
    "My3DGenRandomLatent": "Random Latents",
    "My3DGenSaveLatents": "Save Latents",
    "My3DGenLoadLatents": "Load Latents",
    "My3DGenSampleAlphaSpace": "Sample Alpha Space",
    "My3DGenMixAnchors": "Mix Anchors",
    "My3DGenProjectAlphaSpace": "Project into Alpha Space",
    "My3DGenInterpolateLatents": "Interpolate Latents",
    "My3DGenRestorePhotos": "Inpaint / Super-Resolve Photos",
    "My3DGenMixPersons": "Blend Identities",
    "My3DGenInterpolatePersons": "Interpolate Identities",
    "My3DGenLoadDirection": "Load Direction",
    "My3DGenFindDirection": "Find Direction",
    "My3DGenDirectionFromExamples": "Direction from Examples",
    "My3DGenComponentSheet": "Preview Principal Components",
    "My3DGenApplyDirection": "Apply Direction",
    "My3DGenExtractMesh": "Extract Mesh",
    "My3DGenLoadEG3DDataset": "Load EG3D Dataset",
    "My3DGenCameraToLoad3D": "Camera to Load 3D",
}

WEB_DIRECTORY = "./web"

for _node in NODE_CLASS_MAPPINGS.values():
    check_inputs(_node)

if (_other := first_copy()) is not None:  # emptied in place: the registry reads the literals above
    NODE_CLASS_MAPPINGS.clear()
    NODE_DISPLAY_NAME_MAPPINGS.clear()
    WEB_DIRECTORY = None
    log.error(
        "Two copies of My3DGen are installed. %s is in use; %s does nothing. Delete the second, or the first "
        "to use the second, and restart ComfyUI.",
        _other,
        __path__[0],
    )

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
