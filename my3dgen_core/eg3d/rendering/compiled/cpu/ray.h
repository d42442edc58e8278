// Arithmetic of one ray: compositing, importance sampling and sorting, as in compositing.py and rays.py.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

namespace my3dgen {

inline int padded(int n) { return (n + LANES - 1) / LANES * LANES + LANES; }

// Quantities of the n - 1 intervals of a ray of n samples.
struct March {
  std::vector<float> weight, passed, alpha, decay, slope;
  explicit March(int n)
      : weight(padded(n)), passed(padded(n)), alpha(padded(n)), decay(padded(n)), slope(padded(n)) {}
};

// Computes compositing weights along a ray. depths and densities hold padded(n) numbers. `slopes`: also computes
// the derivative of alpha by the raw density, for the backward pass.
inline void march(const float* depths, const float* densities, int n, March& out, bool slopes = false) {
  for (int i = 0; i < n - 1; i += LANES) {
    const V raw = (load(densities + i) + load(densities + i + 1)) * 0.5f - 1.0f;
    const V delta = load(depths + i + 1) - load(depths + i);
    const V decay = exp(-(softplus(raw) * delta));
    store(&out.decay[i], decay);
    store(&out.alpha[i], 1.0f - decay);
    if (slopes) store(&out.slope[i], delta * decay * sigmoid(raw));
  }
  double passed = 1;
  for (int i = 0; i < n - 1; i++) {
    out.passed[i] = float(passed);
    out.weight[i] = out.alpha[i] * out.passed[i];
    passed *= (1.0f - out.alpha[i]) + 1e-10f;
  }
}

// Places fine depths [k] where the coarse weights are large; u [k] in [0, 1]; cdf: scratch of padded(n) numbers.
inline void importance(
    const float* depths, const float* weights, int n, const float* u, int k, float* cdf, float* fine) {
  // Maxima over windows of two (one at the ends), means over windows of two, without the first and the last.
  const int bins = std::max(n - 3, 0);
  const auto peak = [&](int i) { return std::max(weights[i - 1], weights[i]); };
  double total = 0, running = 0;
  float sum = 0;
  for (int i = 0; i < bins; i++) {
    cdf[i + 1] = (peak(i + 1) + peak(i + 2)) / 2 + 0.01f + 1e-5f;
    total += cdf[i + 1];
  }
  sum = float(total);
  cdf[0] = 0;
  for (int i = 1; i <= bins; i++) {
    running += cdf[i] / sum;
    cdf[i] = float(running);
  }
  const auto middle = [&](int i) { return (depths[i] + depths[i + 1]) / 2; };
  for (int j = 0; j < k; j++) {
    int upper = 0;
    for (int i = 0; i <= bins; i++) upper += cdf[i] <= u[j];
    const int lower = std::max(upper - 1, 0);
    upper = std::min(upper, bins);
    float width = cdf[upper] - cdf[lower];
    if (width < 1e-5f) width = 1;
    fine[j] = middle(lower) + (u[j] - cdf[lower]) / width * (middle(upper) - middle(lower));
  }
}

// Sorts order[from, to) by depth; fast for nearly sorted samples, as those along a ray are.
inline void insertion_sort(const float* depths, int* order, int from, int to) {
  for (int i = from + 1; i < to; i++) {
    const int moved = order[i];
    int j = i;
    for (; j > from && depths[order[j - 1]] > depths[moved]; j--) order[j] = order[j - 1];
    order[j] = moved;
  }
}

// Computes the order [n + k], from near to far, of n coarse and k fine depths that are concatenated in `depths`.
inline void sort_samples(const float* depths, int n, int k, int* order, int* scratch) {
  for (int i = 0; i < n + k; i++) scratch[i] = i;
  insertion_sort(depths, scratch, 0, n);
  insertion_sort(depths, scratch, n, n + k);
  std::merge(scratch, scratch + n, scratch + n, scratch + n + k, order, [&](int a, int b) {
    return depths[a] < depths[b];
  });
}

}  // namespace my3dgen
