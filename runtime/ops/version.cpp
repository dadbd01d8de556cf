#include "runtime/ops/version.h"

#include <fmt/format.h>

#include <dnnl.hpp>

namespace longhaul::ops {

std::string onednn_library_version() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
}

}  // namespace longhaul::ops
