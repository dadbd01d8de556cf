#include "runtime/core/check.h"

namespace longhaul::detail {

void check_failed(const char* expression, const std::string& values, const char* file, int line) {
  throw Error(ExitCode::internal,
              values.empty() ? fmt::format("check failed: {}", expression)
                             : fmt::format("check failed: {} ({})", expression, values),
              file, line);
}

}  // namespace longhaul::detail
