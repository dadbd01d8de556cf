// Seeded random weights, made when they are asked for.

#include <xxhash.h>

#include <bit>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "runtime/core/check.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/json_checked.h"
#include "runtime/io/model_tensors.h"
#include "runtime/io/safetensors_header.h"

namespace longhaul::io {
namespace {

// The output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014), used as a counter-based generator: element i of a tensor takes the
// i-th output of the stream that starts at the tensor's key.
inline uint64_t random_bits(uint64_t key, uint64_t index) {
  uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// Nearly normal, mean 0, deviation 1, from integers alone so that every machine gets the same bits:
// the sum of four uniform 16-bit numbers (Irwin-Hall; within +-3.46, excess kurtosis -0.3). A
// uniform number on 0..n-1 has variance (n^2 - 1) / 12, four of them a deviation of 37837.227....
inline float random_normal(uint64_t key, uint64_t index) {
  constexpr uint64_t even = 0x0000ffff0000ffffULL;
  constexpr float inverse_deviation = 1.0F / 37837.2266F;
  const uint64_t bits = random_bits(key, index);
  const uint64_t pairs = (bits & even) + ((bits >> 16) & even);
  const auto sum = static_cast<int32_t>((pairs & 0xffffffffU) + (pairs >> 32));
  return static_cast<float>(sum - 2 * 65535) * inverse_deviation;
}

// IEEE half from a float of magnitude below 65520, to nearest even.
uint16_t half_bits(float value) {
  const auto u = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000U);
  const float magnitude = std::bit_cast<float>(u & 0x7fffffffU);
  LH_CHECK(magnitude < 65520.0F, "{} is no half-precision number", value);
  if (magnitude < 0x1p-14F) {
    // Adding 2^-24 * 2^23 lets the float unit round to a multiple of the smallest subnormal.
    const uint32_t steps =
        std::bit_cast<uint32_t>(magnitude + 0.5F) - std::bit_cast<uint32_t>(0.5F);
    return static_cast<uint16_t>(sign | steps);
  }
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = m + 0xfffU + ((m >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - (112U << 23)) >> 13));
}

template <class T>
T from_float(float value) {
  return static_cast<T>(value);
}
template <>
f16 from_float<f16>(float value) {
  return f16{half_bits(value)};
}

template <class T>
void fill(TensorView out, uint64_t key, float mean, float deviation) {
  T* data = out.as<T>();
  const auto count = static_cast<uint64_t>(out.num_elements());
  for (uint64_t i = 0; i < count; ++i)
    data[i] = from_float<T>(mean + deviation * random_normal(key, i));
}

class RandomCheckpoint final : public Checkpoint {
 public:
  RandomCheckpoint(const ModelConfig& config, uint64_t seed)
      : seed_(seed),
        dtype_(config.stored_dtype),
        deviation_(static_cast<float>(config.initializer_range)) {
    for (TensorSpec& spec : model_tensors(config)) {
      total_bytes_ += spec.shape.num_elements() * dtype_size(dtype_);
      shapes_.emplace(std::move(spec.name), spec.shape);
    }
    LH_CHECK(dtype_ != DType::f16 || deviation_ < 1e3F, "initializer_range {}", deviation_);
  }

  bool has(std::string_view name) const override { return shapes_.contains(name); }

  DType dtype_of(std::string_view name) const override {
    if (!has(name))
      fail(ExitCode::mismatch, "random weights: there is no tensor {}", in_quotes(name));
    return dtype_;
  }

  ConstTensorView tensor(std::string_view name, const Shape& expected) override {
    const auto it = find(name, expected);
    const std::lock_guard lock(mutex_);
    asked_.emplace(name);
    auto made = made_.find(name);
    if (made == made_.end()) made = made_.emplace(it->first, make(it->first, expected)).first;
    return made->second.view();
  }

  std::optional<RandomFill> random_fill(std::string_view name, const Shape& expected) override {
    const auto it = find(name, expected);
    const std::lock_guard lock(mutex_);
    asked_.emplace(name);
    return fill_of(it->first);
  }

  void release(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    const auto made = made_.find(name);
    if (made != made_.end()) made_.erase(made);
  }

  std::vector<std::string> unused() const override {
    std::vector<std::string> names;
    for (const auto& [name, shape] : shapes_)
      if (!asked_.contains(name)) names.push_back(name);
    return names;
  }

  std::vector<TensorInfo> list() const override {
    std::vector<TensorInfo> tensors;
    for (const auto& [name, shape] : shapes_)
      tensors.push_back({name,
                         std::string(safetensors_dtype_name(dtype_)),
                         {shape.dims().begin(), shape.dims().end()},
                         shape.num_elements() * dtype_size(dtype_),
                         ""});
    return tensors;
  }

  int64_t total_bytes() const override { return total_bytes_; }

  uint64_t fingerprint() const override {
    const std::string identity =
        fmt::format("random {} {} {}", seed_, dtype_name(dtype_), deviation_);
    uint64_t hash = XXH3_64bits(identity.data(), identity.size());
    for (const auto& [name, shape] : shapes_) {
      const std::string line = name + shape.to_string();
      hash = XXH3_64bits_withSeed(line.data(), line.size(), hash);
    }
    return hash;
  }

 private:
  using Shapes = std::map<std::string, Shape, std::less<>>;

  Shapes::const_iterator find(std::string_view name, const Shape& expected) const {
    const auto it = shapes_.find(name);
    if (it == shapes_.end())
      fail(ExitCode::mismatch, "random weights: there is no tensor {} of shape {}", in_quotes(name),
           expected.to_string());
    if (!(it->second == expected))
      fail(ExitCode::mismatch, "random weights: tensor {} has shape {}; asked for {}",
           in_quotes(name), it->second.to_string(), expected.to_string());
    return it;
  }

  RandomFill fill_of(const std::string& name) const {
    return {XXH3_64bits_withSeed(name.data(), name.size(), seed_),
            name.ends_with("norm.weight") ? 1.0F : 0.0F, deviation_};
  }

  Tensor make(const std::string& name, const Shape& shape) const {
    Tensor out(dtype_, shape, MemoryUse::weights);
    const auto [key, mean, deviation] = fill_of(name);
    switch (dtype_) {
      case DType::bf16:
        fill<bf16>(out, key, mean, deviation);
        break;
      case DType::f16:
        fill<f16>(out, key, mean, deviation);
        break;
      case DType::f32:
        fill<float>(out, key, mean, deviation);
        break;
      case DType::f64:
        fill<double>(out, key, mean, deviation);
        break;
      default:
        LH_CHECK(false, "dtype {}", dtype_name(dtype_));
    }
    return out;
  }

  uint64_t seed_;
  DType dtype_;
  float deviation_;
  Shapes shapes_;
  int64_t total_bytes_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, Tensor, std::less<>> made_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace

std::unique_ptr<Checkpoint> make_random_checkpoint(const ModelConfig& config, uint64_t seed) {
  return std::make_unique<RandomCheckpoint>(config, seed);
}

}  // namespace longhaul::io
