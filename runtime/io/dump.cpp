#include "runtime/io/dump.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "runtime/core/temporaries.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/dump_steps.h"
#include "runtime/io/dump_stream.h"
#include "runtime/io/glob.h"
#include "runtime/io/run_attributes.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

// Rows waiting for their chunk to fill, over all tensors; more are written as part of a chunk.
constexpr int64_t kMaxBufferedBytes = int64_t{64} << 20;

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

// "rank_0003.h5", "manifest.json", and what an interrupted run leaves of them.
bool is_dump_file(const fs::directory_entry& entry) {
  std::error_code error;
  if (!entry.is_regular_file(error) || entry.is_symlink(error)) return false;
  std::string name = entry.path().filename().string();
  if (name.starts_with("manifest.json")) return name == "manifest.json" || name.ends_with(".tmp");
  if (name.ends_with(".tmp")) name.resize(name.size() - 4);
  if (!name.starts_with("rank_") || !name.ends_with(".h5")) return false;
  const std::string digits = name.substr(5, name.size() - 8);
  return digits.size() >= 4 && digits.find_first_not_of("0123456789") == std::string::npos;
}

// "t h d" says nothing about the sharding, which the dump knows: "t[cp:zigzag] h d".
std::string with_layout(std::string_view dims, const std::string& layout) {
  if (!dims.starts_with("t") || (dims.size() > 1 && dims[1] != ' ')) return std::string(dims);
  return fmt::format("t[cp:{}]{}", layout, dims.substr(1));
}

}  // namespace

namespace {

// What an earlier dump left in DIR, the manifest first; refuses as prepare_dump_directory says.
std::vector<fs::path> earlier_dump(const fs::path& dir, bool force) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (!is_dump_file(entry))
      fail(ExitCode::usage, "{} holds {}, which no dump wrote: give an empty or new folder",
           dir.string(), entry.path().filename().string());
    files.push_back(entry.path());
  }
  if (error) fail(ExitCode::usage, "cannot read the folder {}: {}", dir.string(), error.message());
  if (!files.empty() && !force)
    fail(ExitCode::usage, "{} holds a dump: give another folder, or --force to replace it",
         dir.string());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void check_dump_directory(const fs::path& dir, bool force) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (status.type() == fs::file_type::not_found) return;
  if (!fs::is_directory(status))
    fail(ExitCode::usage, "cannot make the folder {} for a dump: a file has that name",
         dir.string());
  earlier_dump(dir, force);
}

void prepare_dump_directory(const fs::path& dir, bool force) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error || !fs::is_directory(dir))
    fail(ExitCode::usage, "cannot make the folder {} for a dump: {}", dir.string(),
         error ? error.message() : "a file has that name");
  // The manifest goes first, so that an interruption here leaves no dump that looks whole.
  for (const fs::path& file : earlier_dump(dir, force))
    if (!fs::remove(file, error) || error)
      fail(ExitCode::usage, "cannot remove {}: {}", file.string(), error.message());
  if (::access(dir.c_str(), W_OK | X_OK) != 0)
    fail(ExitCode::usage, "cannot write into {}: {}", dir.string(), std::strerror(errno));
}

struct HdfDump::Impl {
  struct Tensor {
    RowStream stream;
    std::string dims;
    int64_t order;
  };

  fs::path path, temporary;
  int rank = 0, world_size = 1;
  GlobFilter filter;
  DumpInfo info;
  std::optional<Hdf5File> file;
  std::map<std::string, Tensor, std::less<>> tensors;
  RowStream sequence_index{"/index/sequence", DType::i32, Shape{0}};
  RowStream position_index{"/index/position", DType::i64, Shape{0}};
  StepRecord steps;
  int64_t step_rows = 0;  // local tokens of this step
  int64_t rows = 0;       // of all steps begun
  int64_t buffered = 0;
  int64_t final_bytes = 0;
  bool in_step = false;
  Progress* progress = nullptr;

  Hdf5File& open_file() {
    LH_CHECK(file.has_value(), "the dump {} is closed or given up", path.string());
    return *file;
  }

  void remove_temporary() noexcept {
    forget_temporary(temporary.string());
    // The streams' datasets keep the file, and so its disk space, as long as they live.
    tensors.clear();
    sequence_index.abandon();
    position_index.abandon();
    file.reset();
    std::error_code ignored;
    fs::remove(temporary, ignored);
  }

