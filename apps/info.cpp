// longhaul info: what this build is and what it runs on. Under mpirun every rank's place is listed.

#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/gpu.h"
#include "attention/registry.h"
#include "comm/affinity.h"
#include "comm/mpi_session.h"
#include "comm/mpi_version.h"
#include "runtime/core/log.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/ops/machine_peak.h"
#include "runtime/ops/version.h"

namespace longhaul::apps {
namespace {

// Where a rank runs. Trivially copyable.
struct RankPlace {
  char host[64] = {};
  int cores = 0;
  int default_threads = 0;
};

#ifdef __clang__
constexpr const char* kCompiler = __VERSION__;  // names itself
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

std::vector<RankPlace> gather_places(comm::MpiSession& session, const comm::CoreShares& shares) {
  RankPlace own;
  std::strncpy(own.host, session.host().c_str(), sizeof own.host - 1);
  own.cores = static_cast<int>(shares.ranks[static_cast<size_t>(shares.self)].count());
  own.default_threads = shares.default_threads();
  std::vector<RankPlace> all(static_cast<size_t>(session.size()));
  const std::vector<int64_t> bytes(all.size(), sizeof own);
  session.world().all_gather_v(&own, sizeof own, all.data(), bytes, {"gather places"});
  return all;
}

int info(bool json, comm::MpiSession& session) {
  const comm::CoreShares shares = comm::gather_core_shares(session);
  const std::vector<RankPlace> places = gather_places(session, shares);
  if (session.rank() != 0) return 0;
  const GpuInfo gpu = gpu_info();
  nlohmann::ordered_json j;
  j["version"] = LONGHAUL_VERSION;
  j["compiler"] = kCompiler;
  j["features"] = {
      {"mpi", true}, {"hdf5", true}, {"onednn", true}, {"cuda", gpu.built_in}, {"nccl", gpu.nccl}};
  j["libraries"] = {{"mpi", comm::mpi_library_version()},
                    {"hdf5", io::hdf5_library_version()},
                    {"onednn", ops::onednn_library_version()}};
  j["cpu"] = {{"kernels", ops::cpu_isa_name()}, {"bf16_dot_product", ops::cpu_has_bf16_dot()}};
  if (gpu.built_in) j["libraries"]["cuda"] = gpu.cuda_version;
  j["gpus"] = gpu.devices;
  for (std::string_view name : attention::backend_names()) j["attention_backends"].push_back(name);
  for (const RankPlace& p : places)
    j["ranks"].push_back(
        {{"host", p.host}, {"cores", p.cores}, {"default_threads", p.default_threads}});
  const std::string warning = shares.warning(shares.default_threads());
  j["binding_advice"] =
      warning.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(warning);
  if (json) {
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("longhaul {}\n", LONGHAUL_VERSION);
  fmt::print("  built with   {}; {}\n", kCompiler,
             !gpu.built_in ? "CPU ranks over MPI; no CUDA, no NCCL in this build"
                           : fmt::format("CUDA {}, {}", gpu.cuda_version,
                                         gpu.nccl ? "NCCL" : "no NCCL in this build"));
  fmt::print("  MPI          {}\n", comm::mpi_library_version());
  fmt::print("  HDF5         {}\n  oneDNN       {}\n", io::hdf5_library_version(),
             ops::onednn_library_version());
  fmt::print("  CPU kernels  {}{}\n", ops::cpu_isa_name(),
             ops::cpu_has_bf16_dot() ? ", bf16 dot product" : ", no bf16 dot product");
  fmt::print("  attention    {} (in order of priority)\n",
             fmt::join(attention::backend_names(), ", "));
  if (gpu.devices.empty()) fmt::print("  GPUs         {}\n", gpu.why_none);
  for (const std::string& d : gpu.devices) fmt::print("  GPU          {}\n", d);
  for (size_t r = 0; r < places.size(); ++r)
    fmt::print("  rank {:<4}    {}: may run on {} core{}, takes {} thread{} by default\n", r,
               places[r].host, places[r].cores, places[r].cores == 1 ? "" : "s",
               places[r].default_threads, places[r].default_threads == 1 ? "" : "s");
  if (!warning.empty()) fmt::print("  advice       {}\n", warning);
  return 0;
}

}  // namespace

Action add_info_command(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  app.add_flag("--json", *json, "JSON instead of text");
  return [json] {
    comm::MpiSession session(nullptr, nullptr);
    init_log(session.rank(), session.size());
    return comm::run_guarded(session, [&] { return info(*json, session); });
  };
}

}  // namespace longhaul::apps
