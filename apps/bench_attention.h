#pragma once
// What `longhaul bench attention` was asked, and its two forms.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "comm/mpi_session.h"
#include "runtime/core/dtype.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::apps {

struct AttentionBench {
  std::string backend, dtype = "bf16", heads = "32/4", layout = "zigzag", share;
  std::string exchange = "auto", pace = "full";
  bool wait_in_kernel = false;
  int64_t head_dim = 128;
  std::vector<int64_t> lengths = {8192}, prefix = {0};
  int threads = 1, repeat = 0;  // repeat 0: the form's own
  bool not_causal = false, json = false;
  double timeout = 60;

  bool causal() const { return !not_causal; }
  DType compute() const { return parse_dtype(dtype); }
  // Of each sequence; throws Error(usage) where --prefix and --lengths do not go together.
  std::vector<layout::SequenceExtent> extents() const;
  // --share R/N; 0 of 1 without it. Throws Error(usage).
  struct Share {
    int rank = 0, ranks = 1;
  };
  Share share_of() const;
};

// Each prints its table or JSON on rank 0. -> exit code: Exit::different where a result is wrong.
int bench_attention_cpu(const AttentionBench& bench, const std::string& backend);
int bench_attention_gpu(const AttentionBench& bench, comm::MpiSession& session);

}  // namespace longhaul::apps
