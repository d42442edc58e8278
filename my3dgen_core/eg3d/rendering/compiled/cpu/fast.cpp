// C functions for quality "fast": culled rendering without gradients, and the density bounds that it relies on.

#include "fast.h"
#include "parallel.h"

using namespace my3dgen;

namespace {

constexpr int BLOCK_RAYS = 64;

}  // namespace

// Arrays as in render.cpp; bounds [2, grids, cells, cells, cells], grids = 1 or b; colors [b, m, COLORS] are weighted
// sums. Returns 0, or 1 where memory runs out.
EXPORT int my3dgen_render_fast(
    const float* planes, int64_t scenes, int64_t height, int64_t width, double box_warp, const float* w0, const float* b0,
    const float* w1, const float* b1, const float* bounds, int64_t grids, int64_t cells, double scale, double shift,
    const float* origins, const float* directions, const float* coarse, const float* u, int64_t b, int64_t m, int64_t n,
    int64_t k, double weight_lost, double share, float* colors, float* depth, float* weight, int64_t threads) {
  return guarded([&] {
    const Scenes fields(planes, scenes, height, width, box_warp);
    const Decoder decoder(w0, b0, w1, b1);
    const int64_t samples = n + k, size = std::clamp<int64_t>(m, 1, BLOCK_RAYS), blocks = (m + size - 1) / size;
    const int64_t volume = cells * cells * cells;
    const Tolerance tolerance{float(weight_lost), float(share)};
    parallel(b * blocks, threads, [&](int64_t first, int64_t last) {
      Points points(size * samples);
      Samples scratch(size, samples);
      for (int64_t block = first; block < last; block++) {
        const int64_t scene = block / blocks, from = block % blocks * size, i = scene * m + from;
        const float* least = bounds + (grids == 1 ? 0 : scene) * volume;
        const Grid grid{least, least + grids * volume, int(cells), float(scale), float(shift)};
        Out out{colors + i * COLORS, depth + i, weight + i, nullptr, nullptr};
        render_block_fast(
            fields[scene], decoder, grid, tolerance, std::min(size, m - from), n, k, origins + 3 * i, directions + 3 * i,
            coarse + i * n, u + i * k, points, scratch, out);
      }
    });
  });
}

// combine_units of density_bounds.py: units [2, cells, cells, HIDDEN] of (y, x) and (z, x) -> [2, z, y, x].
EXPORT int my3dgen_density_bounds(
    const float* xy, const float* xz, const float* weight, const float* bias, int64_t cells, float* out,
    int64_t threads) {
  return guarded([&] {
    parallel(2 * cells, threads, [&](int64_t first, int64_t last) {
      for (int64_t slice = first; slice < last; slice++)
        for (int64_t y = 0; y < cells; y++)
          bound_row(
              xy + (slice / cells * cells + y) * cells * HIDDEN, xz + slice * cells * HIDDEN, weight, *bias, cells,
              out + (slice * cells + y) * cells);
    });
  });
}
