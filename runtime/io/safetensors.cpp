// Checkpoints on disk: memory-mapped safetensors files.

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/file_handle.h"
#include "runtime/io/json_checked.h"
#include "runtime/io/safetensors_header.h"
#include "runtime/io/safetensors_index.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 100'000'000;

std::string dims_to_string(std::span<const int64_t> dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

// The bytes behind a name: a stored tensor, or an expert's part of a stored stack of experts.
struct Location {
  size_t stored = 0;
  std::vector<int64_t> dims;
  uint64_t begin = 0;  // in the file
};

// "P.experts.7.gate_proj.weight" -> {"P.experts.", 7, "gate_proj"}
struct ExpertName {
  std::string stack_prefix;
  int64_t expert = 0;
  std::string_view projection;
};
std::optional<ExpertName> split_expert_name(std::string_view name) {
  constexpr std::string_view marker = ".mlp.experts.", tail = ".weight";
  const size_t at = name.find(marker);
  if (at == std::string_view::npos || !name.ends_with(tail)) return std::nullopt;
  ExpertName out;
  const std::string_view rest = name.substr(at + marker.size());
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), out.expert);
  const size_t digits = static_cast<size_t>(end - rest.data());
  if (error != std::errc{} || out.expert < 0 || digits + 1 + tail.size() >= rest.size() ||
      rest[digits] != '.')
    return std::nullopt;
  out.stack_prefix = std::string(name.substr(0, at + marker.size()));
  out.projection = rest.substr(digits + 1, rest.size() - digits - 1 - tail.size());
  return out;
}

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  SafetensorsCheckpoint(const fs::path& dir, std::vector<std::string> files) : dir_(dir.string()) {
    for (std::string& file : files) add_file(dir, std::move(file));
    // A bare decoder (saved without its language-model class) lacks the "model." of every name.
    bare_names_ =
        by_name_.contains("embed_tokens.weight") && !by_name_.contains("model.embed_tokens.weight");
  }

  void check_against(const SafetensorsIndex& index, const std::string& where) const;

  bool has(std::string_view name) const override { return locate(name).has_value(); }
  DType dtype_of(std::string_view name) const override;
  ConstTensorView tensor(std::string_view name, const Shape& expected) override;
  void release(std::string_view name) override;
  std::vector<std::string> unused() const override;
  std::vector<TensorInfo> list() const override;
  int64_t total_bytes() const override { return total_bytes_; }
  uint64_t fingerprint() const override;

 private:
  struct Stored {
    SafetensorsEntry entry;
    size_t file = 0;
    bool asked = false;
  };
  struct File {
    std::string name;
    MappedFile map;
    uint64_t header_bytes = 0;
  };

  void add_file(const fs::path& dir, std::string name);
  std::optional<Location> locate(std::string_view name) const;
  std::optional<Location> locate_in_stack(std::string_view name) const;
  const size_t* find(std::string_view name) const;
  DType dtype_of_stored(const Stored& stored) const;
  std::string path_of(const Stored& stored) const {
    return (fs::path(dir_) / files_[stored.file].name).string();
  }

  std::string dir_;
  std::vector<File> files_;
  std::vector<Stored> stored_;
  std::map<std::string, size_t, std::less<>> by_name_;
  bool bare_names_ = false;
  int64_t total_bytes_ = 0;
  std::mutex mutex_;                                   // guards `asked` and `copies_`
  std::map<std::string, Tensor, std::less<>> copies_;  // of tensors that lie unaligned in the file
};

void SafetensorsCheckpoint::add_file(const fs::path& dir, std::string name) {
  const fs::path path = dir / name;
  File file{std::move(name), MappedFile(path), 0};
  const auto bytes = file.map.bytes();
  SafetensorsHeader header = parse_safetensors_header(bytes, bytes.size(), path.string());
  file.header_bytes = header.header_bytes;
  for (SafetensorsEntry& entry : header.entries) {
    const auto [it, added] = by_name_.emplace(entry.name, stored_.size());
    if (!added)
      fail(ExitCode::mismatch, "{}: tensor {} is in {} and again in {}; remove one", dir_,
           in_quotes(entry.name), in_quotes(files_[stored_[it->second].file].name),
           in_quotes(file.name));
    total_bytes_ += static_cast<int64_t>(entry.end - entry.begin);
    stored_.push_back({std::move(entry), files_.size(), false});
  }
  files_.push_back(std::move(file));
}

