#include "attention/registry.h"

#include <algorithm>
#include <array>

#include "attention/backends/cpu.h"
#include "attention/backends/reference.h"
#if LONGHAUL_HAS_CUDA
#include "attention/backends/cuda/cuda_backend.h"
#endif
#include "runtime/core/suggest.h"

namespace longhaul::attention {
namespace {

// In order of priority. `make` is null for a backend that this build leaves out.
struct Candidate {
  std::string_view name;
  std::unique_ptr<Backend> (*make)();
};

constexpr std::array<Candidate, 4> kCandidates = {{
#if LONGHAUL_HAS_CUDA
    {"cuda", make_cuda_backend},
#else
    {"cuda", nullptr},
#endif
    {"cudnn", nullptr},
    {"cpu", make_cpu_backend},
    {"reference", make_reference_backend},
}};

BackendChoice select_forced(const DescFor& desc_for, std::string_view forced) {
  for (const Candidate& c : kCandidates) {
    if (c.name != forced) continue;
    if (c.make == nullptr)
      fail(ExitCode::usage,
           "backend {}: not built into this longhaul; leave --backend away or name "
           "another",
           forced);
    BackendChoice choice{c.make(), {}};
    const Support support = choice.backend->supports(desc_for(choice.backend->device()));
    if (!support.ok)
      fail(ExitCode::usage, "backend {} cannot run this: {}", forced, support.why_not);
    choice.log.push_back(fmt::format("{}: chosen (forced)", forced));
    return choice;
  }
  const std::vector<std::string_view> names = backend_names();
  const std::string_view near = nearest_name(forced, names);
  if (near.empty())
    fail(ExitCode::usage, "unknown backend \"{}\": one of {}", forced, fmt::join(names, ", "));
  fail(ExitCode::usage, "unknown backend \"{}\": did you mean {}? (one of {})", forced, near,
       fmt::join(names, ", "));
}

}  // namespace

BackendChoice select_backend(const AttentionDesc& desc, std::string_view forced) {
  return select_backend([&](DeviceKind) { return desc; }, forced);
}

BackendChoice select_backend(const DescFor& desc_for, std::string_view forced) {
  if (!forced.empty()) return select_forced(desc_for, forced);
  BackendChoice choice;
  for (const Candidate& c : kCandidates) {
    if (c.make == nullptr) {
      choice.log.push_back(fmt::format("{}: not built in", c.name));
      continue;
    }
    if (choice.backend) {
      choice.log.push_back(fmt::format("{}: not needed", c.name));
      continue;
    }
    std::unique_ptr<Backend> backend = c.make();
    const Support support = backend->supports(desc_for(backend->device()));
    if (support.ok) {
      choice.backend = std::move(backend);
      choice.log.push_back(fmt::format("{}: chosen", c.name));
    } else {
      choice.log.push_back(fmt::format("{}: {}", c.name, support.why_not));
    }
  }
  if (!choice.backend) {
    const AttentionDesc desc = desc_for(DeviceKind::cpu);
    fail(ExitCode::usage, "no attention backend can run dtype {}, head dims {} and {}: {}",
         dtype_name(desc.dtype), desc.head_dim, desc.head_dim_v, fmt::join(choice.log, "; "));
  }
  return choice;
}

void check_backend_agreement(const Backend& backend, comm::Communicator& comm) {
  std::array<char, 32> mine{};
  const std::string_view name = backend.name();
  LH_CHECK(name.size() < mine.size(), "backend name {}", name);
  std::copy(name.begin(), name.end(), mine.begin());
  const auto ranks = static_cast<size_t>(comm.size());
  std::vector<char> all(ranks * mine.size());
  const std::vector<int64_t> bytes(ranks, static_cast<int64_t>(mine.size()));
  comm.all_gather_v(mine.data(), static_cast<int64_t>(mine.size()), all.data(), bytes,
                    {"backend agreement"});
  const auto of = [&](size_t rank) { return std::string_view(&all[rank * mine.size()]); };
  for (size_t r = 1; r < ranks; ++r)
    if (of(r) != of(0)) {
      std::vector<std::string> choices;
      for (size_t i = 0; i < ranks; ++i) choices.push_back(fmt::format("rank {} {}", i, of(i)));
      fail(ExitCode::usage,
           "ranks chose different attention backends ({}); force one with --backend",
           fmt::join(choices, ", "));
    }
}

std::vector<std::string_view> backend_names() {
  std::vector<std::string_view> names;
  for (const Candidate& c : kCandidates) names.push_back(c.name);
  return names;
}

}  // namespace longhaul::attention
