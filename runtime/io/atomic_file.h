#pragma once
// Files that exist whole under their name or not at all: written beside it under a temporary name,
// synced, then renamed. Survives kill -9 and a full disk (the temporary file may stay after a
// kill).

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace longhaul::io {

// Call before any work is done: throws Error(usage) when `path` exists and `force` is false, when
// it is no regular file, when its folder does not exist or when the folder cannot be written to.
void check_output_path(const std::filesystem::path& path, bool force);

// Throws as check_output_path, and Error(resource) with the file and the bytes written when the
// disk is full or a limit is hit; nothing is left then. Mode 0640, less the umask.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes, bool force);

// A name beside `path` that no other process uses: "<path>.<pid>-<count>.tmp".
std::filesystem::path temporary_path(const std::filesystem::path& path);

// Syncs the file, gives it its final name and syncs the folder. Without `force` an existing file of
// that name is never replaced, not even one that appeared meanwhile. On failure `temporary` is
// removed. Throws Error(usage) when the name is taken, else Error(resource).
void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& path,
                  bool force);

// Writing past RLIMIT_FSIZE kills a process by default; after this it gives the error EFBIG, which
// is reported like a full disk. A handler that someone else installed stays.
void report_file_size_limit_as_error();

// Reads a whole file of at most max_bytes. Throws Error(corrupt) when it cannot be read or is
// larger.
std::string read_small_file(const std::filesystem::path& path, int64_t max_bytes);

}  // namespace longhaul::io
