// The operator my3dgen::render_rays on the CPU: planes and rays in, composited pixels out, and its gradient.
//
// Rays are worked on in blocks whose samples stay in the cache; nothing the size of all samples is ever made
// but their depths and densities, and these only where a gradient will be asked for.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "field.h"
#include "ray.h"

namespace my3dgen {
namespace {

using at::Tensor;
using Floats = std::vector<float>;

constexpr int BLOCK_SAMPLES = 1536;  // with 64 hidden units each: 400 KB
constexpr int PIECE = 64;            // samples decoded at a time: what lies in the innermost cache
constexpr float NOTHING = 1e-8f;     // colours that weigh less would be lost in rounding: they are not decoded
constexpr int SLOTS = 16;  // blocks of rays between two scatters, each with weight gradients of its own: sums do
                           // not depend on how many threads there are

Tensor plain(const Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.device().is_cpu(), "my3dgen: float32 tensors on the CPU expected");
  return t.contiguous();
}

// Planes with their channels side by side: as they are where they lie so already, else a copy.
struct Scenes {
  Tensor tensor;
  float scale;

  Scenes(const Tensor& planes, double box_warp) : tensor(planes), scale(float(2 / box_warp)) {
    TORCH_CHECK(planes.dim() == 5 && planes.size(1) == 3 && planes.size(2) == CHANNELS &&
                    planes.scalar_type() == at::kFloat,
                "my3dgen: planes must be float32 [B, 3, 32, P, P], not ", planes.sizes());
    if (planes.stride(2) != 1) tensor = planes.permute({0, 1, 3, 4, 2}).contiguous().permute({0, 1, 4, 2, 3});
    TORCH_CHECK(tensor.size(3) * tensor.stride(3) < std::numeric_limits<int32_t>::max(), "my3dgen: planes too large");
  }

