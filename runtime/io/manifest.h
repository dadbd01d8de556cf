#pragma once
// manifest.json of a dump: written last, so that a folder without it is no dump. It alone says what
// the dump holds; the rank files must agree with it.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/layout/process_grid.h"

namespace longhaul::io {

struct DumpPrompt {
  std::string id;
  int64_t num_tokens = 0;
};

// What ran. Texts as a person would read them; none of them is interpreted.
struct DumpInfo {
  std::string version;      // of longhaul
  std::string model;        // "qwen3", or the model's folder
  std::string config_json;  // text of config.json
  layout::ProcessGrid grid;
  std::string layout, strategy, backend, dtype;
  std::string command;  // the command line
  std::vector<DumpPrompt> prompts;
};

// The tokens [first_position, first_position + num_tokens) of a sequence are in the dump.
struct DumpSequence {
  int64_t first_position = 0;
  int64_t num_tokens = 0;
  bool operator==(const DumpSequence&) const = default;
};

struct DumpRankFile {
  int rank = 0;
  std::string file;  // "rank_0000.h5"
  std::string host;
  int64_t bytes = 0;
  int64_t rows = 0;  // local tokens of all steps
  std::string xxh3;  // of the file
};

struct DumpTensor {
  struct Part {
    int rank = 0;
    int64_t rows = 0;
    std::string xxh3;  // of the rows' bytes in local order
  };
  std::string name;
  DType dtype = DType::f32;
  Shape shape;              // [tokens, ...]
  std::string dims;         // "t[cp:balanced] h d"
  std::vector<Part> parts;  // by rank; a rank without tokens may be missing
};

struct Manifest {
  DumpInfo info;
  std::vector<std::string> filters;
  int64_t num_steps = 0;
  std::vector<DumpSequence> sequences;
  std::vector<DumpRankFile> files;  // by rank
  std::vector<DumpTensor> tensors;  // in the order in which they were computed

  int64_t num_tokens() const;
};

std::string rank_file_name(int rank);        // "rank_0000.h5"
bool is_tensor_name(std::string_view name);  // letters, digits, '_', '.', '-'

// One rank's part, as HdfDump::close() returns it and finalize_manifest() takes it.
struct RankPart {
  DumpRankFile file;
  int world_size = 1;
  int64_t num_steps = 0;
  std::vector<DumpSequence> sequences;
  std::vector<DumpTensor> tensors;  // shape: this rank's rows; one part
};
std::string to_json(const RankPart& part);

// Rank 0, after every rank's close(): joins the parts (one a rank, any order), checks that they
// describe one dump in which every tensor has every token, and writes DIR/manifest.json. Throws
// Error(internal) when the parts contradict each other, Error(resource) when the disk is full.
void finalize_manifest(const std::filesystem::path& dir, const DumpInfo& info,
                       const std::vector<std::string>& filters,
                       std::span<const std::string> rank_parts);

// Throws Error(mismatch) when there is no manifest (the dump was never finished), Error(corrupt)
// for anything that finalize_manifest does not write, a changed byte included.
Manifest read_manifest(const std::filesystem::path& dir);

}  // namespace longhaul::io
