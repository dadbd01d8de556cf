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

// What can be wrong with --dump and --dump-filter, found before the weights are touched; changes
// nothing. For rank 0.
void check_dump_options(const RunOptions& options);

class RunDump {
 public:
  // Collective. Does nothing without --dump.
  RunDump(const RunOptions& options, const RunInputs& inputs, const layout::ProcessGrid& grid,
          std::string_view backend, comm::Communicator& world, Progress& progress);

  ~RunDump();
  RunDump(const RunDump&) = delete;
  RunDump& operator=(const RunDump&) = delete;

  io::ActivationSink* sink() { return dump_.get(); }  // null without --dump
  // Collective: publishes the rank files, then the manifest. Returns bytes written by this rank.
  int64_t close();

 private:
  const RunOptions& options_;
  comm::Communicator& world_;
  Progress& progress_;
  io::DumpInfo info_;
  std::unique_ptr<io::HdfDump> dump_;
  int lock_ = -1;  // of the folder, on rank 0: two runs never write into one
};

}  // namespace longhaul::apps
