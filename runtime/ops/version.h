#pragma once
// The matrix library in use, for `longhaul info`.

#include <string>

namespace longhaul::ops {

std::string onednn_library_version();  // "2.6.3", of the library that is linked

}  // namespace longhaul::ops
