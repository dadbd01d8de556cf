#include "runtime/io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <utility>

#include "runtime/core/check.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

// Closes and removes the temporary file unless told to keep it.
class TemporaryFile {
 public:
  explicit TemporaryFile(fs::path path) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd_ < 0)
      fail(ExitCode::resource, "cannot create {}: {}", path_.string(), std::strerror(errno));
  }
  ~TemporaryFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!keep_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view bytes, const fs::path& name_in_message) {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        fail(ExitCode::resource,
             "cannot write {}: {} after {} of {} bytes; nothing was left behind",
             name_in_message.string(), std::strerror(errno), done, bytes.size());
      done += static_cast<size_t>(n);
    }
  }
  // A network file system may report a full disk only here.
  void close(const fs::path& name_in_message) {
    if (::close(std::exchange(fd_, -1)) != 0)
      fail(ExitCode::resource, "cannot write {}: {}", name_in_message.string(),
           std::strerror(errno));
  }
  void keep() { keep_ = true; }

 private:
  fs::path path_;
  int fd_ = -1;
  bool keep_ = false;
};

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Returns 0 or an errno.
int sync_path(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return error;
}

// Renames without ever replacing a file. Returns 0 or an errno.
int rename_if_free(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // Some network file systems lack RENAME_NOREPLACE; a hard link fails on an existing name too.
  if (::link(from.c_str(), to.c_str()) == 0) {
    ::unlink(from.c_str());
    return 0;
  }
  if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) return errno;
  struct stat info {};
  if (::lstat(to.c_str(), &info) == 0) return EEXIST;
  return ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

}  // namespace

void report_file_size_limit_as_error() {
  struct sigaction current {};
  if (::sigaction(SIGXFSZ, nullptr, &current) != 0 || current.sa_handler != SIG_DFL) return;
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  // It can only fail for a signal number that does not exist.
  LH_CHECK(::sigaction(SIGXFSZ, &ignore, nullptr) == 0, "{}", std::strerror(errno));
}

void check_output_path(const fs::path& path, bool force) {
  if (path.empty() || !path.has_filename())
    fail(ExitCode::usage, "'{}' names no file to write to", path.string());
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode))
      fail(ExitCode::usage, "{} exists and is no regular file: give another name", path.string());
    if (!force)
      fail(ExitCode::usage, "{} exists: give another name, or --force to replace it",
           path.string());
  } else if (errno != ENOENT) {
    fail(ExitCode::usage, "cannot write {}: {}", path.string(), std::strerror(errno));
  }
  const fs::path folder = folder_of(path);
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    fail(ExitCode::usage, "cannot write {}: there is no folder {}", path.string(), folder.string());
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(ExitCode::usage, "cannot write {}: folder {}: {}", path.string(), folder.string(),
         std::strerror(errno));
}

fs::path temporary_path(const fs::path& path) {
  static std::atomic<int> count{0};
  fs::path name = path;
  name += fmt::format(".{}-{}.tmp", ::getpid(), count.fetch_add(1));
  return name;
}

void publish_file(const fs::path& temporary, const fs::path& path, bool force) {
  int error = sync_path(temporary, 0);
  const char* step = "sync";
  if (error == 0) {
    step = "rename";
    if (!force)
      error = rename_if_free(temporary, path);
    else
      error = ::rename(temporary.c_str(), path.c_str()) == 0 ? 0 : errno;
  }
  if (error != 0) {
    ::unlink(temporary.c_str());
    if (error == EEXIST)
      fail(ExitCode::usage, "{} exists: give another name, or --force to replace it",
           path.string());
    fail(ExitCode::resource, "cannot write {}: {} failed: {}", path.string(), step,
         std::strerror(error));
  }
  // The name itself is durable once the folder is; file systems that cannot sync a folder say
  // EINVAL.
  error = sync_path(folder_of(path), O_DIRECTORY);
  if (error != 0 && error != EINVAL)
    fail(ExitCode::resource, "cannot sync folder {}: {}", folder_of(path).string(),
         std::strerror(error));
}

void write_file_atomically(const fs::path& path, std::string_view bytes, bool force) {
  report_file_size_limit_as_error();
  check_output_path(path, force);
  const fs::path temporary = temporary_path(path);
  TemporaryFile file(temporary);
  file.write(bytes, path);
  file.close(path);
  publish_file(temporary, path, force);
  file.keep();
}

std::string read_small_file(const fs::path& path, int64_t max_bytes) {
  struct Closer {
    int fd;
    ~Closer() {
      if (fd >= 0) ::close(fd);
    }
  } file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0)
    fail(ExitCode::corrupt, "cannot read {}: {}", path.string(), std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(ExitCode::corrupt, "{} is no regular file", path.string());
  if (info.st_size > max_bytes)
    fail(ExitCode::corrupt, "{} has {} bytes, more than the {} that such a file may have",
         path.string(), info.st_size, max_bytes);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(file.fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ExitCode::corrupt, "cannot read {}: {}", path.string(), std::strerror(errno));
    if (n == 0) break;  // it shrank meanwhile; the parser reports what is missing
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

}  // namespace longhaul::io
