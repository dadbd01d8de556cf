#include "runtime/io/merge.h"

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/io/atomic_file.h"
#include "runtime/io/dump_digest.h"
#include "runtime/io/dump_reader.h"
#include "runtime/io/run_attributes.h"

namespace longhaul::io {
namespace {

namespace fs = std::filesystem;

void describe_run(Hdf5Object root, const Manifest& manifest) {
  const DumpInfo& info = manifest.info;
  root.set_attribute("format", "longhaul-merged");
  write_run_attributes(root, info);
  root.set_attribute("num_ranks", static_cast<int64_t>(manifest.files.size()));
  root.set_attribute("cp", int64_t{info.grid.cp});
  root.set_attribute("ulysses", int64_t{info.grid.ulysses});
}

void describe_sequence(Hdf5Object group, const Manifest& manifest, size_t sequence) {
  const DumpSequence& extent = manifest.sequences[sequence];
  group.set_attribute("first_position", extent.first_position);
  group.set_attribute("num_tokens", extent.num_tokens);
  if (sequence >= manifest.info.prompts.size()) return;
  group.set_attribute("id", manifest.info.prompts[sequence].id);
  group.set_attribute("num_prompt_tokens", manifest.info.prompts[sequence].num_tokens);
}

// The dump's annotation without how it was sharded: "t[cp:zigzag] h d" is "t h d" here.
std::string without_layout(const std::string& dims) {
  if (!dims.starts_with("t[cp:")) return dims;
  const size_t end = dims.find(']');
  return end == std::string::npos ? dims : fmt::format("t{}", dims.substr(end + 1));
}

void merge_rows(Hdf5File& out, DumpTensorReader& reader, const DumpTensor& tensor, int sequence,
                const DumpSequence& extent, int64_t order) {
  std::vector<int64_t> dims(tensor.shape.dims().begin(), tensor.shape.dims().end());
  dims[0] = extent.num_tokens;
  Hdf5Dataset dataset =
      out.create_dataset(fmt::format("/sequences/{}/{}", sequence, tensor.name), tensor.dtype,
                         Shape(std::span<const int64_t>(dims)), false);
  const int64_t at_once = dataset.chunk_rows();
  std::vector<char> rows(static_cast<size_t>(at_once * dataset.row_bytes()));
  Digest digest;
  for (int64_t row = 0; row < extent.num_tokens; row += at_once) {
    const int64_t count = std::min(at_once, extent.num_tokens - row);
    reader.read(sequence, extent.first_position + row, count, rows.data());
    dataset.write_rows(row, count, rows.data());
    digest.update(rows.data(), count * dataset.row_bytes());
  }
  dataset.set_attribute("dims", without_layout(tensor.dims));
  dataset.set_attribute("dtype_logical", dtype_name(tensor.dtype));
  dataset.set_attribute("order", order);
  dataset.set_attribute("xxh3", digest.hex());
}

void write_merged(DumpReader& dump, const fs::path& temporary, const fs::path& shown) {
  const Manifest& manifest = dump.manifest();
  Hdf5File out = Hdf5File::create(temporary, shown.string());
  describe_run(out.root(), manifest);
  for (size_t s = 0; s < manifest.sequences.size(); ++s)
    describe_sequence(out.create_group(fmt::format("/sequences/{}", s)), manifest, s);
  int64_t order = 0;
  for (const DumpTensor& tensor : manifest.tensors) {
    DumpTensorReader reader(dump, tensor);
    reader.verify();
    for (size_t s = 0; s < manifest.sequences.size(); ++s)
      if (manifest.sequences[s].num_tokens > 0)
        merge_rows(out, reader, tensor, static_cast<int>(s), manifest.sequences[s], order);
    ++order;
  }
  out.root().set_attribute("complete", int64_t{1});
  out.close();
}

}  // namespace

MergeSummary merge_dump(const fs::path& dir, const fs::path& file, bool force) {
  check_output_path(file, force);
  DumpReader dump(dir);
  dump.verify_files();
  dump.load_index();
  const fs::path temporary = temporary_path(file);
  try {
    write_merged(dump, temporary, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  const auto bytes = static_cast<int64_t>(fs::file_size(temporary));
  publish_file(temporary, file, force);
  const Manifest& manifest = dump.manifest();
  return {static_cast<int64_t>(manifest.tensors.size()),
          static_cast<int64_t>(manifest.sequences.size()), manifest.num_tokens(), bytes};
}

}  // namespace longhaul::io
