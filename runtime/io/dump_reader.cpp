#include "runtime/io/dump_reader.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/io/dump_digest.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

// One file a rank is open at a time; the usual soft limit of 1024 would stop a large job's dump.
void allow_open_files(size_t count) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, count);
  // When it cannot be raised, opening the file that is too many says so.
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return;
}

}  // namespace

DumpReader::DumpReader(const fs::path& dir) : dir_(dir), manifest_(read_manifest(dir)) {
  for (const DumpRankFile& file : manifest_.files) {
    const fs::path path = dir / file.file;
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (error) {
      const bool interrupted = fs::exists(path.string() + ".tmp", error);
      fail(ExitCode::mismatch, "{} is missing{}: the dump lacks all rows of rank {}", path.string(),
           interrupted ? " (its .tmp is there, so its writer was interrupted)" : "", file.rank);
    }
    if (bytes != static_cast<uintmax_t>(file.bytes))
      fail(ExitCode::corrupt, "{} has {} bytes, the manifest says {}: it was cut off or changed",
           path.string(), bytes, file.bytes);
  }
}

void DumpReader::verify_files() const {
  for (const DumpRankFile& file : manifest_.files)
    if (digest_of_file(dir_ / file.file) != file.xxh3)
      fail(ExitCode::corrupt, "{} is damaged: its bytes do not match the manifest's digest",
           (dir_ / file.file).string());
}

void DumpReader::load_index() {
  if (!files_.empty()) return;
  allow_open_files(manifest_.files.size() + 64);
  runs_.assign(manifest_.sequences.size(), {});
  for (const DumpRankFile& file : manifest_.files) {
    files_.push_back(Hdf5File::open(dir_ / file.file));
    const Hdf5Object root = files_.back().root();
    if (!root.has_attribute("complete") || root.int_attribute("complete") != 1)
      fail(ExitCode::mismatch, "{} is not complete: its writer was interrupted",
           (dir_ / file.file).string());
    if (root.int_attribute("rank") != file.rank)
      fail(ExitCode::mismatch, "{} was written by rank {}", (dir_ / file.file).string(),
           root.int_attribute("rank"));
    read_index(file);
  }
  for (size_t s = 0; s < runs_.size(); ++s) check_coverage(static_cast<int>(s));
}

void DumpReader::read_index(const DumpRankFile& file) {
  const std::string shown = (dir_ / file.file).string();
  Hdf5File& hdf5 = files_[static_cast<size_t>(file.rank)];
  const Hdf5Dataset sequences = hdf5.open_dataset("/index/sequence");
  const Hdf5Dataset positions = hdf5.open_dataset("/index/position");
  if (sequences.dtype() != DType::i32 || positions.dtype() != DType::i64 ||
      !(sequences.shape() == Shape{file.rows}) || !(positions.shape() == Shape{file.rows}))
    fail(ExitCode::mismatch, "{}: the index has {} and {} rows, the manifest says {}", shown,
         sequences.shape().to_string(), positions.shape().to_string(), file.rows);
  std::vector<int32_t> sequence(static_cast<size_t>(file.rows));
  std::vector<int64_t> position(static_cast<size_t>(file.rows));
  sequences.read_rows(0, file.rows, sequence.data());
  positions.read_rows(0, file.rows, position.data());
  for (int64_t row = 0; row < file.rows; ++row) {
    const int32_t s = sequence[static_cast<size_t>(row)];
    const int64_t p = position[static_cast<size_t>(row)];
    if (s < 0 || static_cast<size_t>(s) >= runs_.size())
      fail(ExitCode::mismatch, "{}: row {} is of sequence {}, there are {}", shown, row, s,
           runs_.size());
    const DumpSequence& known = manifest_.sequences[static_cast<size_t>(s)];
    if (p < known.first_position || p - known.first_position >= known.num_tokens)
      fail(ExitCode::mismatch, "{}: row {} is position {} of sequence {}, which has {} to {}",
           shown, row, p, s, known.first_position, known.first_position + known.num_tokens - 1);
    std::vector<Run>& runs = runs_[static_cast<size_t>(s)];
    if (!runs.empty() && runs.back().rank == file.rank &&
        runs.back().row + runs.back().count == row && runs.back().position + runs.back().count == p)
      ++runs.back().count;
    else
      runs.push_back({p, 1, row, file.rank});
  }
}

void DumpReader::check_coverage(int sequence) {
  const DumpSequence& known = manifest_.sequences[static_cast<size_t>(sequence)];
  std::vector<Run>& runs = runs_[static_cast<size_t>(sequence)];
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    return std::pair(a.position, a.rank) < std::pair(b.position, b.rank);
  });
  auto missing = [&](int64_t position) {
    fail(ExitCode::mismatch, "{}: no rank has position {} of sequence {}", dir_.string(), position,
         sequence);
  };
  int64_t next = known.first_position;
  int last_rank = -1;
  for (const Run& run : runs) {
    if (run.position < next)
      fail(ExitCode::mismatch, "{}: position {} of sequence {} is there twice, on ranks {} and {}",
           dir_.string(), run.position, sequence, last_rank, run.rank);
    if (run.position > next) missing(next);
    next = run.position + run.count;
    last_rank = run.rank;
  }
  if (next != known.first_position + known.num_tokens) missing(next);
}

