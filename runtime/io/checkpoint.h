#pragma once
// The weights of a model: safetensors files, memory-mapped, or seeded random numbers.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/tensor.h"
#include "runtime/io/model_config.h"

namespace longhaul::io {

// Gives each named tensor once; remembers which names were asked for.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual bool has(std::string_view name) const = 0;
  // A read-only view that lives as long as the checkpoint or until release(). Throws
  // Error(mismatch) with the name and both shapes when the tensor is missing or has another shape,
  // Error(corrupt) for a dtype that no weight can have.
  virtual ConstTensorView tensor(std::string_view name, const Shape& expected) = 0;
  // The last view given is no longer used (lets random weights and page cache go).
  virtual void release(std::string_view name) = 0;
  // Tensors of the files that nobody asked for.
  virtual std::vector<std::string> unused() const = 0;
  virtual int64_t total_bytes() const = 0;
  // Identity of the weights for the agreement check between ranks: names, shapes, dtypes, sizes,
  // and the headers' bytes; cheap, does not read the data.
  virtual uint64_t fingerprint() const = 0;
};

// DIR/model.safetensors or DIR/model.safetensors.index.json with its shards.
std::unique_ptr<Checkpoint> open_safetensors(const std::filesystem::path& model_dir);
// Normal numbers of the config's initializer_range, norms 1, biases small; the same on every rank
// and machine for the same seed; values depend on name and index only.
std::unique_ptr<Checkpoint> make_random_checkpoint(const ModelConfig& config, uint64_t seed);

}  // namespace longhaul::io
