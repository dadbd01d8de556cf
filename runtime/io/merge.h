#pragma once
// A dump as one plain HDF5 file in natural token order.

#include <cstdint>
#include <filesystem>

namespace longhaul::io {

struct MergeSummary {
  int64_t num_tensors = 0;
  int64_t num_sequences = 0;
  int64_t num_tokens = 0;
  int64_t bytes = 0;  // of the merged file
};

// Writes /sequences/<index>/<name> [tokens of the sequence, ...] for every tensor of the dump, in
// the dump's element type; all else is attributes. The rank files are checked whole (sizes,
// digests, shapes, every token exactly once) and the file appears under its name only when it is
// complete. Memory stays under about 300 MiB whatever the size. The same dump gives the same bytes.
//
// Errors: Error(mismatch) for anything missing or of another shape or dtype, Error(corrupt) for
// damaged files, Error(usage) when `file` exists and `force` is false, Error(resource) when the
// disk is full.
MergeSummary merge_dump(const std::filesystem::path& dir, const std::filesystem::path& file,
                        bool force);

}  // namespace longhaul::io
