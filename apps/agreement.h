#pragma once
// Ranks must have been started alike: checked before any work, told in one line.

#include <cstdint>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "runtime/core/check.h"

namespace longhaul::apps {

// What every rank must have in common, and how it differs from rank 0's where it does.
struct Common {
  std::string name;   // "--layout", "the prompts", "the checkpoint"
  std::string value;  // compared as text; shown when short, else by its hash
  ExitCode code = ExitCode::usage;
};

// Collective. Throws on every rank the same Error(code of the first difference) that names the
// first rank which differs from rank 0, both values and what to do.
void check_agreement(comm::Communicator& comm, std::span<const Common> common);

}  // namespace longhaul::apps
