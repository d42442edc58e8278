// Checks and memory layouts of the tensors that the operators take.
#pragma once

#include <ATen/ATen.h>

#include <limits>

#include "field.h"

namespace my3dgen {

using at::Tensor;

// Returns the tensor contiguous; throws unless it is a float32 tensor of this shape on the CPU.
inline Tensor plain(const Tensor& t, at::IntArrayRef shape) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.device().is_cpu() && t.sizes() == shape,
              "my3dgen: a float32 tensor ", shape, " on the CPU is expected, not ", t.scalar_type(), " ", t.sizes());
  return t.contiguous();
}

inline Decoder decoder_of(const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1) {
  const Tensor first = plain(w0, {HIDDEN, CHANNELS}), last = plain(w1, {1 + COLORS, HIDDEN});
  const Tensor first_bias = plain(b0, {HIDDEN}), last_bias = plain(b1, {1 + COLORS});
  return {first.data_ptr<float>(), first_bias.data_ptr<float>(), last.data_ptr<float>(), last_bias.data_ptr<float>()};
}

// Planes of all scenes in channels-last order; copied if they have another.
struct Scenes {
  Tensor tensor;
  float scale;

  Scenes(const Tensor& planes, int64_t count, double box_warp) : scale(float(2 / box_warp)) {
    TORCH_CHECK(planes.dim() == 5 && planes.size(0) == count && planes.size(1) == 3 && planes.size(2) == CHANNELS &&
                    planes.scalar_type() == at::kFloat && planes.device().is_cpu(),
                "my3dgen: planes must be float32 [", count, ", 3, 32, P, P], not ", planes.sizes());
    // One scene expanded for several cameras is copied once.
    tensor = planes.stride(0) == 0 ? planes.narrow(0, 0, 1) : planes;
    if (planes.stride(2) != 1) tensor = tensor.permute({0, 1, 3, 4, 2}).contiguous().permute({0, 1, 4, 2, 3});
    tensor = tensor.expand_as(planes);
    TORCH_CHECK(tensor.size(3) * tensor.stride(3) < std::numeric_limits<int32_t>::max(), "my3dgen: planes too large");
  }

  Planes operator[](int64_t b) const {
    return {tensor.data_ptr<float>() + b * tensor.stride(0), tensor.stride(1), tensor.stride(3), tensor.stride(4),
            int(tensor.size(3)), int(tensor.size(4)), scale};
  }
};

}  // namespace my3dgen
