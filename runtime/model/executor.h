#pragma once
// One rank's model on its device, as the engine drives it: it holds weights and KV, runs the local
// tokens of a step through all layers, and chooses next tokens.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "runtime/core/dtype.h"
#include "runtime/io/activation_sink.h"
#include "runtime/io/model_config.h"
#include "runtime/layout/batch_layout.h"
#include "runtime/layout/kv_ownership.h"
#include "runtime/model/stage_times.h"

namespace longhaul::model {

// The new tokens of a step that this rank owns, in local row order.
struct LocalTokens {
  std::span<const int32_t> ids;        // [rows]
  std::span<const int64_t> positions;  // [rows] absolute
};

struct StepInput {
  LocalTokens tokens;
  const layout::BatchLayout& layout;
  const layout::KvOwnership& ownership;  // contains the step already
  std::span<const int64_t> answer_rows;  // local rows whose next token is wanted
  io::ActivationSink* sink = nullptr;    // gets every intermediate that it wants
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const io::ModelConfig& config() const = 0;
  virtual DType compute_dtype() const = 0;
  virtual uint64_t weights_content() const = 0;  // equal weights, equal hash

  // Gets everything ready that the first run would otherwise wait for, for steps of about `rows`
  // local tokens. Collective over the ranks of `cp_comm`; changes no result.
  virtual void prepare(comm::Communicator& /*cp_comm*/, int64_t /*rows*/) {}
  // Forgets the KV and the times of an earlier run. Collective over the ranks of `cp_comm`, which
  // share the tokens; it must outlive the run. total_lengths[s]: the most tokens that sequence s
  // will ever have, over all ranks.
  virtual void begin_run(comm::Communicator& cp_comm, std::span<const int64_t> total_lengths) = 0;
  // Collective over the ranks of the run, which give the same layout and ownership.
  // -> [answer_rows] the token of the largest logit, the lowest of equal ones.
  virtual std::vector<int32_t> step(const StepInput& input) = 0;

  // TFLOP/s that a large matrix product reaches here, measured now (0: not known). Ends the run.
  virtual double matmul_ceiling() { return 0; }
  // Bytes that devices sent each other beside the communicator, since prepare().
  virtual comm::Communicator::Traffic device_traffic() const { return {}; }
  // What the rank computes on, for reports: "NVIDIA H200", or empty for CPU cores.
  virtual std::string device_name() const { return {}; }

  virtual StageTimes times() const = 0;  // since begin_run
  virtual int64_t kv_cache_bytes() const = 0;
};

}  // namespace longhaul::model
