#include "runtime/io/inspect.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <type_traits>

#include "runtime/io/checkpoint.h"
#include "runtime/io/dump_digest.h"
#include "runtime/io/dump_reader.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/safetensors_header.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 8;
constexpr size_t kMaxObjects = 1'000'000;

std::vector<int64_t> to_vector(const Shape& shape) {
  return {shape.dims().begin(), shape.dims().end()};
}

// Calls visit(rows as a tensor) for the dataset, about a MiB at a time.
template <class F>
void for_each_block(const Hdf5Dataset& dataset, F&& visit) {
  const int64_t at_once = std::max<int64_t>(
      1, std::min(dataset.rows(),
                  std::max(dataset.chunk_rows(), hdf5_chunk_rows(dataset.row_bytes()))));
  std::vector<char> bytes(static_cast<size_t>(at_once * dataset.row_bytes()));
  for (int64_t row = 0; row < dataset.rows(); row += at_once) {
    const int64_t count = std::min(at_once, dataset.rows() - row);
    dataset.read_rows(row, count, bytes.data());
    visit(ConstTensorView{bytes.data(), dataset.dtype(),
                          Shape{count, dataset.shape().row_elements()}});
  }
}

Inspection inspect_dump(const fs::path& dir, bool statistics) {
  DumpReader dump(dir);
  const Manifest& m = dump.manifest();
  Inspection out;
  out.kind = "dump";
  out.facts = {
      {"model", m.info.model},
      {"version", m.info.version},
      {"ranks", fmt::format("{} (cp {}, ulysses {}, tp {}, dp {})", m.files.size(), m.info.grid.cp,
                            m.info.grid.ulysses, m.info.grid.tp, m.info.grid.dp)},
      {"layout", m.info.layout},
      {"strategy", m.info.strategy},
      {"backend", m.info.backend},
      {"dtype", m.info.dtype},
      {"sequences", fmt::format("{}", m.sequences.size())},
      {"tokens", fmt::format("{} in {} steps", m.num_tokens(), m.num_steps)},
      {"command", m.info.command}};
  if (statistics) dump.load_index();
  for (const DumpTensor& tensor : m.tensors) {
    InspectedTensor t;
    t.name = tensor.name;
    t.dtype = dtype_name(tensor.dtype);
    t.shape = to_vector(tensor.shape);
    t.dims = tensor.dims;
    t.bytes = tensor.shape.num_elements() * dtype_size(tensor.dtype);
    if (statistics) t.statistics.emplace();
    for (const DumpTensor::Part& part : tensor.parts) {
      if (part.rows > 0) t.ranks.push_back(part.rank);
      if (!statistics) continue;
      Digest digest;
      for_each_block(dump.open_part(tensor, part), [&](ConstTensorView rows) {
        digest.update(rows.data, rows.num_bytes());
        t.statistics->add(rows);
      });
      if (digest.hex() != part.xxh3)
        fail(ExitCode::corrupt, "{}: {} of rank {} is damaged: its digest is {}, not {}",
             dir.string(), tensor.name, part.rank, digest.hex(), part.xxh3);
    }
    out.tensors.push_back(std::move(t));
  }
  return out;
}

// Every dataset below `group`, by name.
void collect_datasets(Hdf5File& file, const std::string& group, int depth, bool statistics,
                      std::vector<InspectedTensor>& out) {
  if (depth > kMaxDepth) fail(ExitCode::corrupt, "{}: groups nested too deep", group);
  for (const std::string& child : file.list(group)) {
    const std::string path = group == "/" ? "/" + child : group + "/" + child;
    if (file.is_group(path)) {
      collect_datasets(file, path, depth + 1, statistics, out);
      continue;
    }
    if (out.size() >= kMaxObjects) fail(ExitCode::corrupt, "{}: too many datasets", group);
    const Hdf5Dataset dataset = file.open_dataset(path);
    InspectedTensor t;
    t.name = path;
    t.dtype = dtype_name(dataset.dtype());
    t.shape = to_vector(dataset.shape());
    t.bytes = dataset.rows() * dataset.row_bytes();
    if (dataset.has_attribute("dims")) t.dims = dataset.string_attribute("dims");
    if (statistics)
      for_each_block(dataset,
                     [&, &s = t.statistics.emplace()](ConstTensorView rows) { s.add(rows); });
    out.push_back(std::move(t));
  }
}

Inspection inspect_hdf5(const fs::path& path, bool statistics) {
  Hdf5File file = Hdf5File::open(path);
  const Hdf5Object root = file.root();
  Inspection out;
  out.kind = "hdf5";
  if (root.has_attribute("format")) {
    const std::string format = root.string_attribute("format");
    if (format == "longhaul-merged") out.kind = "merged";
    if (format == "longhaul-dump-rank") out.kind = "dump-rank";
  }
  if (out.kind != "hdf5") {
    if (!root.has_attribute("complete"))
      fail(ExitCode::mismatch, "{} is not complete: its writer was interrupted", path.string());
    for (const char* key :
         {"model", "version", "layout", "strategy", "backend", "dtype", "command"})
      if (root.has_attribute(key)) out.facts.emplace_back(key, root.string_attribute(key));
    for (const char* key : {"rank", "world_size", "num_ranks"})
      if (root.has_attribute(key))
        out.facts.emplace_back(key, fmt::format("{}", root.int_attribute(key)));
  }
  collect_datasets(file, "/", 0, statistics, out.tensors);
  return out;
}