void SafetensorsCheckpoint::check_against(const SafetensorsIndex& index,
                                          const std::string& where) const {
  for (const auto& [name, file] : index.weight_map) {
    const auto it = by_name_.find(name);
    if (it == by_name_.end())
      fail(ExitCode::mismatch,
           "{}: tensor {} should be in {}, which lacks it; fetch that shard again", where,
           in_quotes(name), in_quotes(file));
    const std::string& actual = files_[stored_[it->second].file].name;
    if (actual != file)
      fail(ExitCode::mismatch, "{}: tensor {} should be in {} but is in {}; fetch the index again",
           where, in_quotes(name), in_quotes(file), in_quotes(actual));
  }
  for (const Stored& stored : stored_)
    if (!index.weight_map.contains(stored.entry.name))
      fail(ExitCode::mismatch, "{}: does not list tensor {} of {}; fetch the index again", where,
           in_quotes(stored.entry.name), in_quotes(files_[stored.file].name));
  if (index.total_size && *index.total_size != static_cast<uint64_t>(total_bytes_))
    fail(ExitCode::mismatch,
         "{}: metadata.total_size is {} but the shards hold {} bytes; fetch index and shards again",
         where, *index.total_size, total_bytes_);
}

const size_t* SafetensorsCheckpoint::find(std::string_view name) const {
  constexpr std::string_view prefix = "model.";
  if (bare_names_ && name.starts_with(prefix)) name.remove_prefix(prefix.size());
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &it->second;
}

// Experts may be stacked into one tensor a layer, as transformers 5 holds them in memory:
// experts.gate_up_proj [E, 2I, H], the gate's rows before the up projection's, and
// experts.down_proj [E, H, I]. One expert's part is contiguous.
std::optional<Location> SafetensorsCheckpoint::locate_in_stack(std::string_view name) const {
  const std::optional<ExpertName> part = split_expert_name(name);
  if (!part) return std::nullopt;
  const bool down = part->projection == "down_proj";
  const bool up = part->projection == "up_proj";
  if (!down && !up && part->projection != "gate_proj") return std::nullopt;
  const size_t* at = find(part->stack_prefix + (down ? "down_proj" : "gate_up_proj"));
  if (at == nullptr) return std::nullopt;
  const SafetensorsEntry& entry = stored_[*at].entry;
  if (entry.dims.size() != 3 || part->expert >= entry.dims[0]) return std::nullopt;
  if (!down && entry.dims[1] % 2 != 0) return std::nullopt;
  Location out{*at, {entry.dims[1], entry.dims[2]}, 0};
  const uint64_t expert_bytes = (entry.end - entry.begin) / static_cast<uint64_t>(entry.dims[0]);
  out.begin = entry.begin + static_cast<uint64_t>(part->expert) * expert_bytes;
  if (!down) {
    out.dims[0] /= 2;
    if (up) out.begin += expert_bytes / 2;
  }
  return out;
}

std::optional<Location> SafetensorsCheckpoint::locate(std::string_view name) const {
  if (const size_t* at = find(name))
    return Location{*at, stored_[*at].entry.dims, stored_[*at].entry.begin};
  return locate_in_stack(name);
}

DType SafetensorsCheckpoint::dtype_of_stored(const Stored& stored) const {
  const std::optional<DType> dtype = weight_dtype(stored.entry.dtype);
  if (!dtype)
    fail(ExitCode::corrupt, "{}: tensor {} is of dtype {}; longhaul reads BF16, F16, F32 and F64",
         path_of(stored), in_quotes(stored.entry.name), stored.entry.dtype);
  return *dtype;
}

DType SafetensorsCheckpoint::dtype_of(std::string_view name) const {
  const std::optional<Location> location = locate(name);
  if (!location) fail(ExitCode::mismatch, "{}: tensor {} is missing", dir_, in_quotes(name));
  return dtype_of_stored(stored_[location->stored]);
}

ConstTensorView SafetensorsCheckpoint::tensor(std::string_view name, const Shape& expected) {
  const std::optional<Location> location = locate(name);
  if (!location)
    fail(ExitCode::mismatch, "{}: tensor {} is missing; the config asks for one of shape {}", dir_,
         in_quotes(name), expected.to_string());
  Stored& stored = stored_[location->stored];
  if (!std::equal(location->dims.begin(), location->dims.end(), expected.dims().begin(),
                  expected.dims().end()))
    fail(ExitCode::mismatch, "{}: tensor {} has shape {}; the config asks for {}", path_of(stored),
         in_quotes(name), dims_to_string(location->dims), expected.to_string());
  const DType dtype = dtype_of_stored(stored);
  const MappedFile& map = files_[stored.file].map;
  map.check_unchanged();
  ConstTensorView view{map.bytes().data() + location->begin, dtype, expected};
  map.will_need(location->begin, static_cast<size_t>(view.num_bytes()));

  const std::lock_guard lock(mutex_);
  stored.asked = true;
  const auto alignment = static_cast<uintptr_t>(dtype_size(dtype));
  if (reinterpret_cast<uintptr_t>(view.data) % alignment == 0) return view;
  // Headers need not be padded. Reading through a misaligned pointer is undefined, so copy.
  Tensor copy(dtype, expected, MemoryUse::weights);
  std::memcpy(copy.data(), view.data, static_cast<size_t>(view.num_bytes()));
  return copies_.insert_or_assign(std::string(name), std::move(copy)).first->second.view();
}

