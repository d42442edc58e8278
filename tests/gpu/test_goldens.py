"""The reference's outputs on the GPU, with convolutions and super-resolution in float32."""

from __future__ import annotations

from typing import Any

import goldens
import pytest
import torch
from goldens import largest_difference

pytestmark = pytest.mark.usefixtures("exact")


def test_the_goldens_hold_on_the_gpu(figures: Any) -> None:
    io = {key: value.cuda() for key, value in goldens.tensors("tiny_io").items()}
    generator = goldens.tiny().cuda()
    generator.superresolution.block0.fp16 = generator.superresolution.block1.fp16 = False
    with torch.no_grad():
        assert largest_difference(generator.mapping(io["z"], io["c"], 0.7)[:, 0], io["ws_psi0.7"]) <= 1e-5
        planes = generator.planes(io["ws"])
        out = generator.render(io["ws"], io["c"], planes=planes)
    found = {
        "image": largest_difference(out.image, io["syn64.image"]),
        "image_raw": largest_difference(out.image_raw, io["syn64.image_raw_before_sr"]),
        "depth": largest_difference(out.depth, io["syn64.image_depth"]),
    }
    figures["goldens on the GPU, largest differences"] = found
    assert max(found.values()) <= 2e-4
