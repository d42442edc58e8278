// Operator my3dgen::render_rays on the GPU: calls of the CUDA kernels. Its schema is in render.cpp.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "render.h"

namespace my3dgen {
namespace {

using at::Tensor;

constexpr int MOST_SAMPLES = 2048;         // of a ray: a list of them must fit in shared memory
constexpr int64_t AT_A_TIME = 1 << 23;     // samples at a time where no gradient is wanted: about 200 MB

// Returns the tensor contiguous; throws unless it is a float32 tensor of this shape on the GPU.
Tensor plain(const Tensor& t, at::IntArrayRef shape) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_cuda() && t.sizes() == shape,
              "my3dgen: a float32 tensor ", shape, " on the GPU is expected, not ", t.scalar_type(), " ", t.sizes(), " on ",
              t.device());
  return t.contiguous();
}

// Decoder weights: pointers, and the tensors that own the memory.
struct Weights {
  Tensor w0, b0, w1, b1;
  Decoder decoder;

  Weights(const Tensor& first, const Tensor& first_bias, const Tensor& last, const Tensor& last_bias)
      : w0(plain(first, {HIDDEN, CHANNELS})), b0(plain(first_bias, {HIDDEN})), w1(plain(last, {1 + COLORS, HIDDEN})),
        b1(plain(last_bias, {1 + COLORS})),
        decoder{w0.data_ptr<float>(), b0.data_ptr<float>(), w1.data_ptr<float>(), b1.data_ptr<float>()} {}
};

// Planes of all scenes in channels-last order; copied if they have another.
struct Scenes {
  Tensor tensor;
  Planes planes;

