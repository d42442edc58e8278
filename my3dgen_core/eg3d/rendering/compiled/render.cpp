// Operator my3dgen::render_rays on the CPU: planes and rays to composited pixels, and its gradient.
//
// Rays are rendered in blocks whose samples fit the cache. Of all samples only depths and densities are stored,
// and these only where a gradient is wanted.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "backward.h"
#include "forward.h"
#include "tensors.h"

namespace my3dgen {
namespace {

constexpr int BLOCK_SAMPLES = 1536;  // samples of a block, with 64 hidden units each: 400 KB
constexpr int SLOTS = 16;  // blocks of rays between two scatters, each with its own weight gradients: sums do not
                           // depend on the number of threads

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& depths_, const Tensor& u_, double box_warp, bool white_back, double /*floor*/,
    bool keep) {
  const int64_t b = directions_.size(0), m = directions_.size(1);
  const int n = depths_.size(2), k = u_.size(2), samples = n + k;
  const Scenes scenes(planes, b, box_warp);
  const Decoder decoder = decoder_of(w0, b0, w1, b1);
  const Tensor origins = plain(origins_, {b, m, 3}), directions = plain(directions_, {b, m, 3});
  const Tensor coarse = plain(depths_, {b, m, n}), u = plain(u_, {b, m, k});
  TORCH_CHECK(n > 1, "my3dgen: a ray needs at least 2 samples, not ", n);
  const auto options = directions.options();
  Tensor features = at::empty({b, m, COLORS}, options), depth = at::empty({b, m}, options), weight = at::empty({b, m}, options);
  Tensor sample_depths = at::empty({keep ? b : 0, m, samples}, options), densities = at::empty_like(sample_depths);
  const int64_t size = std::max(1, BLOCK_SAMPLES / samples), blocks = (m + size - 1) / size;
  std::vector<std::pair<float, float>> spans(b * blocks);
  at::parallel_for(0, b * blocks, 1, [&](int64_t first, int64_t last) {
    Points points(size * samples);
    for (int64_t block = first; block < last; block++) {
      const int64_t scene = block / blocks, from = block % blocks * size, i = scene * m + from;
      Out out{features.data_ptr<float>() + i * COLORS, depth.data_ptr<float>() + i, weight.data_ptr<float>() + i,
              keep ? sample_depths.data_ptr<float>() + i * samples : nullptr,
              keep ? densities.data_ptr<float>() + i * samples : nullptr};
      render_block(
          scenes[scene], decoder, std::min(size, m - from), n, k, origins.data_ptr<float>() + 3 * i,
          directions.data_ptr<float>() + 3 * i, coarse.data_ptr<float>() + i * n, u.data_ptr<float>() + i * k, white_back,
          points, out);
      spans[block] = {out.nearest, out.farthest};
    }
  });
  Tensor span = at::empty({2}, options);
  float* limits = span.data_ptr<float>();
  limits[0] = std::numeric_limits<float>::infinity(), limits[1] = -limits[0];
  for (const auto& [nearest, farthest] : spans)
    limits[0] = std::min(limits[0], nearest), limits[1] = std::max(limits[1], farthest);
  return {features, depth, weight, span, sample_depths, densities};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays_backward(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& sample_depths, const Tensor& densities, const Tensor& features_,
    const Tensor& depth_, const Tensor& weight_, double box_warp, bool white_back, double floor, bool learns) {
  const int64_t b = directions_.size(0), m = directions_.size(1);
  const int samples = sample_depths.size(2);
  const Scenes scenes(planes, b, box_warp);
  const Decoder decoder = decoder_of(w0, b0, w1, b1);
  const Tensor origins = plain(origins_, {b, m, 3}), directions = plain(directions_, {b, m, 3});
  const Tensor depths = plain(sample_depths, {b, m, samples}), raw = plain(densities, {b, m, samples});
  const Tensor features = plain(features_, {b, m, COLORS});
  const Tensor depth = plain(depth_, {b, m}), weight = plain(weight_, {b, m});
  const int64_t size = std::max(1, BLOCK_SAMPLES / 2 / samples), blocks = (m + size - 1) / size;
  Tensor out = at::zeros({b, 3, planes.size(3), planes.size(4), CHANNELS}, planes.options());
  std::vector<Slot> slots(std::min<int64_t>(SLOTS, blocks), Slot(size * samples));
  for (int64_t scene = 0; scene < b; scene++)
    for (int64_t start = 0; start < blocks; start += SLOTS) {
      const int64_t used = std::min<int64_t>(SLOTS, blocks - start);
      at::parallel_for(0, used, 1, [&](int64_t first, int64_t last) {
        Scratch scratch(size, samples);
        for (int64_t slot = first; slot < last; slot++) {
          const int64_t from = (start + slot) * size, i = scene * m + from;
          const In in{origins.data_ptr<float>() + 3 * i, directions.data_ptr<float>() + 3 * i,
                      depths.data_ptr<float>() + i * samples, raw.data_ptr<float>() + i * samples,
                      features.data_ptr<float>() + i * COLORS, depth.data_ptr<float>() + i, weight.data_ptr<float>() + i};
          block_backward(
              scenes[scene], decoder, learns, std::min(size, m - from), samples, in, white_back, floor, slots[slot],
              scratch);
        }
      });
      // Each thread has its own planes and channels, so that no two write to the same place.
      constexpr int PARTS = CHANNELS / LANES;
      Planes target = scenes[scene];
      target.plane = out.stride(1), target.row = out.stride(2), target.column = out.stride(3);
      float* gradient = out.data_ptr<float>() + scene * out.stride(0);
      at::parallel_for(0, 3 * PARTS, 1, [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; unit++)
          for (int64_t slot = 0; slot < used; slot++) {
            const Points& p = slots[slot].points;
            const int channel = unit % PARTS * LANES;
            scatter(
                target, unit / PARTS, p.x.data(), p.y.data(), p.z.data(), slots[slot].count,
                slots[slot].gradient.data() + channel, gradient + channel);
          }
      });
    }
  const auto options = planes.options();
  Tensor d0 = at::zeros({HIDDEN, CHANNELS}, options), e0 = at::zeros({HIDDEN}, options);
  Tensor d1 = at::zeros({1 + COLORS, HIDDEN}, options), e1 = at::zeros({1 + COLORS}, options);
  const auto add = [](const Tensor& to, const float* from) {
    for (int64_t i = 0; i < to.numel(); i++) to.data_ptr<float>()[i] += from[i];
  };
  for (const Slot& slot : slots)
    if (learns) add(d0, slot.weights.w0), add(e0, slot.weights.b0), add(d1, slot.weights.w1), add(e1, slot.weights.b1);
  return {out.permute({0, 1, 4, 2, 3}), d0, e0, d1, e1};
}

}  // namespace

TORCH_LIBRARY(my3dgen, library) {
  library.def(
      "render_rays(Tensor planes, Tensor w0, Tensor b0, Tensor w1, Tensor b1, Tensor origins, Tensor directions, "
      "Tensor depths, Tensor u, float box_warp, bool white_back, float floor, bool keep) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "render_rays_backward(Tensor planes, Tensor w0, Tensor b0, Tensor w1, Tensor b1, Tensor origins, "
      "Tensor directions, Tensor sample_depths, Tensor densities, Tensor features, Tensor depth, Tensor weight, "
      "float box_warp, bool white_back, float floor, bool learns) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(my3dgen, CPU, library) {
  library.impl("render_rays", &render_rays);
  library.impl("render_rays_backward", &render_rays_backward);
}

}  // namespace my3dgen
