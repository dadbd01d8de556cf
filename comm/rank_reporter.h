#pragma once
// The writer of a rank's record: keeps it up to date with the rank's progress and operations.

#include <mutex>

#include "comm/rank_record.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

class RankReporter : public RankWatch, private Progress::Observer {
 public:
  // `record` must outlive this. The rank is `computing` from now on.
  RankReporter(RankRecord& record, int world_rank, uint64_t pid_namespace = 0);
  ~RankReporter() override;
  RankReporter(const RankReporter&) = delete;
  RankReporter& operator=(const RankReporter&) = delete;

  Progress& progress() override { return progress_; }
  void begin_operation(const Fingerprint& operation) override;
  void begin_wait(const Fingerprint& operation) override;
  void end_wait() override;
  // Writes `missing` where it changed, and copies ticks.
  void check_wait(int missing) override;

  void set_world_rank(int world_rank);
  void set_state(RankState state);
  void set_failed(int code, uint64_t message_hash, bool clean);
  void beat();  // by the helper thread
  RankBody body() const;

 protected:
  // Called at every step and while waiting; throws Error(stopped) when the job is to stop.
  virtual void check_stop() {}

 private:
  void entered(const Progress& progress) override;
  template <class F>
  void update(F&& change);

  RankRecord& record_;
  Progress progress_;
  mutable std::mutex mutex_;
  RankBody body_;
};

}  // namespace longhaul::comm
