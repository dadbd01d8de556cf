#pragma once
// What the environment says about the job before MPI_Init: Open MPI's mpirun, srun with PMIx, other
// MPIs' launchers (PMI), or none.

#include <string>

namespace longhaul::comm {

struct Launcher {
  bool launched = false;  // a launcher that MPI_Init can talk to started this process
  int rank = -1;          // -1: not told
  int size = -1;
  int local_rank = -1;
  int local_size = -1;
  std::string job;  // the same for the ranks of this job on this host, and for no other
};

Launcher find_launcher();

// The Slurm trap: Slurm started (or allocated for) several tasks but each would run as rank 0 of 1,
// since srun was told no PMI that MPI knows, or the program was started without a launcher.
// Throws Error(usage) with what to do. mpi_size: 1, or what MPI_Init gave.
void check_slurm(const Launcher& launcher, int mpi_size);

}  // namespace longhaul::comm
