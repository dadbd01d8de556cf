#pragma once
// What any Communicator must do, run over threads in tests/unit/comm and over MPI in
// tests/mpi/comm. Every rank calls a case with the same seed; a wrong byte throws.

#include <cstdint>
#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace longhaul::comm::cases {

// Random sizes, zero among them, and random delays per rank.
void all_gather_random(Communicator& comm, uint64_t seed, int repeats);
void all_to_all_random(Communicator& comm, uint64_t seed, int repeats);
void send_recv_shifts(Communicator& comm, uint64_t seed, int repeats);
// Sums, minima and maxima of integers exactly, of floats with the same bits on every rank.
void all_reduce_exact(Communicator& comm, uint64_t seed, int repeats);
void broadcast_random(Communicator& comm, uint64_t seed, int repeats);
// Nobody leaves a barrier before all have come.
void barrier_holds(Communicator& comm, uint64_t seed, int repeats);
// Many operations of all kinds under way at once, waited for in another order on each rank.
void overlapping(Communicator& comm, uint64_t seed, int repeats);
// Messages of `bytes` bytes each way, checked at the ends and at steps between.
void large(Communicator& comm, int64_t bytes);
// What was started arrives while nobody waits or tests.
void arrives_meanwhile(Communicator& comm, int64_t bytes);
// Small exchanges, several under way, one after the other without a pause.
void storm(Communicator& comm, uint64_t seed, int exchanges);
void traffic_counts(Communicator& comm);

using Split = std::function<std::unique_ptr<Communicator>(int color, int key)>;
// Groups with reversed ranks, and operations of group and world mixed.
void split_groups(Communicator& world, const Split& split, uint64_t seed);

}  // namespace longhaul::comm::cases
