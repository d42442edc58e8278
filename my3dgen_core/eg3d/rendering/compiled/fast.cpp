// Operators my3dgen::render_rays_fast and my3dgen::density_bounds on the CPU: culled rendering, without gradients.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

#include "fast.h"
#include "tensors.h"

namespace my3dgen {
namespace {

constexpr int BLOCK_RAYS = 64;

std::tuple<Tensor, Tensor, Tensor> render_rays_fast(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& bounds,
    const Tensor& origins_, const Tensor& directions_, const Tensor& depths_, const Tensor& u_, double box_warp,
    double scale, double shift, double weight_lost, double share) {
  const int64_t b = directions_.size(0), m = directions_.size(1), cells = bounds.size(2);
  const int n = depths_.size(2), k = u_.size(2), samples = n + k;
  const Scenes scenes(planes, b, box_warp);
  const Decoder decoder = decoder_of(w0, b0, w1, b1);
  const Tensor origins = plain(origins_, {b, m, 3}), directions = plain(directions_, {b, m, 3});
  const Tensor coarse = plain(depths_, {b, m, n}), u = plain(u_, {b, m, k});
  TORCH_CHECK(n > 1, "my3dgen: a ray needs at least 2 samples, not ", n);
  const int64_t grids = bounds.size(1);
  TORCH_CHECK(grids == 1 || grids == b, "my3dgen: one grid, or ", b, ", are expected, not ", grids);
  const Tensor limits = plain(bounds, {2, grids, cells, cells, cells});
  const auto options = directions.options();
  Tensor colors = at::empty({b, m, COLORS}, options), depth = at::empty({b, m}, options), weight = at::empty({b, m}, options);
  const int64_t size = std::min<int64_t>(BLOCK_RAYS, m), blocks = (m + size - 1) / size;
  const Tolerance tolerance{float(weight_lost), float(share)};
  at::parallel_for(0, b * blocks, 1, [&](int64_t first, int64_t last) {
    Points points(size * samples);
    Samples scratch(size, samples);
    for (int64_t block = first; block < last; block++) {
      const int64_t scene = block / blocks, from = block % blocks * size, i = scene * m + from;
      const float* least = limits.data_ptr<float>() + (grids == 1 ? 0 : scene) * cells * cells * cells;
      const Grid grid{least, least + grids * cells * cells * cells, int(cells), float(scale), float(shift)};
      Out out{colors.data_ptr<float>() + i * COLORS, depth.data_ptr<float>() + i, weight.data_ptr<float>() + i};
      render_block_fast(
          scenes[scene], decoder, grid, tolerance, std::min(size, m - from), n, k, origins.data_ptr<float>() + 3 * i,
          directions.data_ptr<float>() + 3 * i, coarse.data_ptr<float>() + i * n, u.data_ptr<float>() + i * k, points,
          scratch, out);
    }
  });
  return {colors, depth, weight};
}

// combine_units of density_bounds.py: units [2, cells, cells, HIDDEN] of (y, x) and (z, x) -> [2, z, y, x].
Tensor density_bounds(const Tensor& xy_, const Tensor& xz_, const Tensor& weight_, const Tensor& bias_) {
  const int64_t cells = xy_.size(1);
  const Tensor xy = plain(xy_, {2, cells, cells, HIDDEN}), xz = plain(xz_, {2, cells, cells, HIDDEN});
  const Tensor weight = plain(weight_, {HIDDEN}), bias = plain(bias_, {1});
  const Tensor out = at::empty({2, cells, cells, cells}, xy.options());
  at::parallel_for(0, 2 * cells, 1, [&](int64_t first, int64_t last) {
    for (int64_t slice = first; slice < last; slice++)
      for (int64_t y = 0; y < cells; y++)
        bound_row(
            xy.data_ptr<float>() + (slice / cells * cells + y) * cells * HIDDEN,
            xz.data_ptr<float>() + slice * cells * HIDDEN, weight.data_ptr<float>(), *bias.data_ptr<float>(), cells,
            out.data_ptr<float>() + (slice * cells + y) * cells);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(my3dgen, library) {
  library.def(
      "render_rays_fast(Tensor planes, Tensor w0, Tensor b0, Tensor w1, Tensor b1, Tensor bounds, Tensor origins, "
      "Tensor directions, Tensor depths, Tensor u, float box_warp, float scale, float shift, float weight, float share) "
      "-> (Tensor, Tensor, Tensor)");
  library.def("density_bounds(Tensor xy, Tensor xz, Tensor weight, Tensor bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(my3dgen, CPU, library) {
  library.impl("render_rays_fast", &render_rays_fast);
  library.impl("density_bounds", &density_bounds);
}

}  // namespace my3dgen
