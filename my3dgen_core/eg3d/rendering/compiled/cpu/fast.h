// Culled rendering of blocks of rays: empty space and hidden samples are skipped. culled.py describes the method.
#pragma once

#include "forward.h"

namespace my3dgen {

constexpr int WAVE = 3;  // samples of a ray decoded before the others are culled again

// Density bounds of one scene: cell i spans [i, i + 1), world coordinate c is at c * scale + shift.
struct Grid {
  const float *least, *greatest;  // [cells, cells, cells], axes z, y, x
  int cells;
  float scale, shift;
};

// Tolerances: weight that a ray may lose, and minimum share of a ray's weight for a color to be decoded; see
// MAX_LOST_WEIGHT and MIN_WEIGHT in culled.py.
struct Tolerance {
  float weight, share;
};

// Samples of the rays of a block, sorted by depth, in one padded row per ray.
struct Samples {
  int width;
  Floats depth, least, greatest;  // bounds of the density; both are the density itself once decoded
  std::vector<int> row;           // row of the sample in the decoded points; -1: not decoded
  // Per ray: number of samples, flag that some may still have to be decoded, first interval of the next search,
  // and the optical depth in front of that interval.
  std::vector<int> count, open, from;
  Floats before, air;             // air: density below which an interval counts as empty

  Samples(int rays, int samples)
      : width(padded(samples)), depth(rays * width), least(rays * width), greatest(rays * width), row(rays * width),
        count(rays), open(rays), from(rays), before(rays), air(rays) {}

