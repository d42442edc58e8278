// Backward pass of volume rendering: gradients of pixels to gradients of planes and decoder, by blocks of rays.
#pragma once

#include "forward.h"

namespace my3dgen {

struct WeightGradients {
  alignas(64) float w0[HIDDEN * CHANNELS] = {}, b0[HIDDEN] = {}, w1[(1 + COLORS) * HIDDEN] = {}, b1[1 + COLORS] = {};
};

// Result of the backward pass of one block of rays: gradients [count, CHANNELS] of mean features at points,
// which are scattered to the planes later, and gradients of the decoder weights.
struct Slot {
  Points points;
  Floats gradient;
  int count = 0;
  WeightGradients weights;
  explicit Slot(int rows) : points(rows), gradient(padded(rows) * CHANNELS) {}
};

// Buffers of one thread, with a row for each sample or ray of a block.
struct Scratch {
  Floats features, colors, color_gradient, density_gradient, hidden_gradient, depths, densities, interval;
  std::vector<int> row;
  std::vector<March> marched;
  Scratch(int rays, int samples)
      : features(padded(rays * samples) * CHANNELS), colors(padded(rays * samples) * COLORS),
        color_gradient(padded(rays * samples) * COLORS), density_gradient(padded(rays * samples)),
        hidden_gradient(padded(rays * samples) * HIDDEN), depths(rays * padded(samples)),
        densities(rays * padded(samples)), interval(padded(samples)), row(rays * samples),
        marched(rays, March(samples)) {}
};

// Inputs of the backward pass for some rays: rays, samples, and gradients of features, depth and weight.
struct In {
  const float *origins, *directions, *depths, *densities, *features, *depth, *weight;
};

INLINE float dot(const float* a, const float* b) {
  V total = {};
  for (int c = 0; c < COLORS; c += LANES) total += load(a + c) * load(b + c);
  return sum(total);
}

// Gradients of the raw densities and colors of one ray, for samples whose row is below `kept`.
inline void march_backward(
    const float* depths, const March& marched, int samples, const int* row, int kept, const In& in, int r, bool white_back,
    Scratch& s) {
  float tint[COLORS], whole = 0, total = 0, depth = 0;
  for (int c = 0; c < COLORS; c++) whole += tint[c] = 2 * in.features[r * COLORS + c];
  for (int i = 0; i < samples - 1; i++) {
    total += marched.weight[i];
    depth += marched.weight[i] * ((depths[i] + depths[i + 1]) / 2);
  }
  depth = total > 0 ? depth / total : 0;
  const float pull = total > 0 ? in.depth[r] / total : 0;
  const float shared = in.weight[r] - (white_back ? whole : 0);
  const auto seen = [&](int i) { return row[i] < 0 ? 0.0f : dot(tint, &s.colors[row[i] * COLORS]); };
  double behind = 0;
  float right = seen(samples - 1);
  for (int i = samples - 2; i >= 0; i--) {
    const float left = seen(i);
    const float by_weight = (left + right) / 2 + shared + pull * ((depths[i] + depths[i + 1]) / 2 - depth);
    const float by_alpha = marched.passed[i] * by_weight - float(behind / ((1.0f - marched.alpha[i]) + 1e-10f));
    s.interval[i] = by_alpha * marched.slope[i] / 2;
    behind += marched.weight[i] * by_weight;
    right = left;
  }
  for (int i = 0; i < samples; i++) {
    if (row[i] < 0 || row[i] >= kept) continue;
    const bool first = i == 0, last = i == samples - 1;
    s.density_gradient[row[i]] = (first ? 0 : s.interval[i - 1]) + (last ? 0 : s.interval[i]);
    const float share = ((first ? 0 : marched.weight[i - 1]) + (last ? 0 : marched.weight[i])) / 2;
    for (int c = 0; c < COLORS; c++) {
      const float bright = (s.colors[row[i] * COLORS + c] + 0.001f) / 1.002f;
      s.color_gradient[row[i] * COLORS + c] = tint[c] * share * 1.002f * bright * (1 - bright);
    }
  }
}

// Backward pass of the decoder: gradients of its outputs to those of its inputs and, if `learns`, of its weights.
inline void decode_backward(const Decoder& decoder, bool learns, Slot& slot, Scratch& s) {
  const int n = slot.count;
  WeightGradients& out = slot.weights;
  const float* hidden = slot.points.hidden.data();
  product<COLORS, HIDDEN>(s.color_gradient.data(), n, decoder.w1 + HIDDEN, nullptr, s.hidden_gradient.data());
  if (learns) outer<COLORS, HIDDEN>(s.color_gradient.data(), hidden, n, out.w1 + HIDDEN);
  for (int i = 0; i < n; i++) {
    const float density = s.density_gradient[i];
    out.b1[0] += density;
    for (int c = 0; c < COLORS; c++) out.b1[1 + c] += s.color_gradient[i * COLORS + c];
    for (int h = 0; h < HIDDEN; h += LANES) {
      const V unit = load(hidden + i * HIDDEN + h);
      // The derivative of softplus is a function of its value.
      const V g = (load(&s.hidden_gradient[i * HIDDEN + h]) + density * load(decoder.w1 + h)) * (1.0f - exp(-unit));
      store(&s.hidden_gradient[i * HIDDEN + h], g);
      store(out.b0 + h, load(out.b0 + h) + g);
      store(out.w1 + h, load(out.w1 + h) + density * unit);
    }
  }
  if (learns) outer<HIDDEN, CHANNELS>(s.hidden_gradient.data(), s.features.data(), n, out.w0);
  product<HIDDEN, CHANNELS>(s.hidden_gradient.data(), n, decoder.w0, nullptr, slot.gradient.data());
}

inline void block_backward(
    const Planes& planes, const Decoder& decoder, bool learns, int rays, int samples, const In& in, bool white_back,
    float floor, Slot& slot, Scratch& s) {
  const int width = padded(samples);
  enum { IDLE = -1, SEEN = -2, KEPT = -3 };
  for (int r = 0; r < rays; r++) {
    float *depths = &s.depths[r * width], *densities = &s.densities[r * width];
    std::copy_n(in.depths + r * samples, samples, depths);
    std::copy_n(in.densities + r * samples, samples, densities);
    March& marched = s.marched[r];
    march(depths, densities, samples, marched, true);
    // KEPT samples get a gradient. It depends on the colors of the adjacent and of all visible samples (SEEN).
    int* row = &s.row[r * samples];
    const auto weight = [&](int i) { return i < 0 || i > samples - 2 ? 0.0f : marched.weight[i]; };
    for (int i = 0; i < samples; i++) {
      const float most = std::max(weight(i - 1), weight(i));
      row[i] = !(floor > 0) || most > floor ? KEPT : most < NOTHING ? IDLE : SEEN;
    }
    for (int i = 0; i < samples; i++)
      if (row[i] == IDLE && ((i > 0 && row[i - 1] == KEPT) || (i < samples - 1 && row[i + 1] == KEPT))) row[i] = SEEN;
  }
  int rows = 0;
  for (const int kind : {KEPT, SEEN}) {
    for (int j = 0; j < rays * samples; j++)
      if (s.row[j] == kind) {
        const int r = j / samples;
        slot.points.put(rows, in.origins + 3 * r, in.directions + 3 * r, in.depths[j]);
        s.row[j] = rows++;
      }
    if (kind == KEPT) slot.count = rows;
  }
  if (slot.count == 0) return;
  Points& p = slot.points;
  gather(planes, p.x.data(), p.y.data(), p.z.data(), rows, s.features.data());
  decode(decoder, s.features.data(), rows, p.hidden.data(), p.density.data());
  colorize(decoder, p.hidden.data(), rows, s.colors.data());
  for (int r = 0; r < rays; r++)
    march_backward(
        &s.depths[r * width], s.marched[r], samples, &s.row[r * samples], slot.count, in, r, white_back, s);
  decode_backward(decoder, learns, slot, s);
}

}  // namespace my3dgen
