#include "comm/single_communicator.h"

#include "comm/planned_communicator.h"
#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

// There is nobody to exchange with: own parts were copied when the operation was planned.
class NoTransport final : public Transport {
 public:
  std::unique_ptr<Exchange> post(const Fingerprint& operation, const Round& round) override {
    LH_CHECK(round.sends.empty() && round.receives.empty(), "{}", operation.to_string());
    class Done final : public Exchange {
      bool advance() override { return true; }
      int missing() const override { return -1; }
      uint64_t pieces() const override { return 0; }
    };
    return std::make_unique<Done>();
  }
  void pause(int) override {}
};

class NoWatch final : public RankWatch {
 public:
  Progress& progress() override { return progress_; }
  void begin_operation(const Fingerprint&) override {}
  void begin_wait(const Fingerprint&) override {}
  void end_wait() override {}
  void check_wait(int) override {}
  std::string name_of(int world_rank) override { return fmt::format("rank {}", world_rank); }

 private:
  Progress progress_;
};

// Members that the base class refers to are constructed before it.
struct Owned {
  Engine own_engine;
  NoWatch no_watch;
};
class SingleCommunicator final : private Owned, public PlannedCommunicator {
 public:
  explicit SingleCommunicator(RankWatch* watch)
      : PlannedCommunicator(0, {0}, 0, std::make_unique<NoTransport>(), own_engine,
                            watch ? *watch : no_watch) {}
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator(RankWatch* watch) {
  return std::make_unique<SingleCommunicator>(watch);
}

}  // namespace longhaul::comm
