#pragma once
// The weights of a model: safetensors files, memory-mapped, or seeded random numbers.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/io/model_config.h"

namespace longhaul::io {

// One tensor as it is stored.
struct TensorInfo {
  std::string name;
  std::string dtype;          // as safetensors spells it: "BF16", "F32", "I64", ...
  std::vector<int64_t> dims;  // of any number; Shape holds at most four
  int64_t bytes = 0;
  std::string file;  // empty for random weights
};

// How a tensor of random weights is formed (random_checkpoint.cpp): element i is
// mean + deviation * normal(key, i), so that a device can make the same bits for itself.
struct RandomFill {
  uint64_t key = 0;
  float mean = 0;
  float deviation = 0;
};

// Gives each named tensor once; remembers which names were asked for. Names are those of
// model_tensors.h, whatever spelling the files use. Calls from several threads are allowed.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual bool has(std::string_view name) const = 0;
  // How it is stored; throws as tensor() does.
  virtual DType dtype_of(std::string_view name) const = 0;
  // A read-only view that lives as long as the checkpoint or until release(). Throws
  // Error(mismatch) with the name and both shapes when the tensor is missing or has another shape,
  // Error(corrupt) for a dtype that no weight can have or when the file was cut short meanwhile.
  virtual ConstTensorView tensor(std::string_view name, const Shape& expected) = 0;
  // For random weights, in place of tensor(), with its errors; nothing for weights of files.
  virtual std::optional<RandomFill> random_fill(std::string_view /*name*/,
                                                const Shape& /*expected*/) {
    return std::nullopt;
  }
  // The last view given is no longer used (lets random weights and page cache go).
  virtual void release(std::string_view name) = 0;
  // Tensors of the files that nobody asked for.
  virtual std::vector<std::string> unused() const = 0;
  // Everything that is stored, under the names of the files.
  virtual std::vector<TensorInfo> list() const = 0;
  virtual int64_t total_bytes() const = 0;
  // Identity of the weights for the agreement check between ranks: names, shapes, dtypes, sizes,
  // and the headers' bytes; cheap, does not read the data.
  virtual uint64_t fingerprint() const = 0;
};

// DIR/model.safetensors, else DIR/model.safetensors.index.json with its shards (the order in which
// transformers looks). Every header is checked and every size compared before this returns. Throws
// Error(usage) when there is no such checkpoint, Error(mismatch) when shards are missing or
// disagree with the index, Error(corrupt) for damaged files.
std::unique_ptr<Checkpoint> open_safetensors(const std::filesystem::path& model_dir);
// Normal numbers of the config's initializer_range, norms around 1; the same on every rank and
// machine for the same seed; values depend on seed, name and index only.
std::unique_ptr<Checkpoint> make_random_checkpoint(const ModelConfig& config, uint64_t seed);

}  // namespace longhaul::io
