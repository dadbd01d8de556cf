#include "apps/plan_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "runtime/core/check.h"

namespace longhaul::apps {
namespace {

namespace fs = std::filesystem;

// An open temporary file that is removed unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path)
      : name_(fmt::format("{}.tmp.{}", path, ::getpid())),
        fd_(::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail(ExitCode::resource, "cannot create {}: {}", name_, std::strerror(errno));
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (fd_ >= 0) static_cast<void>(::close(fd_));
    if (!renamed_) static_cast<void>(::unlink(name_.c_str()));
  }

  void write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::write(fd_, text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(ExitCode::resource, "cannot write {}: {}", name_, std::strerror(errno));
      text.remove_prefix(static_cast<size_t>(n));
    }
  }

  void rename_to(const std::string& path) {
    if (::fsync(fd_) != 0 && errno != EINVAL)  // EINVAL: a file system without fsync
      fail(ExitCode::resource, "cannot write {}: {}", name_, std::strerror(errno));
    const int closed = ::close(fd_);
    fd_ = -1;
    if (closed != 0) fail(ExitCode::resource, "cannot write {}: {}", name_, std::strerror(errno));
    if (std::rename(name_.c_str(), path.c_str()) != 0)
      fail(ExitCode::resource, "cannot rename {} to {}: {}", name_, path, std::strerror(errno));
    renamed_ = true;
  }

 private:
  std::string name_;
  int fd_;
  bool renamed_ = false;
};

}  // namespace

void write_output_file(const std::string& path, std::string_view text, bool force) {
  std::error_code error;
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, error))
    fail(ExitCode::usage, "cannot write {}: there is no folder {}", path, folder.string());
  if (fs::is_directory(path, error))
    fail(ExitCode::usage, "cannot write {}: it is a folder, give a file name", path);
  if (!force && fs::exists(fs::symlink_status(path, error)))
    fail(ExitCode::usage, "{} exists: choose another name or add --force", path);
  TemporaryFile file(path);
  file.write(text);
  file.rename_to(path);
}

void write_stdout(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0)
    fail(ExitCode::resource, "cannot write to stdout: {}", std::strerror(errno));
}

}  // namespace longhaul::apps
