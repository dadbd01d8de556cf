#pragma once
// --dump: opening and closing a dump on all ranks together.

#include <memory>
#include <string>

#include "apps/run_inputs.h"
#include "apps/run_options.h"
#include "comm/communicator.h"
#include "runtime/core/progress.h"
#include "runtime/io/dump.h"
#include "runtime/layout/process_grid.h"

namespace longhaul::apps {

class RunDump {
 public:
  // Collective. Does nothing without --dump.
  RunDump(const RunOptions& options, const RunInputs& inputs, const layout::ProcessGrid& grid,
          std::string_view backend, comm::Communicator& world, Progress& progress);

  io::ActivationSink* sink() { return dump_.get(); }  // null without --dump
  // Collective: publishes the rank files, then the manifest. Returns bytes written by this rank.
  int64_t close();

 private:
  const RunOptions& options_;
  comm::Communicator& world_;
  Progress& progress_;
  io::DumpInfo info_;
  std::unique_ptr<io::HdfDump> dump_;
};

}  // namespace longhaul::apps
