#pragma once
// What the implementations of Gather share: the plan, the order of calls, the account of bytes.

#include "comm/cuda/gather.h"
#include "comm/cuda/gather_plan.h"

namespace longhaul::comm::cuda {

class GatherBase : public Gather {
 public:
  explicit GatherBase(Communicator& comm);
  void set_plan(GatherPlan plan) override;
  int next_parity() const override { return parity_ == 0 ? 1 : 0; }
  void start_signal_only(int parity, cudaStream_t stream, OpLabel label) override;
  std::span<void* const> peer_buffers(int) const override { return {}; }
  Flags flags() const override { return {nullptr, 0}; }
  Communicator::Traffic traffic() const override { return traffic_; }

 protected:
  // Every start(): checks the order of calls and the plan against the buffers, tells the watchdog.
  void begin(int parity, OpLabel label);
  void end();  // every finish()
  bool unwinding() const;
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }

  Communicator& comm_;
  ReadyPlan plan_;
  OpLabel label_{"gather"};
  int parity_ = 1;  // of the gather started last
  bool under_way_ = false;

 private:
  bool has_plan_ = false;
  const int exceptions_before_;
  Communicator::Traffic traffic_;
};

}  // namespace longhaul::comm::cuda
