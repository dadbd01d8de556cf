#pragma once
// XXH3 digests (64 bits) of dumps: they find damage, not forgery.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/core/progress.h"

namespace longhaul::io {

// Bytes in any number of pieces; 16 hex digits out.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  void update(const void* bytes, int64_t count);
  std::string hex() const;  // of everything so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view bytes);
// Reads the whole file; `progress` gets ticks. Throws Error(corrupt) when it cannot be read.
std::string digest_of_file(const std::filesystem::path& path, Progress* progress = nullptr);

}  // namespace longhaul::io
