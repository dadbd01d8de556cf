#include "comm/cuda/gather.h"

#include <algorithm>
#include <array>

#include "comm/cuda/measure.h"
#include "comm/cuda/nccl_gather.h"
#include "comm/cuda/peer_gather.h"
#include "comm/cuda/staged_gather.h"
#include "runtime/core/check.h"

namespace longhaul::comm::cuda {
namespace {

constexpr std::array<int64_t, 2> kTrialBytes{int64_t{256} << 10, int64_t{16} << 20};

// Null where it cannot run; `why` then has the reason.
std::unique_ptr<Gather> try_make(Communicator& comm, std::string_view name, std::string* why) {
  if (name == "peer") return PeerGather::make(comm, PeerOptions{}, why);
  if (name == "nccl") return make_nccl_gather(comm, why);
  LH_CHECK(name == "staged", "gather {}", name);
  auto staged = std::make_unique<StagedGather>(comm);
  *why = staged->on_device() ? "MPI takes device pointers" : "through page-locked host memory";
  return staged;
}

std::string figure_text(const GatherFigure& f) {
  return fmt::format("{} KiB a rank {:.1f} us ({:.0f} GB/s)", f.bytes_per_rank >> 10,
                     f.microseconds, f.gigabytes_per_s);
}

struct Candidate {
  std::unique_ptr<Gather> gather;
  std::string text;  // its figures, or why it cannot run
  std::array<double, kTrialBytes.size()> microseconds{};
};

// At small and at large sizes alike: the product of the times.
double cost(const Candidate& c) {
  double product = 1;
  for (const double t : c.microseconds) product *= t;
  return product;
}

std::unique_ptr<Gather> choose(Communicator& comm, std::string* why) {
  std::vector<Candidate> candidates;
  for (const char* name : {"peer", "nccl"}) {
    Candidate c;
    std::string reason;
    c.gather = try_make(comm, name, &reason);
    c.text = fmt::format("{}: {}", name, reason);
    candidates.push_back(std::move(c));
    if (comm.size() == 1 && candidates.back().gather) break;  // nothing to move: any will do
  }
  const auto able = std::count_if(candidates.begin(), candidates.end(),
                                  [](const Candidate& c) { return c.gather != nullptr; });
  Candidate* best = nullptr;
  for (Candidate& c : candidates) {
    if (!c.gather) continue;
    if (able > 1) {
      MeasureOptions options;
      options.repeats = 3;
      options.check = false;
      c.text = fmt::format("{}:", c.gather->name());
      for (size_t i = 0; i < kTrialBytes.size(); ++i) {
        const GatherFigure f = measure_gather(comm, *c.gather, kTrialBytes[i], options);
        c.microseconds[i] = f.microseconds;
        c.text += (i == 0 ? " " : ", ") + figure_text(f);
      }
    } else {
      c.text = fmt::format("{}: the only one without the host's help", c.gather->name());
    }
    if (best == nullptr || cost(c) < cost(*best)) best = &c;
  }
  std::unique_ptr<Gather> chosen;
  if (best != nullptr) {
    chosen = std::move(best->gather);
  } else {
    Candidate c;
    std::string reason;
    chosen = try_make(comm, "staged", &reason);
    c.text = "staged: " + reason;
    candidates.push_back(std::move(c));
  }
  if (why != nullptr) {
    *why = fmt::format("exchange by {}", chosen->name());
    for (const Candidate& c : candidates) *why += "; " + c.text;
  }
  return chosen;
}

}  // namespace

std::unique_ptr<Gather> make_gather(Communicator& comm, std::string_view name, std::string* why) {
  if (name == "auto") return choose(comm, why);
  if (name != "peer" && name != "nccl" && name != "staged")
    fail(ExitCode::usage, "unknown exchange \"{}\"; there are auto, peer, nccl and staged", name);
  std::string reason;
  std::unique_ptr<Gather> gather = try_make(comm, name, &reason);
  if (!gather)
    fail(ExitCode::usage, "the exchange \"{}\" cannot run here: {}; \"auto\" takes one that can",
         name, reason);
  if (why != nullptr) *why = fmt::format("exchange by {}, as asked for", name);
  return gather;
}

}  // namespace longhaul::comm::cuda
