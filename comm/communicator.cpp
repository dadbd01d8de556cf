#include "comm/communicator.h"

#include "comm/fatal.h"

namespace longhaul::comm {

Request::~Request() {
  if (!impl_) return;
  try {
    impl_->wait();
  } catch (...) {
    // While an error is on its way to the top, it is the one to report; this is its consequence.
    if (std::uncaught_exceptions() == 0) end_process(std::current_exception());
  }
}

}  // namespace longhaul::comm