  Planes operator[](int64_t b) const {
    return {tensor.data_ptr<float>() + b * tensor.stride(0), tensor.stride(1), tensor.stride(3), tensor.stride(4),
            int(tensor.size(3)), int(tensor.size(4)), scale};
  }
};

// Points of a block with what the decoder made of them: rows of the arrays.
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

// Samples whose colours are still to be decoded and added to their rays.
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

// Outputs of some rays; `depths` and `densities` of their samples are null where nobody asked to keep them.
struct Out {
  float *features, *depth, *weight, *depths, *densities;
  float nearest = std::numeric_limits<float>::infinity(), farthest = -nearest;
};

void render_block(
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
      // Written so that a NaN is decoded and seen.
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& depths_, const Tensor& u_, double box_warp, bool white_back, double /*floor*/,
    bool keep) {
  const Scenes scenes(planes, box_warp);
  const Decoder decoder(
      plain(w0).data_ptr<float>(), plain(b0).data_ptr<float>(), plain(w1).data_ptr<float>(), plain(b1).data_ptr<float>());
  const Tensor origins = plain(origins_), directions = plain(directions_), coarse = plain(depths_), u = plain(u_);
  const int64_t b = directions.size(0), m = directions.size(1);
  const int n = coarse.size(2), k = u.size(2), samples = n + k;
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

struct WeightGradients {
  alignas(64) float w0[HIDDEN * CHANNELS] = {}, b0[HIDDEN] = {}, w1[(1 + COLORS) * HIDDEN] = {}, b1[1 + COLORS] = {};
};

// What one block of rays leaves for the scatter: gradients [count, CHANNELS] of mean features at points.
struct Slot {
  Points points;
  Floats gradient;
  int count = 0;
  WeightGradients weights;
  explicit Slot(int rows) : points(rows), gradient(padded(rows) * CHANNELS) {}
};

// Buffers of a thread, rows of samples and of the block's rays.
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

// What comes back along some rays, and what they were.
struct In {
  const float *origins, *directions, *depths, *densities, *features, *depth, *weight;
};

INLINE float dot(const float* a, const float* b) {
  V total = {};
  for (int c = 0; c < COLORS; c += LANES) total += load(a + c) * load(b + c);
  return sum(total);
}

// Gradients of the raw densities and colours of one ray, for samples whose row is below `kept`.
void march_backward(
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

// Through the decoder: from gradients of its outputs to those of its weights and inputs.
void decode_backward(const Decoder& decoder, Slot& slot, Scratch& s) {
  const int n = slot.count;
  WeightGradients& out = slot.weights;
  const float* hidden = slot.points.hidden.data();
  product<COLORS, HIDDEN>(s.color_gradient.data(), n, decoder.w1 + HIDDEN, nullptr, s.hidden_gradient.data());
  outer<COLORS, HIDDEN>(s.color_gradient.data(), hidden, n, out.w1 + HIDDEN);
  for (int i = 0; i < n; i++) {
    const float density = s.density_gradient[i];
    out.b1[0] += density;
    for (int c = 0; c < COLORS; c++) out.b1[1 + c] += s.color_gradient[i * COLORS + c];
    for (int h = 0; h < HIDDEN; h += LANES) {
      const V unit = load(hidden + i * HIDDEN + h);
      // The derivative of softplus from its own value.
      const V g = (load(&s.hidden_gradient[i * HIDDEN + h]) + density * load(decoder.w1 + h)) * (1.0f - exp(-unit));
      store(&s.hidden_gradient[i * HIDDEN + h], g);
      store(out.b0 + h, load(out.b0 + h) + g);
      store(out.w1 + h, load(out.w1 + h) + density * unit);
    }
  }
  outer<HIDDEN, CHANNELS>(s.hidden_gradient.data(), s.features.data(), n, out.w0);
  product<HIDDEN, CHANNELS>(s.hidden_gradient.data(), n, decoder.w0, nullptr, slot.gradient.data());
}

void block_backward(
    const Planes& planes, const Decoder& decoder, int rays, int samples, const In& in, bool white_back, float floor,
    Slot& slot, Scratch& s) {
  const int width = padded(samples);
  enum { IDLE = -1, SEEN = -2, KEPT = -3 };
  for (int r = 0; r < rays; r++) {
    float *depths = &s.depths[r * width], *densities = &s.densities[r * width];
    std::copy_n(in.depths + r * samples, samples, depths);
    std::copy_n(in.densities + r * samples, samples, densities);
    March& marched = s.marched[r];
    march(depths, densities, samples, marched, true);
    // Samples that matter get a gradient; it depends on the colours of their neighbours and of all that is seen.
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
  decode_backward(decoder, slot, s);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays_backward(
    const Tensor& planes, const Tensor& w0, const Tensor& b0, const Tensor& w1, const Tensor& b1, const Tensor& origins_,
    const Tensor& directions_, const Tensor& sample_depths, const Tensor& densities, const Tensor& features_,
    const Tensor& depth_, const Tensor& weight_, double box_warp, bool white_back, double floor) {
  const Scenes scenes(planes, box_warp);
  const Decoder decoder(
      plain(w0).data_ptr<float>(), plain(b0).data_ptr<float>(), plain(w1).data_ptr<float>(), plain(b1).data_ptr<float>());
  const Tensor origins = plain(origins_), directions = plain(directions_), depths = plain(sample_depths);
  const Tensor raw = plain(densities), features = plain(features_), depth = plain(depth_), weight = plain(weight_);
  const int64_t b = directions.size(0), m = directions.size(1);
  const int samples = depths.size(2);
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
              scenes[scene], decoder, std::min(size, m - from), samples, in, white_back, floor, slots[slot], scratch);
        }
      });
      // Threads share out planes and channels, so that no two write to one place.
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
    add(d0, slot.weights.w0), add(e0, slot.weights.b0), add(d1, slot.weights.w1), add(e1, slot.weights.b1);
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
      "float box_warp, bool white_back, float floor) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(my3dgen, CPU, library) {
  library.impl("render_rays", &render_rays);
  library.impl("render_rays_backward", &render_rays_backward);
}

}  // namespace my3dgen
