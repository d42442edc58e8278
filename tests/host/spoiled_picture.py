"""A node pack for the tests: a picture of one value, such as NaN."""

import torch


class SpoiledPicture:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {"default": "nan"})}}

    def make(self, value):
        return (torch.full((4, 64, 64, 3), float(value)),)


NODE_CLASS_MAPPINGS = {"SpoiledPicture": SpoiledPicture}
