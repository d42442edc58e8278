// C functions for exact rendering: planes and rays to composited pixels, and the gradient of that.
//
// Arrays are contiguous float32: planes [scenes, 3, height, width, CHANNELS], scenes = 1 or b; w0 [HIDDEN, CHANNELS],
// b0 [HIDDEN], w1 [1 + COLORS, HIDDEN], b1 [1 + COLORS]; origins and directions [b, m, 3]; coarse [b, m, n]; u [b, m, k];
// features [b, m, COLORS]; depth and weight [b, m]. Rays are rendered in blocks whose samples fit the cache. Of all
// samples only depths and densities are stored, and these only where a gradient is wanted.

#include <limits>
#include <vector>

#include "backward.h"
#include "forward.h"
#include "parallel.h"

using namespace my3dgen;

namespace {

constexpr int BLOCK_SAMPLES = 1536;  // samples of a block, with 64 hidden units each: 400 KB
constexpr int SLOTS = 16;  // blocks of rays between two scatters, each with its own weight gradients: sums do not
                           // depend on the number of threads

}  // namespace

// Number of this set of functions: it changes with any of their arguments. INTERFACE in cpu_kernels.py must equal it.
EXPORT int my3dgen_interface() { return 1; }

// span [2]: least and greatest depth of all samples. sample_depths and densities [b, m, n + k] are written where `keep`.
// Returns 0, or 1 where memory runs out.
EXPORT int my3dgen_render(
    const float* planes, int64_t scenes, int64_t height, int64_t width, double box_warp, const float* w0, const float* b0,
    const float* w1, const float* b1, const float* origins, const float* directions, const float* coarse, const float* u,
    int64_t b, int64_t m, int64_t n, int64_t k, int64_t white_back, int64_t keep, float* features, float* depth,
    float* weight, float* span, float* sample_depths, float* densities, int64_t threads) {
  return guarded([&] {
    const Scenes fields(planes, scenes, height, width, box_warp);
    const Decoder decoder(w0, b0, w1, b1);
    const int64_t samples = n + k, size = std::max<int64_t>(1, BLOCK_SAMPLES / samples), blocks = (m + size - 1) / size;
    std::vector<std::pair<float, float>> spans(b * blocks);
    parallel(b * blocks, threads, [&](int64_t first, int64_t last) {
      Points points(size * samples);
      for (int64_t block = first; block < last; block++) {
        const int64_t scene = block / blocks, from = block % blocks * size, i = scene * m + from;
        Out out{features + i * COLORS, depth + i, weight + i, keep ? sample_depths + i * samples : nullptr,
                keep ? densities + i * samples : nullptr};
        render_block(
            fields[scene], decoder, std::min(size, m - from), n, k, origins + 3 * i, directions + 3 * i, coarse + i * n,
            u + i * k, white_back, points, out);
        spans[block] = {out.nearest, out.farthest};
      }
    });
    span[0] = std::numeric_limits<float>::infinity(), span[1] = -span[0];
    for (const auto& [nearest, farthest] : spans)
      span[0] = std::min(span[0], nearest), span[1] = std::max(span[1], farthest);
  });
}

// Gradients of features, depth and weight to those of the planes, in `out` [b, 3, height, width, CHANNELS], and, where
// `learns`, of the decoder's weights, in d0, e0, d1 and e1, shaped like w0, b0, w1 and b1. All are added to what is there.
// sample_depths and densities [b, m, samples] are those of my3dgen_render. Returns 0, or 1 where memory runs out.
EXPORT int my3dgen_render_backward(
    const float* planes, int64_t scenes, int64_t height, int64_t width, double box_warp, const float* w0, const float* b0,
    const float* w1, const float* b1, const float* origins, const float* directions, const float* sample_depths,
    const float* densities, const float* features, const float* depth, const float* weight, int64_t b, int64_t m,
    int64_t samples, int64_t white_back, double floor, int64_t learns, float* out, float* d0, float* e0, float* d1,
    float* e1, int64_t threads) {
  return guarded([&] {
    const Scenes fields(planes, scenes, height, width, box_warp);
    const Decoder decoder(w0, b0, w1, b1);
    const int64_t size = std::max<int64_t>(1, BLOCK_SAMPLES / 2 / samples), blocks = (m + size - 1) / size;
    std::vector<Slot> slots(std::min<int64_t>(SLOTS, blocks), Slot(size * samples));
    for (int64_t scene = 0; scene < b; scene++)
      for (int64_t start = 0; start < blocks; start += SLOTS) {
        const int64_t used = std::min<int64_t>(SLOTS, blocks - start);
        parallel(used, threads, [&](int64_t first, int64_t last) {
          Scratch scratch(size, samples);
          for (int64_t slot = first; slot < last; slot++) {
            const int64_t from = (start + slot) * size, i = scene * m + from;
            const In in{origins + 3 * i,         directions + 3 * i, sample_depths + i * samples, densities + i * samples,
                        features + i * COLORS, depth + i,          weight + i};
            block_backward(
                fields[scene], decoder, learns, std::min(size, m - from), samples, in, white_back, floor, slots[slot],
                scratch);
          }
        });
        // Each thread has its own planes and channels, so that no two write to the same place.
        constexpr int PARTS = CHANNELS / LANES;
        const Planes target = fields[scene];
        float* gradient = out + scene * fields.size;
        parallel(3 * PARTS, threads, [&](int64_t first, int64_t last) {
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
    const auto add = [](float* to, const float* from, int count) {
      for (int i = 0; i < count; i++) to[i] += from[i];
    };
    if (learns)
      for (const Slot& slot : slots) {
        add(d0, slot.weights.w0, HIDDEN * CHANNELS), add(e0, slot.weights.b0, HIDDEN);
        add(d1, slot.weights.w1, (1 + COLORS) * HIDDEN), add(e1, slot.weights.b1, 1 + COLORS);
      }
  });
}
