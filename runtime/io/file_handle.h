#pragma once
// A file opened for reading, and a read-only mapping of one.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace longhaul::io {

// Owns a descriptor. Move-only.
class FileHandle {
 public:
  FileHandle() = default;
  // Opens a regular file (symbolic links are followed: the Hugging Face cache is made of them).
  // Never blocks on a pipe or device. Throws Error(corrupt) when it is something else or cannot be
  // opened.
  static FileHandle open_regular(const std::filesystem::path& file);
  ~FileHandle();
  FileHandle(FileHandle&& o) noexcept;
  FileHandle& operator=(FileHandle&& o) noexcept;
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;

  int fd() const { return fd_; }
  uint64_t size() const;  // now, in bytes

 private:
  int fd_ = -1;
  std::string name_;
};

// The whole of a file, mapped read-only. Move-only; empty files map to nothing.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& o) noexcept;
  MappedFile& operator=(MappedFile&& o) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Throws Error(corrupt) when the file is no longer as long as when it was mapped: touching pages
  // behind the end of a file kills the process (SIGBUS).
  void check_unchanged() const;
  // Hints to the kernel; failures do no harm and are ignored.
  void will_need(size_t begin, size_t count) const;
  // Takes whole pages inside the range out of this process (they stay in the page cache).
  void drop(size_t begin, size_t count) const;

 private:
  void unmap();

  FileHandle handle_;
  std::string name_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace longhaul::io
