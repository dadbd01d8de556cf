#pragma once
// What the GPU forms of `longhaul bench attention` share: one rank's data, and whether its outputs
// are right. For sources that are compiled with CUDA only.

#include <memory>
#include <vector>

#include "apps/bench_attention.h"
#include "apps/bench_samples.h"
#include "attention/backends/cuda/attention.h"
#include "comm/communicator.h"
#include "runtime/core/cuda/memory.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::apps {

// The queries that a rank of a layout has, and the keys of all sequences in natural order, random
// normal. A row of kv is the keys of all heads and then their values, as in the model.
class AttentionData {
 public:
  AttentionData(const AttentionBench& bench, int rank, int ranks);

  // New random data of this seed; outputs become NaN.
  void fill(uint64_t seed, cudaStream_t stream);
  // Some hundred outputs against float64 sums on the host. The stream's work must be done.
  SampleErrors check(ThreadPool& pool) const;

  struct Row {
    int64_t key_row;    // natural row of its own token
    int64_t first_key;  // row of its sequence's token 0
    int64_t visible;    // keys it sees
  };
  const std::vector<Row>& rows() const { return rows_; }  // of each local row
  std::vector<attention::cuda::Item> items() const;       // over the natural keys
  int64_t num_new_tokens() const { return layout.total_tokens(); }
  int64_t width() const { return kv.view().shape[1]; }

  attention::cuda::Shape shape;
  double scale = 1;
  bool causal = true;
  int rank = 0;
  layout::BatchLayout layout;
  std::vector<int64_t> key_base;  // [sequences] row of token 0 among the keys
  int64_t num_keys = 0;
  cuda::DeviceTensor q, kv, out, lse;

 private:
  std::vector<Row> rows_;
};

// One way to compute it, all work on a stream.
class AttentionRun {
 public:
  virtual ~AttentionRun() = default;
  // Takes over data that fill() has changed.
  virtual void load() {}
  virtual void layer() = 0;  // exchange, where there is one, and attention
  virtual bool exchanges() const { return false; }
  virtual void exchange() {}
  virtual void attend() { layer(); }
  virtual void poll() {}
  virtual double flops() const = 0;  // of this rank
  virtual std::string kernel() const = 0;
  virtual std::string exchange_name() const { return ""; }
  virtual int64_t received_bytes() const { return 0; }  // of a layer
};
// One launch over all items, keys where they lie.
std::unique_ptr<AttentionRun> make_kernel_run(AttentionData& data, cudaStream_t stream);
// Layers of context-parallel attention, the keys spread over the ranks of comm. Collective.
std::unique_ptr<AttentionRun> make_rank_run(AttentionData& data, comm::Communicator& comm,
                                            const std::string& exchange, bool wait_in_kernel,
                                            cudaStream_t stream);

}  // namespace longhaul::apps