  void start(int r, int samples) {
    count[r] = samples;
    open[r] = 1, from[r] = 0, before[r] = 0;
  }
};

// Looks up the bounds of samples [from, to) of ray r.
inline void look_up(const Grid& grid, const float* origin, const float* direction, Samples& s, int r, int from, int to) {
  const int at = r * s.width;
  const float last = grid.cells - 1;
  for (int i = from; i < to; i += LANES) {
    const V depth = load(&s.depth[at + i]);
    VI cell = {};
    for (int axis = 2; axis >= 0; axis--) {
      V place = (origin[axis] * grid.scale + grid.shift) + depth * (direction[axis] * grid.scale);
      place = place > 0.0f ? smaller(place, all(last)) : V{};  // NaN becomes 0: any cell will do
      cell = cell * grid.cells + __builtin_convertvector(place, VI);
    }
    alignas(64) int32_t cells[LANES];
    std::memcpy(cells, &cell, sizeof cells);
    for (int l = 0; l < LANES && i + l < to; l++) {
      s.least[at + i + l] = grid.least[cells[l]];
      s.greatest[at + i + l] = grid.greatest[cells[l]];
    }
  }
}

// Finds up to WAVE samples of ray r, front to back, that may contribute to its pixel and are not decoded yet;
// intervals with NaN count. Everything in front of them is decoded: the next search continues there.
inline int wanted(Samples& s, int r, float air, float hidden, int* samples) {
  const int n = s.count[r], at = r * s.width;
  const float *depth = &s.depth[at], *least = &s.least[at], *greatest = &s.greatest[at];
  float before = s.before[r];
  int found = 0;
  for (int i = s.from[r]; i < n - 1 && !(before > hidden); i++) {
    if (!((greatest[i] + greatest[i + 1]) / 2 < air))
      for (int j = i; j < i + 2; j++)
        if (s.row[at + j] < 0 && (found == 0 || samples[found - 1] != j)) {
          if (found == 0) s.from[r] = i, s.before[r] = before;
          samples[found++] = j;
          if (found == WAVE) return found;
        }
    before += std::max(0.0f, (least[i] + least[i + 1]) / 2 - 1) * (depth[i + 1] - depth[i]);
  }
  return found;
}

// Decodes in waves, front to back, until all samples that may contribute are decoded.
inline void decode_waves(
    const Planes& planes, const Decoder& decoder, const float* origins, const float* directions, Tolerance tolerance,
    int rays, Samples& s, Points& points, int& decoded) {
  const float hidden = -std::log(tolerance.weight);
  std::vector<std::pair<int, int>> asked;  // index in the sample arrays, row of the decoded point
  do {
    asked.clear();
    const int start = decoded;
    for (int r = 0; r < rays; r++) {
      if (!s.open[r]) continue;
      int samples[WAVE];
      const int found = wanted(s, r, s.air[r], hidden, samples);
      s.open[r] = found == WAVE;  // fewer are the last ones, whatever their densities
      for (int i = 0; i < found; i++) {
        const int at = r * s.width + samples[i];
        points.put(decoded, origins + 3 * r, directions + 3 * r, s.depth[at]);
        asked.emplace_back(at, decoded++);
      }
    }
    points.decode_rows(planes, decoder, start, decoded);
    for (const auto& [at, row] : asked) s.least[at] = s.greatest[at] = points.density[row], s.row[at] = row;
  } while (!asked.empty());
}

// Renders a block of rays to weighted sums of colors [rays, COLORS], depth (NaN where nothing was hit) and weight.
inline void render_block_fast(
    const Planes& planes, const Decoder& decoder, const Grid& grid, Tolerance tolerance, int rays, int n, int k,
    const float* origins, const float* directions, const float* coarse, const float* u, Points& points, Samples& s,
    Out& out) {
  int decoded = 0;
  for (int r = 0; r < rays; r++) {
    std::copy_n(coarse + r * n, n, &s.depth[r * s.width]);
    std::fill_n(&s.row[r * s.width], n, -1);
    s.start(r, n);
    s.air[r] = 1 + std::log(std::expm1(tolerance.weight / (coarse[r * n + n - 1] - coarse[r * n])));
    look_up(grid, origins + 3 * r, directions + 3 * r, s, r, 0, n);
  }
  decode_waves(planes, decoder, origins, directions, tolerance, rays, s, points, decoded);

  const int samples = n + k;
  March marched(samples);
  Floats cdf(s.width), fine(samples);
  std::vector<int> order(samples), scratch(samples), before(s.width);
  Floats depth(s.width), least(s.width), greatest(s.width);
  std::vector<char> seeing(rays);
  for (int r = 0; r < rays; r++) {
    const int at = r * s.width;
    seeing[r] = std::any_of(&s.row[at], &s.row[at] + n, [](int row) { return row >= 0; });
    if (!seeing[r] || k == 0) continue;
    march(&s.depth[at], &s.greatest[at], n, marched);
    importance(&s.depth[at], marched.weight.data(), n, u + r * k, k, cdf.data(), &s.depth[at + n]);
    look_up(grid, origins + 3 * r, directions + 3 * r, s, r, n, samples);
    std::fill_n(&s.row[at + n], k, -1);
    sort_samples(&s.depth[at], n, k, order.data(), scratch.data());
    for (int i = 0; i < samples; i++) {
      const int from = at + order[i];
      depth[i] = s.depth[from], least[i] = s.least[from], greatest[i] = s.greatest[from], before[i] = s.row[from];
    }
    std::copy_n(depth.data(), samples, &s.depth[at]);
    std::copy_n(least.data(), samples, &s.least[at]);
    std::copy_n(greatest.data(), samples, &s.greatest[at]);
    std::copy_n(before.data(), samples, &s.row[at]);
    s.start(r, samples);
  }
  decode_waves(planes, decoder, origins, directions, tolerance, rays, s, points, decoded);

  std::fill_n(out.features, rays * COLORS, 0.0f);
  Painter painter(decoder, out.features);
  Floats shares(s.width);
  for (int r = 0; r < rays; r++) {
    out.weight[r] = 0, out.depth[r] = std::numeric_limits<float>::quiet_NaN();
    if (!seeing[r]) continue;
    const int at = r * s.width, count = s.count[r];
    march(&s.depth[at], &s.greatest[at], count, marched);
    float total = 0, middle = 0;
    for (int i = 0; i < count - 1; i++) {
      total += marched.weight[i];
      middle += marched.weight[i] * ((s.depth[at + i] + s.depth[at + i + 1]) / 2);
    }
    float kept = 0;
    for (int i = 0; i < count; i++) {
      const float share = ((i > 0 ? marched.weight[i - 1] : 0) + (i < count - 1 ? marched.weight[i] : 0)) / 2;
      shares[i] = s.row[at + i] >= 0 && !(share <= tolerance.share * total) ? share : 0;
      kept += shares[i];
    }
    for (int i = 0; i < count; i++)
      if (shares[i] != 0)
        painter.add(r, shares[i] * (total / kept), &points.hidden[s.row[at + i] * HIDDEN]);
    out.weight[r] = total, out.depth[r] = middle / total;
  }
  painter.flush();
}

// Combines hidden units [cells, HIDDEN] of XY (xy) and of XZ and ZX together (xz) to the density bounds [cells] of
// a row of cells along x.
inline void bound_row(const float* xy, const float* xz, const float* weight, float bias, int cells, float* out) {
  for (int x = 0; x < cells; x++) {
    V total = {};
    for (int h = 0; h < HIDDEN; h += LANES)
      total += softplus(load(xy + x * HIDDEN + h) + load(xz + x * HIDDEN + h)) * load(weight + h);
    out[x] = sum(total) + bias;
  }
}

}  // namespace my3dgen
