#include "tests/gpu/comm/gather_cases.h"

#include <algorithm>
#include <random>

#include "comm/cuda/device_wait.h"
#include "comm/cuda/measure_kernels.h"
#include "comm/cuda/peer_kernels.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::comm::cuda::cases {
namespace {

using longhaul::cuda::Stream;
using Random = std::mt19937_64;

constexpr uint64_t kPoison = 77;
constexpr OpLabel kLabel{"gather cases"};

int64_t below(Random& random, int64_t n) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
}

// A stretch of the buffer: who owns it, and who needs it. The same on all ranks.
struct Stretch {
  Segment segment;
  int owner;  // -1: nobody's
  std::vector<bool> needed;
};

struct RandomPlan {
  int64_t bytes = 0;
  std::vector<Stretch> stretches;
  RandomPlan(Random& random, int size, int64_t most_bytes) {
    const int count =
        static_cast<int>(below(random, 8) == 0 ? 1 + below(random, 300) : 1 + below(random, 20));
    const int64_t grain = std::array<int64_t, 3>{1, 16, 256}[static_cast<size_t>(below(random, 3))];
    const bool everybody = below(random, 3) == 0;
    for (int i = 0; i < count; ++i) {
      Stretch s;
      const int64_t length = below(random, 4) == 0 ? most_bytes / count : 1 + below(random, 3000);
      s.segment = {bytes, std::min(length, most_bytes / count) / grain * grain};
      s.owner = static_cast<int>(below(random, size + 1)) - 1;
      for (int r = 0; r < size; ++r) s.needed.push_back(everybody || below(random, 2) == 0);
      bytes += s.segment.bytes;
      stretches.push_back(s);
    }
  }
  GatherPlan of(int rank, int size, Random& own) const {
    GatherPlan plan;
    plan.send.resize(static_cast<size_t>(size));
    plan.recv.resize(static_cast<size_t>(size));
    for (const Stretch& s : stretches)
      for (int r = 0; r < size; ++r) {
        if (s.owner == rank && r != rank && s.needed[static_cast<size_t>(r)])
          plan.send[static_cast<size_t>(r)].push_back(s.segment);
        if (s.owner == r && r != rank && s.needed[static_cast<size_t>(rank)])
          plan.recv[static_cast<size_t>(r)].push_back(s.segment);
      }
    for (auto* lists : {&plan.send, &plan.recv})
      for (auto& list : *lists) std::shuffle(list.begin(), list.end(), own);
    return plan;
  }
};

class Player {
 public:
  Player(Communicator& comm, Gather& gather, const GatherCases& options)
      : comm_(comm),
        gather_(gather),
        options_(options),
        own_(options.seed * 1000 + static_cast<uint64_t>(comm.rank())),
        wrong_(8, "counter", MemoryUse::exchange) {
    LH_CUDA(cudaMemset(wrong_.data(), 0, 8));
  }

  void play(const RandomPlan& plan, uint64_t number) {
    gather_.reserve(options_.most_bytes + 4096);
    gather_.set_plan(plan.of(comm_.rank(), comm_.size(), own_));
    poison(plan, 0);
    poison(plan, 1);
    settle();
    comm_.barrier(kLabel);  // nobody sends into a buffer that is being poisoned
    for (int e = 0; e < options_.epochs; ++e)
      epoch(plan, number * 1000 + static_cast<uint64_t>(e) * 10);
    settle();
    int64_t wrong = 0;
    LH_CUDA(cudaMemcpy(&wrong, wrong_.data(), 8, cudaMemcpyDeviceToHost));
    LH_CHECK(wrong == 0, "{} wrong bytes in plan {} of seed {} by {}", wrong, number, options_.seed,
             gather_.name());
  }

 private:
  bool gets(const Stretch& s) const {
    return s.owner >= 0 && s.owner != comm_.rank() && s.needed[static_cast<size_t>(comm_.rank())];
  }
  void delay() {
    if (below(own_, 3) == 0)
      spin(static_cast<double>(below(own_, 100)) / 100 * options_.most_delay_microseconds, stream_);
  }
  void poison(const RandomPlan& plan, int parity) {
    for (const Stretch& s : plan.stretches)
      if (s.owner != comm_.rank())
        fill_pattern(gather_.buffer(parity), s.segment.offset, s.segment.bytes, kPoison, stream_);
  }
  void expect(const void* buffer, const Stretch& s, uint64_t seed) {
    count_wrong(buffer, s.segment.offset, s.segment.bytes, seed,
                static_cast<unsigned long long*>(wrong_.data()), stream_);
  }
  void settle() {
    wait_stream(comm_, stream_, kLabel, [&] { gather_.check(); });
  }

