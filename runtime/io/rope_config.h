#pragma once
// The rotary embedding's part of config.json, in its three spellings.

#include <string>
#include <vector>

#include "runtime/io/config_reader.h"
#include "runtime/ops/rope.h"

namespace longhaul::io {

// rope_parameters{rope_type, rope_theta, ...} (transformers 5), or rope_theta and
// rope_scaling{rope_type | type, ...} beside it; a rope_scaling wins over rope_parameters, and a
// rope_theta inside over one outside, as in transformers. Keys inside that nothing reads are
// appended to `unknown_keys`. Throws Error(usage) for a type longhaul does not run, Error(corrupt)
// for values that make no sense.
ops::RopeParameters read_rope_parameters(ConfigReader& config, int64_t max_position_embeddings,
                                         std::vector<std::string>& unknown_keys);

}  // namespace longhaul::io