  // After a failure nothing is left, and the failure goes on.
  template <class F>
  void guarded(F&& work) {
    try {
      work();
    } catch (...) {
      remove_temporary();
      throw;
    }
  }

  void create();
  void write_index(const layout::BatchLayout& layout, int cp_rank);
  void append(RowStream& stream, const void* data, int64_t count);
  RankPart finish();
};

void HdfDump::Impl::create() {
  if (fs::exists(path))
    fail(ExitCode::usage, "{} exists: the dump's folder must be empty", path.string());
  file = Hdf5File::create(temporary, path.string());
  Hdf5Object root = file->root();
  root.set_attribute("format", "longhaul-dump-rank");
  write_run_attributes(root, info);
  root.set_attribute("host", host_name());
  layout::ProcessGrid grid = info.grid;
  grid.world_rank = rank;
  const std::pair<const char*, int> numbers[] = {{"rank", rank},
                                                 {"world_size", world_size},
                                                 {"dp", grid.dp},
                                                 {"cp", grid.cp},
                                                 {"ulysses", grid.ulysses},
                                                 {"tp", grid.tp},
                                                 {"dp_rank", grid.dp_rank()},
                                                 {"cp_rank", grid.cp_rank()},
                                                 {"ulysses_rank", grid.ulysses_rank()},
                                                 {"tp_rank", grid.tp_rank()}};
  for (const auto& [key, value] : numbers) root.set_attribute(key, int64_t{value});
}

void HdfDump::Impl::append(RowStream& stream, const void* data, int64_t count) {
  buffered -= stream.buffered_bytes();
  stream.append(open_file(), data, count);
  buffered += stream.buffered_bytes();
  if (buffered <= kMaxBufferedBytes) return;
  for (auto& [name, tensor] : tensors) tensor.stream.flush(open_file());
  sequence_index.flush(open_file());
  position_index.flush(open_file());
  buffered = 0;
}

// What each local row is, in local order: prev blocks of all sequences, then next blocks.
void HdfDump::Impl::write_index(const layout::BatchLayout& layout, int cp_rank) {
  std::vector<int32_t> sequence;
  std::vector<int64_t> position;
  for (const layout::Half half : {layout::Half::prev, layout::Half::next}) {
    for (int s = 0; s < layout.num_sequences(); ++s) {
      const layout::Block& block = layout.block(cp_rank, half, s);
      for (int64_t p = block.start; p < block.end(); ++p) {
        sequence.push_back(s);
        position.push_back(p);
      }
    }
  }
  step_rows = static_cast<int64_t>(sequence.size());
  LH_CHECK(step_rows == layout.num_tokens(cp_rank), "{} rows, the layout says {}", step_rows,
           layout.num_tokens(cp_rank));
  append(sequence_index, sequence.data(), step_rows);
  append(position_index, position.data(), step_rows);
}

RankPart HdfDump::Impl::finish() {
  LH_CHECK(!in_step, "closed within a step");
  RankPart part;
  part.world_size = world_size;
  part.num_steps = steps.num_steps();
  part.sequences = steps.sequences();
  std::vector<std::pair<const std::string, Tensor>*> ordered;
  for (auto& entry : tensors) ordered.push_back(&entry);
  std::sort(ordered.begin(), ordered.end(),
            [](const auto* a, const auto* b) { return a->second.order < b->second.order; });
  for (auto* entry : ordered) {
    Tensor& tensor = entry->second;
    const std::string digest = tensor.stream.digest();
    Hdf5Dataset dataset = tensor.stream.finish(open_file());
    dataset.set_attribute("dims", tensor.dims);
    dataset.set_attribute("dtype_logical", dtype_name(dataset.dtype()));
    dataset.set_attribute("order", tensor.order);
    dataset.set_attribute("xxh3", digest);
    part.tensors.push_back({entry->first,
                            dataset.dtype(),
                            dataset.shape(),
                            tensor.dims,
                            {{rank, dataset.rows(), digest}}});
  }
  for (RowStream* index : {&sequence_index, &position_index}) {
    const std::string digest = index->digest();
    index->finish(open_file()).set_attribute("xxh3", digest);
  }
  steps.write(open_file());
  open_file().root().set_attribute("complete", int64_t{1});
  open_file().close(progress);
  file.reset();
  part.file = {rank,        path.filename().string(),
               host_name(), static_cast<int64_t>(fs::file_size(temporary)),
               rows,        digest_of_file(temporary, progress)};
  publish_file(temporary, path, false);
  forget_temporary(temporary.string());
  return part;
}

