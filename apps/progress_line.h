#pragma once
// One line on a terminal that says how far a run is; silent when stderr is no terminal.

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>

#include "runtime/core/progress.h"
#include "runtime/model/engine.h"

namespace longhaul::apps {

class ProgressLine {
 public:
  // Shown only where `show` (rank 0) and stderr is a terminal. num_layers for "layer 3/28".
  ProgressLine(const Progress& progress, int num_layers, bool show);
  ~ProgressLine();  // clears the line
  void report(const model::StepReport& step);

 private:
  void loop();
  std::string line();

  const Progress& progress_;
  int num_layers_;
  std::FILE* terminal_;  // null: silent
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  model::StepReport last_{"prefill", -1, 0, 0, 0};
  std::thread thread_;
};

}  // namespace longhaul::apps
