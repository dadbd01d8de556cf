#include "runtime/model/weights.h"

#include <xxhash.h>

#include <cstring>
#include <tuple>
#include <utility>

#include "runtime/ops/elementwise.h"

namespace longhaul::model {
namespace {

class Loader : public HostWeights {
 public:
  using Form = HostWeights;
  Loader(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
         Progress& progress)
      : checkpoint_(checkpoint), config_(config), compute_(compute), progress_(progress) {}

  ModelWeights load() {
    ModelWeights w = load_model(*this, config_, progress_);
    w.content = content_;
    return w;
  }

  Table table(const std::string& name, const Shape& shape) { return read(name, shape); }

  Linear tied_head(const Table& embedding) {
    return ops::Linear(embedding, ConstTensorView{}, compute_);
  }

  // A small tensor, converted to the compute dtype.
  Vector vector(const std::string& name, int64_t size) {
    const ConstTensorView stored = read(name, Shape{size});
    Tensor out(compute_, {size}, MemoryUse::weights);
    ops::convert(stored, out);
    checkpoint_.release(name);
    return out;
  }

  Linear linear(const std::vector<WeightPart>& parts, int64_t in_features, bool bias) {
    progress_.tick();
    Tensor b;
    if (bias) b = stack(parts, ".bias", 0);
    if (parts.size() == 1) {
      const std::string name = parts.front().name + ".weight";
      const ConstTensorView weight = read(name, Shape{parts.front().out_features, in_features});
      ops::Linear l(weight, b.view(), compute_);
      checkpoint_.release(name);
      return l;
    }
    const Tensor weight = stack(parts, ".weight", in_features);
    return ops::Linear(weight.view(), std::as_const(b).view(), compute_);
  }

  Experts experts(const std::string& prefix, const io::ModelConfig& config) {
    std::vector<moe::Expert> experts;
    for (int e = 0; e < config.moe.num_experts; ++e) {
      auto [gate_up, down] = load_mlp(*this, config, fmt::format("{}experts.{}.", prefix, e),
                                      config.moe.intermediate_size, false);
      experts.push_back({std::move(gate_up), std::move(down)});
    }
    return std::make_unique<moe::Experts>(std::move(experts), compute_);
  }

 private:
  // A tensor of the checkpoint; all its bytes go into the hash that ranks compare.
  ConstTensorView read(const std::string& name, const Shape& shape) {
    const ConstTensorView v = checkpoint_.tensor(name, shape);
    content_ = XXH3_64bits_withSeed(v.data, static_cast<size_t>(v.num_bytes()), content_);
    progress_.tick();
    return v;
  }

  // One matrix of the named modules' rows, one below the other, in a dtype that holds them all.
  Tensor stack(const std::vector<WeightPart>& parts, const char* suffix, int64_t columns) {
    const auto shape = [&](int64_t rows) {
      return columns > 0 ? Shape{rows, columns} : Shape{rows};
    };
    std::vector<ConstTensorView> views;
    int64_t rows = 0;
    for (const WeightPart& p : parts) {
      views.push_back(read(p.name + suffix, shape(p.out_features)));
      rows += p.out_features;
    }
    DType dtype = views.front().dtype;
    for (const ConstTensorView& v : views)
      if (v.dtype != dtype)
        dtype = dtype == DType::f64 || v.dtype == DType::f64 ? DType::f64 : DType::f32;
    Tensor all(dtype, shape(rows), MemoryUse::weights);
    int64_t row = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const TensorView to = all.view().row_range(row, parts[i].out_features);
      if (views[i].dtype == dtype)
        std::memcpy(to.data, views[i].data, static_cast<size_t>(to.num_bytes()));
      else
        ops::convert(views[i], to);
      row += parts[i].out_features;
      checkpoint_.release(parts[i].name + suffix);
    }
    return all;
  }

  io::Checkpoint& checkpoint_;
  const io::ModelConfig& config_;
  DType compute_;
  Progress& progress_;
  uint64_t content_ = 0;
};

}  // namespace

ModelWeights load_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
                          Progress& progress) {
  return Loader(checkpoint, config, compute, progress).load();
}

}  // namespace longhaul::model
