#include "comm/cuda/gather_base.h"

#include <exception>

#include "runtime/core/check.h"

namespace longhaul::comm::cuda {

GatherBase::GatherBase(Communicator& comm)
    : comm_(comm), exceptions_before_(std::uncaught_exceptions()) {}

void GatherBase::set_plan(GatherPlan plan) {
  LH_CHECK(!under_way_, "a new plan for a gather under way");
  plan_ = make_ready(std::move(plan), rank(), size());
  has_plan_ = true;
}

void GatherBase::start_signal_only(int, cudaStream_t, OpLabel) {
  LH_CHECK(false, "gather {} cannot address other ranks' memory", name());
}

void GatherBase::begin(int parity, OpLabel label) {
  LH_CHECK(parity == 0 || parity == 1, "parity {}", parity);
  LH_CHECK(has_plan_, "gather {} has no plan", label.name);
  LH_CHECK(!under_way_, "gather {} started before {} was finished", label.name, label_.name);
  LH_CHECK(parity == next_parity(), "gather {}: buffer {} twice in a row", label.name, parity);
  LH_CHECK(plan_.end <= capacity(), "gather {}: the plan reaches to {}, the buffers have {} bytes",
           label.name, plan_.end, capacity());
  // A step of the rank: a stop by signal ends it here, a hang is told by this name.
  if (Progress* progress = comm_.progress()) progress->enter(label.name, label.layer);
  label_ = label;
  parity_ = parity;
  under_way_ = true;
  traffic_.sent_bytes += plan_.total_send;
  traffic_.received_bytes += plan_.total_recv;
}

void GatherBase::end() {
  LH_CHECK(under_way_, "finish() without start()");
  under_way_ = false;
}

bool GatherBase::unwinding() const {
  return std::uncaught_exceptions() > exceptions_before_;
}

}  // namespace longhaul::comm::cuda
