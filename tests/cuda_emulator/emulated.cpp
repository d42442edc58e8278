// The CUDA renderer on the CPU, for ctypes: as cuda/glue.cpp puts its steps together, on arrays of the caller's.
#include "render.translated.h"

#include <vector>

using namespace my3dgen;

namespace {

Planes planes_of(const float* data, bool one, int height, int width, float box_warp) {
  return {data, one ? 0 : 3LL * height * width * CHANNELS, height, width, 2 / box_warp};
}

}  // namespace

extern "C" int forward(
    const float* planes, int one, int height, int width, float box_warp, const float* const* w, const float* origins,
    const float* directions, int64_t count, int64_t per_scene, const float* depths, int n, const float* u, int k,
    int white_back, float* sorted_depths, float* sorted_raw, float* features, float* depth, float* weight) {
  const Planes scenes = planes_of(planes, one, height, width, box_warp);
  const Decoder decoder{w[0], w[1], w[2], w[3]};
  const Rays rays{origins, directions, count, per_scene, 0};
  std::vector<float> raw(count * n), scratch(count * n), fine(count * k), fine_raw(count * k), shares(count * (n + k));
  int error = densities(scenes, decoder, rays, depths, n, raw.data(), nullptr);
  if (k > 0) {
    error |= place(count, depths, raw.data(), n, u, k, scratch.data(), fine.data(), nullptr);
    error |= densities(scenes, decoder, rays, fine.data(), k, fine_raw.data(), nullptr);
  }
  error |= sort(count, depths, raw.data(), n, fine.data(), fine_raw.data(), k, sorted_depths, sorted_raw, nullptr);
  error |= composite(count, sorted_depths, sorted_raw, n + k, shares.data(), depth, weight, nullptr);
  error |= paint(scenes, decoder, rays, sorted_depths, shares.data(), weight, n + k, white_back, features, nullptr);
  return error;
}

extern "C" int gradient(
    const float* planes, int one, int height, int width, float box_warp, const float* const* w, const float* origins,
    const float* directions, int64_t count, int64_t per_scene, const float* depths, const float* raw, int samples,
    const float* features, const float* depth, const float* weight, int white_back, float floor, float* planes_gradient,
    float* weights_gradient) {
  const Planes scenes = planes_of(planes, one, height, width, box_warp);
  const Decoder decoder{w[0], w[1], w[2], w[3]};
  const Rays rays{origins, directions, count, per_scene, 0};
  const float nan = NAN;
  std::vector<float> weights(count * samples, nan), passed(weights), seen(weights), by_density(weights);
  std::vector<uint8_t> kind(count * samples);
  int blocks = 0, error = backward_blocks(count, samples, &blocks);
  std::vector<float> parts(blocks * WEIGHTS, nan);
  error |= backward(
      scenes, decoder, rays, depths, raw, samples, {features, depth, weight}, white_back, floor,
      {weights.data(), passed.data(), seen.data(), by_density.data(), kind.data()}, planes_gradient, parts.data(), blocks,
      nullptr);
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < WEIGHTS; i++) weights_gradient[i] += parts[b * WEIGHTS + i];
  return error;
}
