#pragma once
// The MPI library in use, for `longhaul info`.

#include <string>

namespace longhaul::comm {

std::string mpi_library_version();  // "Open MPI v4.1.4"; callable without MPI_Init

}  // namespace longhaul::comm