void SafetensorsCheckpoint::release(std::string_view name) {
  const std::optional<Location> location = locate(name);
  LH_CHECK(location.has_value(), "release of {}", name);
  const Stored& stored = stored_[location->stored];
  uint64_t bytes = static_cast<uint64_t>(*safetensors_dtype_bits(stored.entry.dtype)) / 8;
  for (int64_t dim : location->dims) bytes *= static_cast<uint64_t>(dim);
  files_[stored.file].map.drop(location->begin, bytes);
  const std::lock_guard lock(mutex_);
  const auto copy = copies_.find(name);
  if (copy != copies_.end()) copies_.erase(copy);
}

std::vector<std::string> SafetensorsCheckpoint::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, at] : by_name_)
    if (!stored_[at].asked) names.push_back(name);
  return names;
}

std::vector<TensorInfo> SafetensorsCheckpoint::list() const {
  std::vector<TensorInfo> tensors;
  for (const auto& [name, at] : by_name_) {
    const Stored& stored = stored_[at];
    tensors.push_back({name, stored.entry.dtype, stored.entry.dims,
                       static_cast<int64_t>(stored.entry.end - stored.entry.begin),
                       files_[stored.file].name});
  }
  return tensors;
}

uint64_t SafetensorsCheckpoint::fingerprint() const {
  uint64_t hash = 0;
  for (const File& file : files_) {
    const uint64_t size = file.map.bytes().size();
    hash = XXH3_64bits_withSeed(file.name.data(), file.name.size(), hash);
    hash = XXH3_64bits_withSeed(&size, sizeof size, hash);
    hash = XXH3_64bits_withSeed(file.map.bytes().data(), file.header_bytes, hash);
  }
  return hash;
}

// Names what is there instead, since that is the commonest mistake.
[[noreturn]] void refuse_folder(const fs::path& dir) {
  std::error_code ignored;
  std::string hint;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, ignored)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".gguf")
      hint = fmt::format("; {} is another format, convert it to safetensors",
                         in_quotes(entry.path().filename().string()));
    else if (hint.empty() && extension == ".safetensors")
      hint =
          fmt::format("; {} needs one of these names", in_quotes(entry.path().filename().string()));
  }
  fail(ExitCode::usage, "{}: neither {} nor {} in this folder{}", dir.string(), kSingleFile,
       kIndexFile, hint);
}

void require_shards(const fs::path& dir, const SafetensorsIndex& index, const std::string& where) {
  std::vector<std::string> missing;
  std::error_code ignored;
  for (const std::string& file : index.files)
    if (!fs::exists(dir / file, ignored)) missing.push_back(file);
  if (!missing.empty())
    fail(ExitCode::mismatch, "{}: {} of {} shards missing, the first {}; fetch them", where,
         missing.size(), index.files.size(), in_quotes(missing.front()));
}

}  // namespace

std::unique_ptr<Checkpoint> open_safetensors(const fs::path& model_dir) {
  std::error_code ignored;
  if (!fs::exists(model_dir, ignored))
    fail(ExitCode::usage, "{}: no such model folder; give the folder that holds {}",
         model_dir.string(), kSingleFile);
  if (!fs::is_directory(model_dir, ignored))
    fail(ExitCode::usage, "{}: not a folder; give the folder that holds {}", model_dir.string(),
         kSingleFile);
  if (fs::exists(model_dir / kSingleFile, ignored))
    return std::make_unique<SafetensorsCheckpoint>(model_dir,
                                                   std::vector<std::string>{kSingleFile});
  const fs::path index_path = model_dir / kIndexFile;
  if (!fs::exists(index_path, ignored)) refuse_folder(model_dir);
  const std::string where = index_path.string();
  const SafetensorsIndex index =
      parse_safetensors_index(read_file_checked(index_path, kMaxIndexBytes), where);
  require_shards(model_dir, index, where);
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(
      model_dir, std::vector<std::string>(index.files.begin(), index.files.end()));
  checkpoint->check_against(index, where);
  return checkpoint;
}

}  // namespace longhaul::io
