#include "runtime/io/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/safetensors_header.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kWriteBytes = 64 << 20;  // a write(2) at a time

struct Shard {
  std::string file;
  std::vector<const TensorSpec*> tensors;
  int64_t bytes = 0;
};

int64_t bytes_of(const Checkpoint& weights, const TensorSpec& tensor) {
  return tensor.shape.num_elements() * dtype_size(weights.dtype_of(tensor.name));
}

// In order, a new one whenever the next tensor would not fit; named as transformers names them.
std::vector<Shard> plan_shards(const Checkpoint& weights, std::span<const TensorSpec> tensors,
                               int64_t max_bytes) {
  std::vector<Shard> shards(1);
  for (const TensorSpec& tensor : tensors) {
    const int64_t bytes = bytes_of(weights, tensor);
    if (!shards.back().tensors.empty() && bytes > max_bytes - shards.back().bytes)
      shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().bytes += bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i)
    shards[i].file = shards.size() == 1
                         ? kSingleFile
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  return shards;
}

std::string header_of(const Checkpoint& weights, const Shard& shard) {
  // transformers refuses a file whose metadata does not say for whom the layout is.
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const TensorSpec* tensor : shard.tensors) {
    const int64_t end = offset + bytes_of(weights, *tensor);
    const auto dims = tensor->shape.dims();
    header[tensor->name] = {
        {"dtype", std::string(safetensors_dtype_name(weights.dtype_of(tensor->name)))},
        {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins aligned
  std::string bytes;
  for (size_t i = 0; i < 8; ++i) bytes += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return bytes + text;
}

// A file under a temporary name, removed again unless it was published.
class ShardFile {
 public:
  explicit ShardFile(const fs::path& final_path)
      : final_path_(final_path), temporary_(temporary_path(final_path)) {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd_ < 0) fail_write();
  }
  ~ShardFile() {
    if (fd_ >= 0) (void)::close(fd_);
    if (!published_) (void)::unlink(temporary_.c_str());
  }
  ShardFile(ShardFile&& o) noexcept
      : final_path_(std::move(o.final_path_)),
        temporary_(std::move(o.temporary_)),
        fd_(std::exchange(o.fd_, -1)),
        published_(std::exchange(o.published_, true)) {}
  ShardFile& operator=(ShardFile&&) = delete;

  // A full disk is better known before an hour of writing. Not every file system can reserve.
  void reserve(int64_t bytes) {
    if (::fallocate(fd_, 0, 0, bytes) != 0 &&
        (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
      fail_write();
  }
  void write(const void* data, int64_t count) {
    const char* from = static_cast<const char*>(data);
    for (int64_t done = 0; done < count;) {
      const auto part = std::min(static_cast<size_t>(count - done), kWriteBytes);
      const ssize_t n = ::write(fd_, from + done, part);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_write();
      done += n;
    }
  }
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0) fail_write();
  }
  void publish(bool force) {
    published_ = true;  // publish_file removes the temporary file itself when it fails
    publish_file(temporary_, final_path_, force);
  }
  const fs::path& final_path() const { return final_path_; }

 private:
  [[noreturn]] void fail_write() const {
    fail(ExitCode::resource, "cannot write {}: {}; nothing was left behind", final_path_.string(),
         std::strerror(errno));
  }

  fs::path final_path_;
  fs::path temporary_;
  int fd_ = -1;
  bool published_ = false;
};

ShardFile write_shard(Checkpoint& weights, const Shard& shard, const fs::path& dir) {
  ShardFile file(dir / shard.file);
  const std::string header = header_of(weights, shard);
  file.reserve(static_cast<int64_t>(header.size()) + shard.bytes);
  file.write(header.data(), static_cast<int64_t>(header.size()));
  for (const TensorSpec* tensor : shard.tensors) {
    const ConstTensorView view = weights.tensor(tensor->name, tensor->shape);
    file.write(view.data, view.num_bytes());
    weights.release(tensor->name);
  }
  file.close();
  return file;
}

std::string index_of(const std::vector<Shard>& shards, int64_t total_bytes) {
  nlohmann::json map = nlohmann::json::object();
  int64_t parameters = 0;
  for (const Shard& shard : shards)
    for (const TensorSpec* tensor : shard.tensors) {
      map[tensor->name] = shard.file;
      parameters += tensor->shape.num_elements();
    }
  const nlohmann::json index = {
      {"metadata", {{"total_parameters", parameters}, {"total_size", total_bytes}}},
      {"weight_map", std::move(map)}};
  return index.dump(2) + "\n";
}

bool is_checkpoint_file(const std::string& name) {
  return name == kSingleFile || name == kIndexFile ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

std::vector<fs::path> checkpoint_files(const fs::path& dir) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error))
    if (is_checkpoint_file(entry.path().filename().string())) files.push_back(entry.path());
  if (error) fail(ExitCode::usage, "{}: cannot be listed: {}", dir.string(), error.message());
  return files;
}

void remove_files(const std::vector<fs::path>& files) {
  for (const fs::path& file : files) {
    std::error_code error;
    fs::remove(file, error);
    if (error)
      fail(ExitCode::resource, "{}: cannot be removed: {}", file.string(), error.message());
  }
}

}  // namespace

void check_checkpoint_folder(const fs::path& dir, bool force) {
  std::error_code ignored;
  const fs::file_status status = fs::status(dir, ignored);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status))
    fail(ExitCode::usage, "{} exists and is no folder: give another name", dir.string());
  const std::vector<fs::path> files = checkpoint_files(dir);
  if (!files.empty() && !force)
    fail(ExitCode::usage, "{} exists: give another folder, or --force to replace the checkpoint",
         files.front().string());
}

WrittenCheckpoint write_checkpoint(Checkpoint& weights, std::span<const TensorSpec> tensors,
                                   const fs::path& dir, const WriteCheckpointOptions& options) {
  LH_CHECK(options.max_shard_bytes > 0, "{} bytes", options.max_shard_bytes);
  LH_CHECK(!tensors.empty());
  check_checkpoint_folder(dir, options.force);
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) fail(ExitCode::resource, "{}: cannot be made: {}", dir.string(), error.message());

  const std::vector<Shard> shards = plan_shards(weights, tensors, options.max_shard_bytes);
  WrittenCheckpoint written;
  std::vector<ShardFile> files;
  for (const Shard& shard : shards) {
    files.push_back(write_shard(weights, shard, dir));
    written.files.push_back(shard.file);
    written.total_bytes += shard.bytes;
  }
  // From here on only renames. The old index goes first, so that no moment shows a checkpoint made
  // of old and new parts.
  std::vector<fs::path> old = checkpoint_files(dir);
  std::sort(old.begin(), old.end(), [](const fs::path& a, const fs::path& b) {
    return (a.filename() == kIndexFile) > (b.filename() == kIndexFile);
  });
  remove_files(old);
  for (ShardFile& file : files) file.publish(options.force);
  if (shards.size() > 1) {
    write_file_atomically(dir / kIndexFile, index_of(shards, written.total_bytes), options.force);
    written.files.push_back(kIndexFile);
  }
  return written;
}

}  // namespace longhaul::io
