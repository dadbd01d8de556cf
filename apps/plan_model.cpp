// Head counts of a checkpoint, for `longhaul plan --model`.

#include "apps/plan_input.h"
#include "runtime/core/check.h"
#include "runtime/io/model_config.h"

namespace longhaul::apps {

HeadShape heads_of_model(const std::string& model_dir, std::string_view dtype) {
  const io::ModelConfig config = io::read_model_config(model_dir);
  return {config.num_heads, config.num_kv_heads, config.head_dim,
          dtype_size(dtype.empty() ? config.stored_dtype : parse_dtype(dtype))};
}

}  // namespace longhaul::apps
