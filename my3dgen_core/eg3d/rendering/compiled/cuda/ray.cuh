// Arithmetic along rays: compositing, importance sampling and their gradient, as in compositing.py and rays.py.
#pragma once

#include "field.cuh"

namespace my3dgen {

constexpr float NOTHING = 1e-8f;  // colors of lower weight are lost in rounding and not decoded

// Absorption in the interval between two samples.
struct Interval {
  float delta, raw, decay, alpha;

  __device__ Interval(const float* depths, const float* densities, int i)
      : delta(depths[i + 1] - depths[i]), raw((densities[i] + densities[i + 1]) * 0.5f - 1.0f),
        decay(expf(-(softplus(raw) * delta))), alpha(1.0f - decay) {}

  __device__ float left() const { return (1.0f - alpha) + 1e-10f; }
  __device__ float slope() const { return delta * decay * sigmoid(raw); }  // d alpha / d raw density
};

__device__ inline float middle(const float* depths, int i) { return (depths[i] + depths[i + 1]) / 2; }

// Number of entries <= u among the n ascending entries of cdf.
__device__ inline int search(const float* cdf, int n, float u) {
  int low = 0, high = n;
  while (low < high) {
    const int at = (low + high) / 2;
    if (cdf[at] <= u)
      low = at + 1;
    else
      high = at;
  }
  return low;
}

__global__ void place_kernel(
    int64_t rays, const float* depths, const float* raw, int n, const float* u, int k, float* scratch, float* fine) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray >= rays) return;
  depths += ray * n, raw += ray * n, u += ray * k, fine += ray * k;
  float* cdf = scratch + ray * n;
  // Maxima over windows of two, means over windows of two, without the first and the last.
  const int bins = max(n - 3, 0);
  double passed = 1, total = 0, running = 0;
  float before = 0, peak = 0;
  for (int i = 0; i < n - 1; i++) {
    const Interval interval(depths, raw, i);
    const float weight = interval.alpha * float(passed), higher = fmaxf(before, weight);
    passed *= interval.left();
    if (i > 1) total += cdf[i - 1] = (peak + higher) / 2 + 0.01f + 1e-5f;
    before = weight, peak = higher;
  }
  cdf[0] = 0;
  for (int i = 1; i <= bins; i++) {
    running += cdf[i] / float(total);
    cdf[i] = float(running);
  }
  for (int j = 0; j < k; j++) {
    int upper = search(cdf, bins + 1, u[j]);
    const int lower = max(upper - 1, 0);
    upper = min(upper, bins);
    float width = cdf[upper] - cdf[lower];
    if (width < 1e-5f) width = 1;
    fine[j] = middle(depths, lower) + (u[j] - cdf[lower]) / width * (middle(depths, upper) - middle(depths, lower));
  }
}

// Sorts by depth, one warp per ray: each sample counts the samples in front of it. NaN is behind everything.
__global__ void sort_kernel(
    int64_t rays, const float* depths, const float* raw, int n, const float* fine_depths, const float* fine_raw, int k,
    float* sorted_depths, float* sorted_raw) {
  const int64_t ray = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
  if (ray >= rays) return;
  depths += ray * n, raw += ray * n, fine_depths += ray * k, fine_raw += ray * k;
  const auto depth = [&](int i) { return i < n ? depths[i] : fine_depths[i - n]; };
  for (int i = threadIdx.x % WARP; i < n + k; i += WARP) {
    const float own = depth(i);
    int rank = 0;
    for (int j = 0; j < n + k; j++) {
      const float other = depth(j);
      const bool same = other == own || (isnan(other) && isnan(own));
      rank += other < own || (isnan(own) && !isnan(other)) || (same && j < i);
    }
    sorted_depths[ray * (n + k) + rank] = own;
    sorted_raw[ray * (n + k) + rank] = i < n ? raw[i] : fine_raw[i - n];
  }
}

__global__ void composite_kernel(
    int64_t rays, const float* depths, const float* raw, int n, float* shares, float* depth, float* weight) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray >= rays) return;
  depths += ray * n, raw += ray * n, shares += ray * n;
  double passed = 1;
  float before = 0, total = 0, moment = 0;
  for (int i = 0; i < n - 1; i++) {
    const Interval interval(depths, raw, i);
    const float after = interval.alpha * float(passed);
    passed *= interval.left();
    shares[i] = (before + after) / 2;
    total += after;
    moment += after * middle(depths, i);
    before = after;
  }
  shares[n - 1] = before / 2;
  weight[ray] = total;
  depth[ray] = moment / total;
}

// Role of a sample in the backward pass: not needed, its color is needed, or it gets a gradient.
enum Kind : uint8_t { IDLE, SEEN, KEPT };

__global__ void sift_kernel(
    int64_t rays, const float* depths, const float* raw, int n, float floor, float* weights, float* passed_by, uint8_t* kind) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray >= rays) return;
  depths += ray * n, raw += ray * n, weights += ray * n, passed_by += ray * n, kind += ray * n;
  double passed = 1;
  float before = 0;
  for (int i = 0; i < n; i++) {
    float after = 0;
    if (i < n - 1) {
      const Interval interval(depths, raw, i);
      after = interval.alpha * float(passed);
      passed_by[i] = float(passed);
      passed *= interval.left();
    }
    weights[i] = after;
    const float most = fmaxf(before, after);
    kind[i] = !(floor > 0) || most > floor ? KEPT : most < NOTHING ? IDLE : SEEN;
    before = after;
  }
  // The gradient of a sample depends on the colors of the adjacent samples.
  for (int i = 0; i < n; i++)
    if (kind[i] == IDLE && ((i > 0 && kind[i - 1] == KEPT) || (i < n - 1 && kind[i + 1] == KEPT))) kind[i] = SEEN;
}

// Gradients of raw densities; `seen` holds the products of the samples' colors and the gradients of the features.
__global__ void march_backward_kernel(
    int64_t rays, const float* depths, const float* raw, int n, Incoming in, bool white_back, Buffers buffers) {
  const int64_t ray = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (ray >= rays) return;
  depths += ray * n, raw += ray * n;
  const float *weights = buffers.weights + ray * n, *passed = buffers.passed + ray * n, *seen = buffers.seen + ray * n;
  float* by_density = buffers.by_density + ray * n;
  float whole = 0, total = 0, depth = 0;
  for (int c = 0; c < COLORS; c++) whole += 2 * in.features[ray * COLORS + c];
  for (int i = 0; i < n - 1; i++) {
    total += weights[i];
    depth += weights[i] * middle(depths, i);
  }
  depth = total > 0 ? depth / total : 0;
  const float pull = total > 0 ? in.depth[ray] / total : 0;
  const float shared = in.weight[ray] - (white_back ? whole : 0);
  double behind = 0;
  float after = 0, right = seen[n - 1];
  for (int i = n - 2; i >= 0; i--) {
    const Interval interval(depths, raw, i);
    const float left = seen[i];
    const float by_weight = (left + right) / 2 + shared + pull * (middle(depths, i) - depth);
    const float by_alpha = passed[i] * by_weight - float(behind / interval.left());
    const float before = by_alpha * interval.slope() / 2;
    by_density[i + 1] = before + after;
    behind += weights[i] * by_weight;
    right = left, after = before;
  }
  by_density[0] = after;
}

}  // namespace my3dgen
