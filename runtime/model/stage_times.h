#pragma once
// Where a run's time went, in seconds, on one rank.

#include <chrono>

namespace longhaul::model {

struct StageTimes {
  double load = 0;  // opening, reading and packing weights
  double embed = 0;
  double qkv = 0;  // norms, projections (the output projection too) and RoPE
  double exchange_exposed = 0;
  // Travelled while this rank computed: not part of any other figure. On GPUs with a trace only.
  double exchange_hidden = 0;
  double attention = 0;
  double mlp = 0;     // dense MLPs, or router and experts
  double logits = 0;  // final norm, last rows, choosing the token
};

// Adds the time from construction to destruction to one of the figures.
class StageTimer {
 public:
  explicit StageTimer(double& seconds) : seconds_(seconds) {}
  ~StageTimer() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace longhaul::model
