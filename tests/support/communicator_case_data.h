#pragma once
// The data of the communicator cases: what every byte of every message must be.

#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "runtime/core/check.h"

namespace longhaul::comm::cases {

using Random = std::mt19937_64;
using Bytes = std::vector<uint8_t>;

inline int64_t below(Random& random, int64_t n) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
}

// Byte i of what `from` sends to `to` in operation `op`.
inline uint8_t byte_of(uint64_t op, int from, int to, int64_t i) {
  const uint64_t h = (op * 131 + static_cast<uint64_t>(from)) * 137 + static_cast<uint64_t>(to);
  return static_cast<uint8_t>((h * 0x9e3779b97f4a7c15u >> 40) + static_cast<uint64_t>(i) * 7);
}
inline void fill(uint8_t* data, int64_t bytes, uint64_t op, int from, int to) {
  for (int64_t i = 0; i < bytes; ++i) data[i] = byte_of(op, from, to, i);
}
inline void expect(const uint8_t* data, int64_t bytes, uint64_t op, int from, int to,
                   const char* what) {
  for (int64_t i = 0; i < bytes; ++i)
    LH_CHECK(data[i] == byte_of(op, from, to, i),
             "{} {}: byte {} of {} from rank {} to {}: {} for {}", what, op, i, bytes, from, to,
             data[i], byte_of(op, from, to, i));
}

// A pause of this rank alone: mostly none.
inline void random_delay(Communicator& comm, Random& common) {
  Random own(common() + static_cast<uint64_t>(comm.rank()) * 977);
  if (below(own, 8) == 0) std::this_thread::sleep_for(std::chrono::microseconds(below(own, 300)));
}

}  // namespace longhaul::comm::cases