  void store_into_peers(const RandomPlan& plan, int parity) {
    const auto peers = gather_.peer_buffers(parity);
    for (const Stretch& s : plan.stretches)
      for (int r = 0; s.owner == comm_.rank() && r < comm_.size(); ++r)
        if (r != comm_.rank() && s.needed[static_cast<size_t>(r)])
          LH_CUDA(
              cudaMemcpyAsync(static_cast<char*>(peers[static_cast<size_t>(r)]) + s.segment.offset,
                              static_cast<char*>(gather_.buffer(parity)) + s.segment.offset,
                              static_cast<size_t>(s.segment.bytes), cudaMemcpyDefault, stream_));
  }

  void wait_by_kernel() {
    const Gather::Flags flags = gather_.flags();
    std::vector<uint32_t*> words;
    for (int r = 0; r < comm_.size(); ++r) words.push_back(const_cast<uint32_t*>(flags.flags) + r);
    wait_for_words(stream_, words.data(), comm_.size(), flags.value);
  }

  void epoch(const RandomPlan& plan, uint64_t seed) {
    const int parity = gather_.next_parity();
    void* buffer = gather_.buffer(parity);
    const auto own_seed = seed + static_cast<uint64_t>(comm_.rank());
    delay();
    for (const Stretch& s : plan.stretches)
      if (s.owner == comm_.rank())
        fill_pattern(buffer, s.segment.offset, s.segment.bytes, own_seed, stream_);
    const bool by_caller = !gather_.peer_buffers(parity).empty() && below(own_, 4) == 0;
    if (by_caller) {
      store_into_peers(plan, parity);
      gather_.start_signal_only(parity, stream_, kLabel);
    } else {
      gather_.start(parity, stream_, kLabel);
    }
    delay();
    const bool early = gather_.flags().flags != nullptr && below(own_, 3) == 0;
    if (early) {
      wait_by_kernel();
    } else {
      gather_.finish(stream_);
    }
    delay();
    for (const Stretch& s : plan.stretches) {
      if (s.owner == comm_.rank())
        expect(buffer, s, own_seed);
      else if (gets(s))
        expect(buffer, s, seed + static_cast<uint64_t>(s.owner));
      else
        expect(buffer, s, kPoison);
    }
    if (early) gather_.finish(stream_);
    // Before the next start(): from then on the others may send into this buffer.
    poison(plan, parity);
  }

  Communicator& comm_;
  Gather& gather_;
  const GatherCases options_;
  Random own_;
  Stream stream_;
  longhaul::cuda::Buffer wrong_;
};

}  // namespace

void random_gathers(Communicator& comm, Gather& gather, const GatherCases& options) {
  Random common(options.seed);
  Player player(comm, gather, options);
  for (int i = 0; i < options.plans; ++i) {
    const RandomPlan plan(common, comm.size(), options.most_bytes);
    player.play(plan, static_cast<uint64_t>(i + 1));
  }
}

void one_segment(Communicator& comm, Gather& gather, int64_t offset, int64_t bytes) {
  GatherPlan plan;
  plan.send.resize(static_cast<size_t>(comm.size()));
  plan.recv.resize(static_cast<size_t>(comm.size()));
  for (size_t r = 1; r < plan.send.size(); ++r)
    if (comm.rank() == 0) plan.send[r] = {{offset, bytes}};
  if (comm.rank() != 0) plan.recv[0] = {{offset, bytes}};
  gather.reserve(offset + bytes);
  gather.set_plan(std::move(plan));
  const Stream stream;
  const longhaul::cuda::Buffer wrong(8, "counter", MemoryUse::exchange);
  LH_CUDA(cudaMemset(wrong.data(), 0, 8));
  const int parity = gather.next_parity();
  void* buffer = gather.buffer(parity);
  fill_pattern(buffer, offset, bytes, comm.rank() == 0 ? 5 : kPoison, stream);
  wait_stream(comm, stream, kLabel);
  comm.barrier(kLabel);
  gather.start(parity, stream, kLabel);
  gather.finish(stream);
  count_wrong(buffer, offset, bytes, 5, static_cast<unsigned long long*>(wrong.data()), stream);
  wait_stream(comm, stream, kLabel, [&] { gather.check(); });
  int64_t count = 0;
  LH_CUDA(cudaMemcpy(&count, wrong.data(), 8, cudaMemcpyDeviceToHost));
  LH_CHECK(count == 0, "{} wrong bytes of {}", count, bytes);
}

}  // namespace longhaul::comm::cuda::cases
