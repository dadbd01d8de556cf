#pragma once
// Writes weights as a Hugging Face checkpoint: model.safetensors, or shards and their index.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/io/checkpoint.h"
#include "runtime/io/model_tensors.h"

namespace longhaul::io {

struct WriteCheckpointOptions {
  int64_t max_shard_bytes =
      5'000'000'000;   // of tensors; one larger than that has a shard to itself
  bool force = false;  // replace a checkpoint that is there
};

struct WrittenCheckpoint {
  std::vector<std::string> files;  // names in the folder, the index last where there is one
  int64_t total_bytes = 0;         // of tensors
};

// Copies `tensors` out of `weights` into `dir` (made where it does not exist), in their order and
// stored dtypes, one tensor in memory at a time. All files are written whole under temporary names,
// synced, and renamed, the index last; when writing fails, nothing new remains. With `force` the
// files of an earlier checkpoint in `dir` are removed just before the renames. Throws Error(usage)
// when there is one and not `force`, Error(resource) when the disk is full, and what
// Checkpoint::tensor throws.
WrittenCheckpoint write_checkpoint(Checkpoint& weights, std::span<const TensorSpec> tensors,
                                   const std::filesystem::path& dir,
                                   const WriteCheckpointOptions& options = {});

// Throws Error(usage) when `dir` cannot take a checkpoint: not a folder, or one is there and not
// `force`. For callers that want to know before long work.
void check_checkpoint_folder(const std::filesystem::path& dir, bool force);

}  // namespace longhaul::io
