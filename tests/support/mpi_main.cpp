// main() of every test under mpirun: one MPI session, failures of any rank fail the job.
#include "tests/support/mpi_main.h"

#include <gtest/gtest.h>

#include <exception>

namespace {
longhaul::comm::MpiSession* open_session = nullptr;
}

longhaul::comm::MpiSession& longhaul::testing_support::session() {
  return *open_session;
}

int main(int argc, char** argv) {
  // A failure on one rank would leave the others waiting: it throws, and the session ends all.
  testing::GTEST_FLAG(catch_exceptions) = false;
  testing::GTEST_FLAG(throw_on_failure) = true;
  testing::InitGoogleTest(&argc, argv);
  try {
    longhaul::comm::SessionOptions options;
    options.timeout_seconds = 30;
    longhaul::comm::MpiSession session(&argc, &argv, options);
    open_session = &session;
    if (session.rank() != 0) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
    }
    return longhaul::comm::run_guarded(session, [] { return RUN_ALL_TESTS(); });
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
