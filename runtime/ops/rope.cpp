#include "runtime/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/ops/kernels.h"

namespace longhaul::ops {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
void stretch_llama3(const RopeParameters& p, std::vector<double>& frequencies) {
  const double context = original_context(p);
  const double longest_kept = context / p.high_freq_factor;
  const double shortest_stretched = context / p.low_freq_factor;
  for (double& f : frequencies) {
    const double wavelength = kTwoPi / f;
    if (wavelength > shortest_stretched) {
      f /= p.factor;
    } else if (wavelength >= longest_kept) {
      const double kept =
          (context / wavelength - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
      f = (1 - kept) * f / p.factor + kept * f;
    }
  }
}

// The (fractional) dimension whose angle turns `rotations` times over the original context.
double yarn_dimension(const RopeParameters& p, double rotations, double dim) {
  return dim * std::log(original_context(p) / (rotations * kTwoPi)) / (2 * std::log(p.theta));
}

// YaRN, arXiv 2309.00071 section 3.2: fast dimensions are kept, slow ones interpolated, with a
// linear ramp between the two.
void stretch_yarn(const RopeParameters& p, double factor, std::vector<double>& frequencies) {
  const double dim = 2.0 * static_cast<double>(frequencies.size());
  double low = yarn_dimension(p, p.beta_fast, dim);
  double high = yarn_dimension(p, p.beta_slow, dim);
  if (p.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // as transformers: no division by zero
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / factor * stretched + frequencies[i] * (1 - stretched);
  }
}

// YaRN's attention temperature, section 3.3.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double yarn_attention_factor(const RopeParameters& p, double factor) {
  if (p.attention_factor != 0) return p.attention_factor;
  if (p.mscale != 0 && p.mscale_all_dim != 0)
    return yarn_mscale(factor, p.mscale) / yarn_mscale(factor, p.mscale_all_dim);
  return yarn_mscale(factor, 1);
}

void check_scaled(const RopeParameters& p, const char* type) {
  if (!(original_context(p) > 0))
    fail(ExitCode::mismatch,
         "config.json: rope type '{}' needs original_max_position_embeddings (or "
         "max_position_embeddings) above 0, not {}",
         type, original_context(p));
}

}  // namespace

double original_context(const RopeParameters& p) {
  return p.original_max_position_embeddings != 0 ? p.original_max_position_embeddings
                                                 : p.max_position_embeddings;
}

Rope::Rope(const RopeParameters& p, int64_t head_dim) {
  if (head_dim <= 0 || head_dim % 2 != 0)
    fail(ExitCode::mismatch, "config.json: RoPE needs an even head_dim, not {}", head_dim);
  if (!(p.theta > 0) || !std::isfinite(p.theta))
    fail(ExitCode::mismatch, "config.json: rope_theta must be above 0, not {}", p.theta);
  inverse_frequencies_.resize(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inverse_frequencies_.size(); ++i)
    inverse_frequencies_[i] =
        1.0 / std::pow(p.theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  if (p.type == RopeType::llama3) {
    check_scaled(p, "llama3");
    if (!(p.factor > 0) || !(p.low_freq_factor > 0) || !(p.high_freq_factor > p.low_freq_factor))
      fail(ExitCode::mismatch,
           "config.json: rope type 'llama3' needs factor > 0 and high_freq_factor > "
           "low_freq_factor > 0, not {}, {} and {}",
           p.factor, p.high_freq_factor, p.low_freq_factor);
    stretch_llama3(p, inverse_frequencies_);
  } else if (p.type == RopeType::yarn) {
    check_scaled(p, "yarn");
    const double factor =
        p.factor != 0 ? p.factor : p.max_position_embeddings / original_context(p);
    if (!(factor > 0) || !(p.beta_fast > 0) || !(p.beta_slow > 0))
      fail(ExitCode::mismatch,
           "config.json: rope type 'yarn' needs factor (or max_position_embeddings), beta_fast and "
           "beta_slow above 0, not {}, {} and {}",
           factor, p.beta_fast, p.beta_slow);
    stretch_yarn(p, factor, inverse_frequencies_);
    attention_scaling_ = yarn_attention_factor(p, factor);
  }
}

Rope::Table Rope::table(std::span<const int64_t> positions, DType dtype, ThreadPool& pool) const {
  const auto rows = static_cast<int64_t>(positions.size());
  const auto half = static_cast<int64_t>(inverse_frequencies_.size());
  const DType table_dtype = accumulator_dtype(dtype);
  Table t{Tensor(table_dtype, {rows, half}), Tensor(table_dtype, {rows, half})};
  // A sine or cosine costs about twenty nanoseconds.
  const int64_t grain = std::max<int64_t>(1, 512 / half);
  dispatch_float(table_dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, bf16>) {
      T* cos = t.cos.as<T>();
      T* sin = t.sin.as<T>();
      pool.parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const auto position = static_cast<double>(positions[static_cast<size_t>(r)]);
          for (int64_t i = 0; i < half; ++i) {
            const double angle = position * inverse_frequencies_[static_cast<size_t>(i)];
            cos[r * half + i] = static_cast<T>(std::cos(angle) * attention_scaling_);
            sin[r * half + i] = static_cast<T>(std::sin(angle) * attention_scaling_);
          }
        }
      });
    }
  });
  return t;
}

void Rope::apply(const Table& table, TensorView x, ThreadPool& pool) {
  LH_CHECK(x.shape.rank() == 3 && x.shape[2] % 2 == 0 &&
               table.cos.shape() == Shape({x.shape[0], x.shape[2] / 2}) &&
               table.sin.shape() == table.cos.shape() &&
               table.cos.dtype() == accumulator_dtype(x.dtype),
           "x {} {}, table {} {}", dtype_name(x.dtype), x.shape.to_string(),
           dtype_name(table.cos.dtype()), table.cos.shape().to_string());
  const int64_t heads = x.shape[1], half = x.shape[2] / 2;
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, heads * 2 * half));
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = accumulator_t<T>;
    const A* cos = table.cos.as<A>();
    const A* sin = table.sin.as<A>();
    pool.parallel_ranges(x.shape[0], grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        kernels::rotate(cos + r * half, sin + r * half, x.as<T>() + r * heads * 2 * half, heads,
                        half);
    });
  });
}

}  // namespace longhaul::ops
