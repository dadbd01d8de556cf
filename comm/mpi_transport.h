#pragma once
// Messages between ranks over MPI, by non-blocking calls only.
//
// A message is a Fingerprint with its payload behind it when that is small; else the payload
// follows in chunks straight between the users' buffers, a few under way at a time, so that counts
// stay below 2^31 and a slow network still shows progress.

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/operation.h"
#include "comm/rank_watch.h"

namespace longhaul::comm {

void check_mpi(int code, const char* call);  // throws Error(internal) with MPI's own text

class MpiTransport final : public Transport {
 public:
  struct Options {
    int64_t chunk_bytes = int64_t{16} << 20;
    int64_t inline_bytes = 3072;  // with the Fingerprint below Open MPI's eager limit of 4096
    bool crowded = false;         // more ranks than cores on this host
  };
  // Owns `comm` when it is not MPI_COMM_WORLD.
  MpiTransport(MPI_Comm comm, RankWatch& watch, const Options& options);
  ~MpiTransport() override;
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  std::unique_ptr<Exchange> post(const Fingerprint& fingerprint, const Round& round) override;
  void pause(int turn) override;
  MPI_Comm comm() const { return comm_; }
  const Options& options() const { return options_; }

 private:
  friend class MpiExchange;
  MPI_Comm comm_;
  RankWatch& watch_;
  Options options_;
  uint64_t num_tags_ = 0;  // operations that may be under way with distinct tags
};

}  // namespace longhaul::comm
