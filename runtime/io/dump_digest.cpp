#include "runtime/io/dump_digest.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "runtime/core/check.h"

namespace longhaul::io {

struct Digest::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { XXH3_freeState(xxh); }
};

Digest::Digest() : state_(std::make_unique<State>()) {
  if (state_->xxh == nullptr) throw std::bad_alloc();
  LH_CHECK(XXH3_64bits_reset(state_->xxh) == XXH_OK);
}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(const void* bytes, int64_t count) {
  if (count == 0) return;
  LH_CHECK(XXH3_64bits_update(state_->xxh, bytes, static_cast<size_t>(count)) == XXH_OK);
}

std::string Digest::hex() const {
  return fmt::format("{:016x}", static_cast<uint64_t>(XXH3_64bits_digest(state_->xxh)));
}

std::string digest_of(std::string_view bytes) {
  return fmt::format("{:016x}", static_cast<uint64_t>(XXH3_64bits(bytes.data(), bytes.size())));
}

std::string digest_of_file(const std::filesystem::path& path, Progress* progress) {
  struct Closer {
    int fd;
    ~Closer() {
      if (fd >= 0) ::close(fd);
    }
  } file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0)
    fail(ExitCode::corrupt, "cannot read {}: {}", path.string(), std::strerror(errno));
  // Small enough for the cache, so that hashing does not wait for memory.
  std::vector<char> buffer(size_t{1} << 18);
  Digest digest;
  while (true) {
    const ssize_t n = ::read(file.fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ExitCode::corrupt, "cannot read {}: {}", path.string(), std::strerror(errno));
    if (n == 0) return digest.hex();
    digest.update(buffer.data(), n);
    if (progress != nullptr) progress->tick();
  }
}

}  // namespace longhaul::io