Hdf5Dataset DumpReader::open_part(const DumpTensor& tensor, const DumpTensor::Part& part) {
  LH_CHECK(!files_.empty(), "load_index() comes first");
  const DumpRankFile& file = manifest_.files[static_cast<size_t>(part.rank)];
  Hdf5File& hdf5 = files_[static_cast<size_t>(part.rank)];
  const std::string shown = (dir_ / file.file).string();
  const std::string path = "/tensors/" + tensor.name;
  if (part.rows != file.rows)
    fail(ExitCode::mismatch, "{}: {} has {} rows for {} local tokens", shown, tensor.name,
         part.rows, file.rows);
  if (!hdf5.has(path)) fail(ExitCode::mismatch, "{}: {} is missing", shown, tensor.name);
  Hdf5Dataset dataset = hdf5.open_dataset(path);
  std::vector<int64_t> dims(tensor.shape.dims().begin(), tensor.shape.dims().end());
  dims[0] = part.rows;
  const Shape expected{std::span<const int64_t>(dims)};
  if (dataset.dtype() != tensor.dtype || !(dataset.shape() == expected))
    fail(ExitCode::mismatch, "{}: {} is {} {}, the manifest says {} {}", shown, tensor.name,
         dtype_name(dataset.dtype()), dataset.shape().to_string(), dtype_name(tensor.dtype),
         expected.to_string());
  return dataset;
}

DumpTensorReader::DumpTensorReader(DumpReader& dump, const DumpTensor& tensor, int64_t cache_bytes)
    : dump_(dump),
      name_(tensor.name),
      row_bytes_(tensor.shape.row_elements() * dtype_size(tensor.dtype)),
      parts_(dump.manifest().files.size()),
      cache_bytes_(cache_bytes) {
  for (const DumpTensor::Part& part : tensor.parts) {
    Part& own = parts_[static_cast<size_t>(part.rank)];
    own.dataset = dump.open_part(tensor, part);
    own.digest = part.xxh3;
    // Whole chunks, unless someone chose huge ones.
    own.block_rows = own.dataset.chunk_rows();
    if (own.block_rows <= 0 || own.block_rows > 16 * hdf5_chunk_rows(row_bytes_))
      own.block_rows = hdf5_chunk_rows(row_bytes_);
    own.block_rows = std::max<int64_t>(1, std::min(own.block_rows, part.rows));
  }
  for (const DumpRankFile& file : dump.manifest().files)
    if (file.rows > 0 && !parts_[static_cast<size_t>(file.rank)].dataset.defined())
      fail(ExitCode::mismatch, "{}: {} is missing on rank {}, which has {} tokens",
           dump.dir().string(), name_, file.rank, file.rows);
}

void DumpTensorReader::verify() {
  for (size_t rank = 0; rank < parts_.size(); ++rank) {
    const Part& part = parts_[rank];
    if (!part.dataset.defined()) continue;
    std::vector<char> bytes(static_cast<size_t>(part.block_rows * row_bytes_));
    Digest digest;
    for (int64_t row = 0; row < part.dataset.rows(); row += part.block_rows) {
      const int64_t count = std::min(part.block_rows, part.dataset.rows() - row);
      part.dataset.read_rows(row, count, bytes.data());
      digest.update(bytes.data(), count * row_bytes_);
    }
    if (digest.hex() != part.digest)
      fail(ExitCode::corrupt, "{}: {} of rank {} is damaged: its digest is {}, not {}",
           dump_.dir().string(), name_, rank, digest.hex(), part.digest);
  }
}

const DumpTensorReader::Block& DumpTensorReader::block(int rank, int64_t index) {
  const uint64_t key = static_cast<uint64_t>(rank) << 40 | static_cast<uint64_t>(index);
  const auto known = found_.find(key);
  if (known != found_.end()) {
    blocks_.splice(blocks_.begin(), blocks_, known->second);
    return blocks_.front();
  }
  const Part& part = parts_[static_cast<size_t>(rank)];
  const int64_t row = index * part.block_rows;
  const int64_t count = std::min(part.block_rows, part.dataset.rows() - row);
  const int64_t size = count * row_bytes_;
  while (blocks_.size() > 1 && cached_bytes_ + size > cache_bytes_) {
    cached_bytes_ -= static_cast<int64_t>(blocks_.back().bytes.size());
    found_.erase(blocks_.back().key);
    blocks_.pop_back();
  }
  Block fresh{key, std::vector<char>(static_cast<size_t>(size))};
  part.dataset.read_rows(row, count, fresh.bytes.data());
  blocks_.push_front(std::move(fresh));
  found_[key] = blocks_.begin();
  cached_bytes_ += size;
  return blocks_.front();
}

void DumpTensorReader::read(int sequence, int64_t position, int64_t count, void* out) {
  const std::vector<DumpReader::Run>& runs = dump_.runs(sequence);
  char* next = static_cast<char*>(out);
  // The last run that begins at or before `position`.
  auto run = std::upper_bound(runs.begin(), runs.end(), position,
                              [](int64_t p, const DumpReader::Run& r) { return p < r.position; });
  LH_CHECK(run != runs.begin(), "position {} of sequence {}", position, sequence);
  --run;
  while (count > 0) {
    LH_CHECK(
        run != runs.end() && run->position <= position && position < run->position + run->count,
        "position {} of sequence {}", position, sequence);
    const int64_t row = run->row + (position - run->position);
    const Part& part = parts_[static_cast<size_t>(run->rank)];
    const int64_t in_block = row % part.block_rows;
    const int64_t take =
        std::min({count, run->position + run->count - position, part.block_rows - in_block});
    const Block& rows = block(run->rank, row / part.block_rows);
    std::memcpy(next, rows.bytes.data() + in_block * row_bytes_,
                static_cast<size_t>(take * row_bytes_));
    next += take * row_bytes_;
    position += take;
    count -= take;
    if (position == run->position + run->count) ++run;
  }
}

}  // namespace longhaul::io
