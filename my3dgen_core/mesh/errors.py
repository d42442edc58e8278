"""The exception of meshes."""


class MeshError(RuntimeError):
    """Error for a density without a surface or a missing package; the message says what to do."""
