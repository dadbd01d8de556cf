#pragma once
// Context-parallel attention: exchange strategies over a Communicator, computation by a Backend.
// Per layer: store own KV, start the exchange, attend own KV while it travels, attend the rest,
// merge by LSE.

#include <memory>
#include <string_view>

#include "attention/backend.h"
#include "attention/kv_cache.h"
#include "comm/communicator.h"
#include "runtime/layout/exchange_plan.h"

namespace longhaul::attention {

enum class Strategy { allgather };
std::string_view strategy_name(Strategy strategy);
Strategy parse_strategy(std::string_view name);  // throws Error(usage) with the nearest name

// Seconds since construction or the last reset, summed over layers.
struct AttentionTimes {
  double exchange_exposed = 0;  // packing, starting, and waiting with nothing to compute
  double exchange_hidden = 0;   // in flight while this rank computed
  double compute = 0;           // attention and merging
};

class ContextParallelAttention {
 public:
  struct Options {
    Strategy strategy = Strategy::allgather;
    bool two_calls = false;  // the vendor contract: one backend call a half instead of one for both
  };
  // Borrows everything; the arguments must outlive it. `backend` was prepared by the caller. The
  // ranks of `comm` are the context-parallel ranks. Causal attention only.
  ContextParallelAttention(comm::Communicator& comm, Backend& backend, ThreadPool& pool,
                           PagedKvCache& cache, Options options);
  ~ContextParallelAttention();

  // Call before the layers of a step. `ownership` must contain the step already. Keeps copies of
  // what it needs, and makes room in the cache for the rank's new tokens.
  void begin_step(const layout::BatchLayout& layout, const layout::KvOwnership& ownership);

  // One layer. q [local tokens, num_heads, head_dim], k and v [local tokens, num_kv_heads, .] in
  // the cache dtype, local row order; out [local tokens, num_heads, head_dim_v] in q's dtype;
  // lse [local tokens, num_heads] accumulator type, or an undefined view when not wanted.
  // Head counts are read from q and k at every call.
  void run(int layer, ConstTensorView q, ConstTensorView k, ConstTensorView v, double scale,
           TensorView out, TensorView lse);

  const AttentionTimes& times() const;
  void reset_times();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::attention
