"""A node pack for the tests: core's own CLIP, text and image encoder, small and of random weights."""

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import torch

WIDTH = 16
SIZES = {"hidden_size": WIDTH, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
LOOKS = {"hidden_act": "quick_gelu", "image_size": 28, "patch_size": 14, "num_channels": 3}


class Target:
    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params: dict = {}


class SmallCLIP:
    """`projection`: what the text's projection multiplies by. The image encoder's is `width` numbers wide."""

    RETURN_TYPES = ("CLIP", "CLIP_VISION")
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "projection": ("FLOAT", {"default": 1.0, "min": -9.0}),
                "width": ("INT", {"default": 16}),
            }
        }

    def make(self, projection, width):
        text = comfy.sd.CLIP(Target, model_options={"clip_l_model_config": dict(SIZES)})
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.json"
            config.write_text(
                json.dumps(SIZES | LOOKS | {"model_type": "clip_vision_model", "projection_dim": width})
            )
            vision = comfy.clip_vision.ClipVisionModel(str(config))
        for seed, model in enumerate((text.cond_stage_model, vision.model)):
            draw = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.data = torch.randn(parameter.shape, generator=draw).to(parameter) * 0.3
        text.cond_stage_model.clip_l.transformer.text_projection.weight.data = projection * torch.eye(WIDTH)
        return text, vision


NODE_CLASS_MAPPINGS = {"TestsSmallCLIP": SmallCLIP}