Inspection inspect_checkpoint(const fs::path& dir, bool statistics) {
  const std::unique_ptr<Checkpoint> checkpoint = open_safetensors(dir);
  Inspection out;
  out.kind = "checkpoint";
  if (fs::exists(dir / "config.json"))
    out.facts.emplace_back("model", read_model_config(dir).model_type);
  for (const TensorInfo& info : checkpoint->list()) {
    InspectedTensor t;
    t.name = info.name;
    t.dtype = info.dtype;
    t.shape = info.dims;
    t.bytes = info.bytes;
    t.file = info.file;
    // A type or a number of dimensions that no weight of ours has is listed without statistics.
    if (statistics && weight_dtype(info.dtype) && info.dims.size() <= Shape::kMaxRank &&
        checkpoint->has(info.name)) {
      const Shape shape{std::span<const int64_t>(info.dims)};
      t.statistics.emplace().add(checkpoint->tensor(info.name, shape));
      checkpoint->release(info.name);
    }
    out.tensors.push_back(std::move(t));
  }
  return out;
}

bool begins_as_hdf5(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  char start[8] = {};
  in.read(start, sizeof start);
  return in.gcount() == 8 && std::string_view(start, 8) == "\x89HDF\r\n\x1a\n";
}

bool holds_rank_files(const fs::path& dir) {
  return std::any_of(fs::directory_iterator(dir), fs::directory_iterator(),
                     [](const fs::directory_entry& e) {
                       return e.path().filename().string().starts_with("rank_");
                     });
}

}  // namespace

namespace {
template <class T>
double to_double(T value) {
  return static_cast<double>(value);
}
double to_double(f16 value) {
  return static_cast<double>(static_cast<float>(value));
}
}  // namespace

template <class T>
void ElementStatistics::add_values(const T* values, int64_t count) {
  // Sums of a block at a time: the small ones are not lost in the large total.
  double sum = 0, square_sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = to_double(values[i]);
    if (!std::isfinite(x)) {
      ++(std::isnan(x) ? nan_ : inf_);
      continue;
    }
    min_ = finite_ == 0 ? x : std::min(min_, x);
    max_ = finite_ == 0 ? x : std::max(max_, x);
    ++finite_;
    sum += x;
    square_sum += x * x;
  }
  sum_ += sum;
  if (std::isfinite(square_sum)) {
    square_sum_ += square_sum;
    return;
  }
  for (int64_t i = 0; i < count; ++i) {  // squares beyond the range of double
    const auto x = static_cast<long double>(to_double(values[i]));
    if (std::isfinite(x)) square_sum_ += x * x;
  }
}

void ElementStatistics::add(ConstTensorView values) {
  auto visit = [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kBlock = 1 << 14;
    const T* data = values.as<T>();
    for (int64_t i = 0; i < values.num_elements(); i += kBlock)
      add_values(data + i, std::min(kBlock, values.num_elements() - i));
  };
  switch (values.dtype) {
    case DType::f64:
      return visit(double{});
    case DType::f32:
      return visit(float{});
    case DType::bf16:
      return visit(bf16{});
    case DType::f16:
      return visit(f16{});
    case DType::i64:
      return visit(int64_t{});
    case DType::i32:
      return visit(int32_t{});
    case DType::u8:
      return visit(uint8_t{});
  }
}

double ElementStatistics::mean() const {
  return finite_ > 0 ? sum_ / static_cast<double>(finite_) : 0;
}

double ElementStatistics::rms() const {
  return finite_ > 0
             ? static_cast<double>(std::sqrt(square_sum_ / static_cast<long double>(finite_)))
             : 0;
}

Inspection inspect_path(const fs::path& path, bool statistics) {
  Inspection out;
  if (!fs::exists(path)) fail(ExitCode::usage, "there is no {}", path.string());
  if (fs::is_directory(path)) {
    if (fs::exists(path / "manifest.json") || holds_rank_files(path))
      out = inspect_dump(path, statistics);
    else if (fs::exists(path / "model.safetensors") ||
             fs::exists(path / "model.safetensors.index.json"))
      out = inspect_checkpoint(path, statistics);
    else
      fail(ExitCode::usage,
           "{} is neither a dump (manifest.json) nor a checkpoint (model.safetensors)",
           path.string());
  } else if (begins_as_hdf5(path)) {
    out = inspect_hdf5(path, statistics);
  } else {
    fail(ExitCode::corrupt, "{} is no HDF5 file", path.string());
  }
  for (const InspectedTensor& t : out.tensors) out.bytes += t.bytes;
  return out;
}

}  // namespace longhaul::io
