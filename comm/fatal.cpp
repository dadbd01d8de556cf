#include "comm/fatal.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>

#include "runtime/core/temporaries.h"

namespace longhaul::comm {
namespace {

std::atomic<FatalHandler> fatal_handler{nullptr};

}  // namespace

Failure explain(std::exception_ptr error) {
  Failure failure;
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    failure = {e.code(), e.what()};
    if (e.code() == ExitCode::internal)
      failure.message = fmt::format("internal error: {} [{}:{}]", e.what(), e.file(), e.line());
  } catch (const std::bad_alloc&) {
    failure = {ExitCode::resource, "out of memory"};
  } catch (const std::exception& e) {
    failure = {ExitCode::internal, fmt::format("internal error: {}", e.what())};
  } catch (...) {
    failure = {ExitCode::internal, "internal error: an exception of unknown type"};
  }
  std::replace(failure.message.begin(), failure.message.end(), '\n', ' ');
  return failure;
}

void end_process(std::exception_ptr error) {
  const Failure failure = explain(error);
  if (FatalHandler handler = fatal_handler.load()) handler(failure);
  std::fprintf(stderr, "longhaul: %s\n", failure.message.c_str());
  exit_at_once(static_cast<int>(failure.code));
}

void set_fatal_handler(FatalHandler handler) {
  fatal_handler.store(handler);
}

}  // namespace longhaul::comm
