#pragma once
// A dump: DIR/rank_0000.h5 ... and, last, DIR/manifest.json. Each rank writes its own rows with its
// own serial HDF5 file, under a temporary name until it is whole and on disk.
//
// A rank file holds /tensors/<name> [local tokens of all steps, ...] with the attributes dims,
// dtype_logical, order and xxh3; /index/sequence and /index/position [local tokens], which say what
// each row is; /steps/<field> [steps, ...], the lists of the two-half contract under their names in
// layout/context_parallel_metadata.h; and the run's description as attributes of the root,
// `complete` being written last.
//
// The way of a run:
//   rank 0: prepare_dump_directory(dir, force);      barrier
//   all:    HdfDump dump(...); the model writes; part = dump.close();
//   rank 0: gather the parts; finalize_manifest(dir, info, filters, parts)   [manifest.h]

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/progress.h"
#include "runtime/io/activation_sink.h"
#include "runtime/io/manifest.h"

namespace longhaul::io {

// Makes DIR, or empties it of an earlier dump when `force`. Throws Error(usage) when DIR is not
// empty and `force` is false, or when it holds anything that no dump wrote: that is never touched.
void prepare_dump_directory(const std::filesystem::path& dir, bool force);
// The same refusals, and nothing is made or removed.
void check_dump_directory(const std::filesystem::path& dir, bool force);

class HdfDump final : public ActivationSink {
 public:
  // `filters`: shell globs, any of them; none takes every name. DIR exists. `progress`, where
  // given, gets ticks, so that a slow disk is not taken for a hang. Throws Error(usage) for a
  // malformed glob or a grid whose ranks share tokens, Error(resource) when no file can be made.
  HdfDump(const std::filesystem::path& dir, int rank, int world_size,
          const std::vector<std::string>& filters, DumpInfo info, Progress* progress = nullptr);
  ~HdfDump() override;  // without close(): the temporary file is removed

  bool wants(std::string_view name) const override;
  void begin_step(const layout::BatchLayout& layout, int cp_rank) override;
  // Throws Error(resource) when the disk is full: one line with the file and the bytes written; the
  // temporary file is gone then.
  void write(std::string_view name, ConstTensorView rows, std::string_view dims) override;
  void end_step() override;

  // Writes what is buffered, syncs, gives the file its final name. Returns this rank's part of the
  // manifest. Throws as write().
  std::string close();
  int64_t bytes_written() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul::io
