// Exact rendering of blocks of rays: both passes, composited to pixels.
#pragma once

#include <limits>

#include "field.h"
#include "ray.h"

namespace my3dgen {

using Floats = std::vector<float>;

constexpr int PIECE = 64;         // samples decoded at a time: they fit the L1 cache
constexpr float NOTHING = 1e-8f;  // colors of lower weight are lost in rounding and not decoded

// Points of a block, with hidden units and densities once decoded; one row per point.
struct Points {
  Floats x, y, z, hidden, density;

  explicit Points(int count)
      : x(padded(count)), y(padded(count)), z(padded(count)), hidden(padded(count) * HIDDEN), density(padded(count)) {}

  void put(int row, const float* origin, const float* direction, float depth) {
    x[row] = origin[0] + depth * direction[0];
    y[row] = origin[1] + depth * direction[1];
    z[row] = origin[2] + depth * direction[2];
  }

  void decode_rows(const Planes& planes, const Decoder& decoder, int from, int to) {
    alignas(64) float features[(PIECE + LANES) * CHANNELS];
    for (int i = from; i < to; i += PIECE) {
      const int n = std::min(PIECE, to - i);
      gather(planes, &x[i], &y[i], &z[i], n, features);
      decode(decoder, features, n, &hidden[i * HIDDEN], &density[i]);
    }
  }
};

// Queue of samples whose colors are to be decoded and added to their rays.
struct Painter {
  const Decoder& decoder;
  float* features;  // [rays of the block, COLORS]
  alignas(64) float hidden[PIECE * HIDDEN], colors[PIECE * COLORS], share[PIECE];
  int ray[PIECE], count = 0;

  Painter(const Decoder& decoder, float* features) : decoder(decoder), features(features) {}

  void add(int r, float part, const float* units) {
    ray[count] = r, share[count] = part;
    std::memcpy(hidden + count * HIDDEN, units, HIDDEN * sizeof(float));
    if (++count == PIECE) flush();
  }

  void flush() {
    colorize(decoder, hidden, count, colors);
    for (int i = 0; i < count; i++)
      for (int c = 0; c < COLORS; c += LANES) {
        float* out = features + ray[i] * COLORS + c;
        store(out, load(out) + share[i] * load(colors + i * COLORS + c));
      }
    count = 0;
  }
};

// Outputs of some rays; `depths` and `densities` of their samples are null where no gradient is wanted.
struct Out {
  float *features, *depth, *weight, *depths, *densities;
  float nearest = std::numeric_limits<float>::infinity(), farthest = -nearest;
};

inline void render_block(
    const Planes& planes, const Decoder& decoder, int rays, int n, int k, const float* origins, const float* directions,
    const float* coarse, const float* u, bool white_back, Points& points, Out& out) {
  const int samples = n + k, width = padded(samples);
  Floats depths(width), densities(width), sorted_depths(width), sorted_densities(width), cdf(width);
  Floats fine(rays * k);
  std::vector<int> order(samples), scratch(samples);
  March marched(samples);
  for (int r = 0; r < rays; r++)
    for (int i = 0; i < n; i++) points.put(r * n + i, origins + 3 * r, directions + 3 * r, coarse[r * n + i]);
  points.decode_rows(planes, decoder, 0, rays * n);
  if (k > 0) {
    for (int r = 0; r < rays; r++) {
      std::copy_n(coarse + r * n, n, depths.data());
      std::copy_n(&points.density[r * n], n, densities.data());
      march(depths.data(), densities.data(), n, marched);
      importance(depths.data(), marched.weight.data(), n, u + r * k, k, cdf.data(), &fine[r * k]);
      for (int j = 0; j < k; j++)
        points.put(rays * n + r * k + j, origins + 3 * r, directions + 3 * r, fine[r * k + j]);
    }
    points.decode_rows(planes, decoder, rays * n, rays * samples);
  }
  std::fill_n(out.features, rays * COLORS, 0.0f);
  Painter painter(decoder, out.features);
  for (int r = 0; r < rays; r++) {
    std::copy_n(coarse + r * n, n, depths.data());
    std::copy_n(fine.data() + r * k, k, depths.data() + n);
    if (k > 0)
      sort_samples(depths.data(), n, k, order.data(), scratch.data());
    else
      for (int i = 0; i < n; i++) order[i] = i;
    const auto row = [&](int i) { return i < n ? r * n + i : rays * n + r * k + i - n; };
    for (int i = 0; i < samples; i++) {
      sorted_depths[i] = depths[order[i]];
      sorted_densities[i] = points.density[row(order[i])];
      out.nearest = std::min(out.nearest, sorted_depths[i]);
      out.farthest = std::max(out.farthest, sorted_depths[i]);
    }
    march(sorted_depths.data(), sorted_densities.data(), samples, marched);
    float total = 0, depth = 0, before = 0;
    for (int i = 0; i < samples; i++) {
      const float after = i < samples - 1 ? marched.weight[i] : 0;
      const float share = (before + after) / 2;
      // The comparison is negated so that NaN is decoded and shows.
      if (!(std::abs(share) < NOTHING)) painter.add(r, share, &points.hidden[row(order[i]) * HIDDEN]);
      if (i < samples - 1) {
        total += after;
        depth += after * ((sorted_depths[i] + sorted_depths[i + 1]) / 2);
      }
      before = after;
    }
    out.weight[r] = total;
    out.depth[r] = depth / total;
    if (out.depths) {
      std::copy_n(sorted_depths.data(), samples, out.depths + r * samples);
      std::copy_n(sorted_densities.data(), samples, out.densities + r * samples);
    }
  }
  painter.flush();
  for (int r = 0; r < rays; r++)
    for (int c = 0; c < COLORS; c++) {
      float& value = out.features[r * COLORS + c];
      value = (value + (white_back ? 1 - out.weight[r] : 0)) * 2 - 1;
    }
}

}  // namespace my3dgen
