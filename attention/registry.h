#pragma once
// Which backend runs: chosen once at start from an explicit priority list, the same on all ranks.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "attention/backend.h"
#include "comm/communicator.h"

namespace longhaul::attention {

struct BackendChoice {
  std::unique_ptr<Backend> backend;
  std::vector<std::string> log;  // one line a candidate: "cpu: chosen", "cuda: not built in"
};

// `forced` empty: the first of the priority list that supports desc; else that one, or
// Error(usage) with the reason it cannot (or the nearest name). Does not communicate.
BackendChoice select_backend(const AttentionDesc& desc, std::string_view forced);
// The same where what is asked for depends on the device (the default dtype does).
using DescFor = std::function<AttentionDesc(DeviceKind)>;
BackendChoice select_backend(const DescFor& desc_for, std::string_view forced);

// Throws Error(usage) naming the ranks and their choices when ranks chose differently.
void check_backend_agreement(const Backend& backend, comm::Communicator& comm);

std::vector<std::string_view> backend_names();  // in order of priority

}  // namespace longhaul::attention
