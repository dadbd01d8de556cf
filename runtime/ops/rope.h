#pragma once
// Rotary position embedding (arXiv 2104.09864) in the "rotate half" form of Hugging Face models.
// Angles are position * inverse frequency in float64 from int64 positions, rounded afterwards:
// float32 angles are wrong by about position * 6e-8 rad.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/core/thread_pool.h"

namespace longhaul::ops {

enum class RopeType { standard, llama3, yarn };

// As config.json has them ("rope_parameters" or "rope_theta" + "rope_scaling"); unused ones keep
// their defaults. Where something is not given, transformers' rules hold: the original context is
// max_position_embeddings, and yarn's factor is max_position_embeddings / original context.
struct RopeParameters {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 0;                            // llama3, yarn; 0: not given (yarn only)
  double low_freq_factor = 1;                   // llama3
  double high_freq_factor = 4;                  // llama3
  double original_max_position_embeddings = 0;  // llama3, yarn; 0: not given
  double max_position_embeddings = 0;           // llama3, yarn; of the model; 0: not given
  double beta_fast = 32;                        // yarn
  double beta_slow = 1;                         // yarn
  double mscale = 0;                            // yarn; 0: not given
  double mscale_all_dim = 0;                    // yarn; 0: not given
  double attention_factor = 0;                  // yarn; 0: from factor
  bool truncate = true;                         // yarn: whole-numbered correction range
};

// The context length of the pretraining, in tokens.
double original_context(const RopeParameters& parameters);

class Rope {
 public:
  // Throws Error(mismatch) for an odd head_dim or parameters out of range.
  Rope(const RopeParameters& parameters, int64_t head_dim);
  const std::vector<double>& inverse_frequencies() const { return inverse_frequencies_; }  // [D/2]
  double attention_scaling() const { return attention_scaling_; }  // multiplies cos and sin

  // Tables for the rows of a step: cos and sin [rows, D/2], accumulator type of `dtype`.
  struct Table {
    Tensor cos, sin;
  };
  Table table(std::span<const int64_t> positions, DType dtype, ThreadPool& pool) const;
  // x [rows, heads, D] in place.
  static void apply(const Table& table, TensorView x, ThreadPool& pool);

 private:
  std::vector<double> inverse_frequencies_;
  double attention_scaling_ = 1;
};

}  // namespace longhaul::ops
