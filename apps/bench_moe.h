#pragma once
// What `longhaul bench moe` was asked and what it found.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "apps/bench_samples.h"
#include "comm/mpi_session.h"
#include "runtime/core/dtype.h"

namespace longhaul::apps {

struct MoeBench {
  std::string backend, dtype = "bf16", pace = "full";
  std::vector<int64_t> tokens;  // empty: the form's own
  int64_t hidden = 2048, intermediate = 768;
  int experts = 128, top_k = 8, threads = 1, repeat = 0;
  bool json = false;
  double timeout = 60;

  DType compute() const { return parse_dtype(dtype); }
  double product_flops() const {  // of one (token, expert) pair, all three matrices
    return 6.0 * static_cast<double>(hidden) * static_cast<double>(intermediate);
  }
};

struct MoePart {
  std::string name;  // "route", "permute", "gate_up" (with SwiGLU), "down", "combine", "block"
  double median_ms = 0, min_ms = 0;
  double flops = 0;  // 0: no matrix product
};

struct MoeFigures {
  int64_t tokens = 0;
  std::string pace;
  std::vector<MoePart> parts;
  double ceiling = 0;  // FLOP/s of the machine's matrix products in the same run
  SampleErrors errors;
  bool routed_right = true;
};

struct MoeResult {
  std::string device, kernel;  // device empty: CPU cores
  std::vector<MoeFigures> figures;
};

MoeResult bench_moe_cpu(const MoeBench& bench);
MoeResult bench_moe_gpu(const MoeBench& bench, comm::MpiSession& session);

}  // namespace longhaul::apps
