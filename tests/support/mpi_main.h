#pragma once
// For tests under mpirun: the session that main() in mpi_main.cpp opens.

#include "comm/mpi_session.h"

namespace longhaul::testing_support {

comm::MpiSession& session();

}  // namespace longhaul::testing_support