HdfDump::HdfDump(const fs::path& dir, int rank, int world_size,
                 const std::vector<std::string>& filters, DumpInfo info, Progress* progress)
    : impl_(std::make_unique<Impl>()) {
  LH_CHECK(rank >= 0 && rank < world_size, "rank {} of {}", rank, world_size);
  if (info.grid.tp > 1 || info.grid.dp > 1)
    fail(ExitCode::usage,
         "a dump needs every token on one rank: --tp {} and --dp {} cannot be dumped, use --cp",
         info.grid.tp, info.grid.dp);
  impl_->filter = GlobFilter(filters);
  impl_->info = std::move(info);
  impl_->progress = progress;
  impl_->rank = rank;
  impl_->world_size = world_size;
  impl_->path = dir / rank_file_name(rank);
  impl_->temporary = impl_->path;
  impl_->temporary += ".tmp";
  remember_temporary(impl_->temporary.string());
  impl_->guarded([&] { impl_->create(); });
}

HdfDump::~HdfDump() {
  if (impl_->file.has_value()) impl_->remove_temporary();
}

bool HdfDump::wants(std::string_view name) const {
  return impl_->filter.matches(name);
}

void HdfDump::begin_step(const layout::BatchLayout& layout, int cp_rank) {
  Impl& d = *impl_;
  LH_CHECK(!d.in_step, "the last step was not ended");
  d.guarded([&] {
    d.steps.add(layout, cp_rank);
    d.write_index(layout, cp_rank);
  });
  d.rows += d.step_rows;
  d.in_step = true;
}

void HdfDump::write(std::string_view name, ConstTensorView rows, std::string_view dims) {
  Impl& d = *impl_;
  LH_CHECK(d.in_step, "{} written outside a step", name);
  if (!wants(name)) return;
  LH_CHECK(is_tensor_name(name), "'{}' is no name for a tensor", name);
  LH_CHECK(rows.shape.rank() >= 1 && rows.rows() == d.step_rows && rows.shape.row_elements() > 0,
           "{} {} in a step of {} local tokens", name, rows.shape.to_string(), d.step_rows);
  auto found = d.tensors.find(name);
  if (found == d.tensors.end()) {
    const auto order = static_cast<int64_t>(d.tensors.size());
    Impl::Tensor tensor{RowStream("/tensors/" + std::string(name), rows.dtype, rows.shape),
                        with_layout(dims, d.info.layout), order};
    found = d.tensors.emplace(std::string(name), std::move(tensor)).first;
  }
  RowStream& stream = found->second.stream;
  LH_CHECK(stream.same_rows(rows.dtype, rows.shape), "{}: {} {} after {} {}", name,
           dtype_name(rows.dtype), rows.shape.to_string(), dtype_name(stream.dtype()),
           stream.shape().to_string());
  LH_CHECK(stream.rows() == d.rows - d.step_rows, "{}: {} rows before this step of {}", name,
           stream.rows(), d.rows - d.step_rows);
  d.guarded([&] { d.append(stream, rows.data, rows.rows()); });
  if (d.progress != nullptr) d.progress->tick();
}

void HdfDump::end_step() {
  Impl& d = *impl_;
  LH_CHECK(d.in_step, "no step to end");
  for (const auto& [name, tensor] : d.tensors)
    LH_CHECK(tensor.stream.rows() == d.rows, "{} has {} rows of {} local tokens", name,
             tensor.stream.rows(), d.rows);
  d.in_step = false;
}

std::string HdfDump::close() {
  Impl& d = *impl_;
  d.open_file();
  std::string part;
  d.guarded([&] {
    const RankPart finished = d.finish();
    d.final_bytes = finished.file.bytes;
    part = to_json(finished);
  });
  return part;
}

int64_t HdfDump::bytes_written() const {
  return impl_->file.has_value() ? impl_->file->bytes_written() : impl_->final_bytes;
}

}  // namespace longhaul::io