  Scenes(const Tensor& given, int64_t count, double box_warp) {
    TORCH_CHECK(given.dim() == 5 && given.size(0) == count && given.size(1) == 3 && given.size(2) == CHANNELS &&
                    given.scalar_type() == at::kFloat && given.is_cuda(),
                "my3dgen: planes must be float32 [", count, ", 3, 32, P, P] on the GPU, not ", given.sizes());
    const bool one = count > 0 && given.stride(0) == 0;  // one scene expanded for several cameras
    tensor = (one ? given.narrow(0, 0, 1) : given).permute({0, 1, 3, 4, 2}).contiguous();
    if (reinterpret_cast<uintptr_t>(tensor.data_ptr<float>()) % 16) tensor = tensor.clone();
    planes = {tensor.data_ptr<float>(), one ? 0 : tensor.stride(0), int(given.size(3)), int(given.size(4)),
              float(2 / box_warp)};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& depths_, const Tensor& u_, double box_warp, bool white_back, double /*floor*/,
    bool keep) {
  const c10::cuda::CUDAGuard guard(planes.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const int64_t b = directions_.size(0), m = directions_.size(1), count = b * m;
  const int n = depths_.size(2), k = u_.size(2), samples = n + k;
  TORCH_CHECK(n > 1 && samples <= MOST_SAMPLES, "my3dgen: a ray takes 2 to ", MOST_SAMPLES, " samples, not ", samples);
  const Scenes scenes(planes, b, box_warp);
  const Weights weights(w0, b0, w1, b1);
  const Tensor origins = plain(origins_, {b, m, 3}), directions = plain(directions_, {b, m, 3});
  const Tensor coarse = plain(depths_, {b, m, n}), u = plain(u_, {b, m, k});
  const auto options = directions.options();
  const auto floats = [](const Tensor& t, int64_t row = 0) { return t.data_ptr<float>() + row; };
  Tensor features = at::empty({b, m, COLORS}, options), depth = at::empty({b, m}, options), weight = at::empty({b, m}, options);
  Tensor kept_depths = at::empty({keep ? b : 0, m, samples}, options), kept_densities = at::empty_like(kept_depths);
  const int64_t most = keep ? count : std::max<int64_t>(1, AT_A_TIME / samples), rows = std::min(most, count);
  const Tensor raw = at::empty({rows, n}, options), shares = at::empty({rows, samples}, options);
  const Tensor fine = at::empty({rows, k}, options), fine_raw = at::empty({rows, k}, options);
  const Tensor scratch = at::empty({k > 0 ? rows : 0, n}, options);
  const Tensor depths = keep ? kept_depths : at::empty({rows, samples}, options);
  const Tensor densities_ = keep ? kept_densities : at::empty({rows, samples}, options);
  Tensor span = at::empty({2}, options);
  for (int64_t first = 0; first < count; first += rows) {
    const int64_t part = std::min(rows, count - first);
    // A part may begin inside a scene: rays are numbered across all scenes.
    Rays rays{floats(origins), floats(directions), part, m, first};
    const float* near_depths = floats(coarse, first * n);
    C10_CUDA_CHECK(densities(scenes.planes, weights.decoder, rays, near_depths, n, floats(raw), stream));
    if (k > 0) {
      C10_CUDA_CHECK(place(
          part, near_depths, floats(raw), n, floats(u, first * k), k, floats(scratch), floats(fine), stream));
      C10_CUDA_CHECK(densities(scenes.planes, weights.decoder, rays, floats(fine), k, floats(fine_raw), stream));
    }
    C10_CUDA_CHECK(sort(
        part, near_depths, floats(raw), n, floats(fine), floats(fine_raw), k, floats(depths), floats(densities_), stream));
    C10_CUDA_CHECK(composite(
        part, floats(depths), floats(densities_), samples, floats(shares), floats(depth, first), floats(weight, first),
        stream));
    C10_CUDA_CHECK(paint(
        scenes.planes, weights.decoder, rays, floats(depths), floats(shares), floats(weight, first), samples, white_back,
        floats(features, first * COLORS), stream));
    const auto [nearest, farthest] = at::aminmax((keep ? depths.view({count, samples}) : depths).narrow(0, 0, part));
    const Tensor here = at::stack({nearest, farthest});
    span = first == 0 ? here : at::stack({at::minimum(span[0], nearest), at::maximum(span[1], farthest)});
  }
  return {features, depth, weight, span, kept_depths, kept_densities};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays_backward(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& sample_depths, const Tensor& densities, const Tensor& features_,
    const Tensor& depth_, const Tensor& weight_, double box_warp, bool white_back, double floor,
    bool /* learns: the decoder's gradients cost little here */) {
  at::globalContext().alertNotDeterministic("my3dgen::render_rays_backward");  // atomic sums have no fixed order
  const c10::cuda::CUDAGuard guard(planes.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const int64_t b = directions_.size(0), m = directions_.size(1), count = b * m;
  const int samples = sample_depths.size(2);
  const Scenes scenes(planes, b, box_warp);
  const Weights weights(w0, b0, w1, b1);
  const Tensor origins = plain(origins_, {b, m, 3}), directions = plain(directions_, {b, m, 3});
  const Tensor depths = plain(sample_depths, {b, m, samples}), raw = plain(densities, {b, m, samples});
  const Tensor features = plain(features_, {b, m, COLORS});
  const Tensor depth = plain(depth_, {b, m}), weight = plain(weight_, {b, m});
  const auto floats = [](const Tensor& t) { return t.data_ptr<float>(); };
  Tensor gradient = at::zeros({b, 3, planes.size(3), planes.size(4), CHANNELS}, planes.options());
  int blocks = 0;
  C10_CUDA_CHECK(backward_blocks(count, samples, &blocks));
  const Tensor parts = at::empty({blocks, WEIGHTS}, planes.options());
  const Tensor buffers = at::empty({4, count, samples}, planes.options());
  const Tensor kind = at::empty({count, samples}, planes.options().dtype(at::kByte));
  C10_CUDA_CHECK(backward(
      scenes.planes, weights.decoder, {floats(origins), floats(directions), count, m, 0}, floats(depths), floats(raw),
      samples, {floats(features), floats(depth), floats(weight)}, white_back, float(floor),
      {floats(buffers[0]), floats(buffers[1]), floats(buffers[2]), floats(buffers[3]), kind.data_ptr<uint8_t>()},
      floats(gradient), floats(parts), blocks, stream));
  const Tensor sums = parts.sum(0);
  int64_t from = 0;
  const auto piece = [&](at::IntArrayRef shape, int64_t length) {
    const Tensor part = sums.narrow(0, from, length).view(shape).clone();
    from += length;
    return part;
  };
  Tensor d0 = piece({HIDDEN, CHANNELS}, HIDDEN * CHANNELS), e0 = piece({HIDDEN}, HIDDEN);
  Tensor d1 = piece({1 + COLORS, HIDDEN}, (1 + COLORS) * HIDDEN), e1 = piece({1 + COLORS}, 1 + COLORS);
  return {gradient.permute({0, 1, 4, 2, 3}), d0, e0, d1, e1};
}

}  // namespace

TORCH_LIBRARY_IMPL(my3dgen, CUDA, library) {
  library.impl("render_rays", &render_rays);
  library.impl("render_rays_backward", &render_rays_backward);
}

}  // namespace my3dgen
