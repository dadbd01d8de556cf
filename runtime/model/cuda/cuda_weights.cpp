#include "runtime/model/cuda/cuda_weights.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "runtime/core/cuda/device.h"
#include "runtime/ops/cuda/elementwise.h"
#include "runtime/ops/cuda/random.h"

namespace longhaul::model {
namespace {

// Host memory to the device through two page-locked pieces: one is filled while the other travels.
class Uploader {
 public:
  explicit Uploader(cudaStream_t stream) : stream_(stream) {
    for (Piece& p : pieces_) p.memory = cuda::PinnedBuffer(kBytes);
  }

  void copy(void* to, const void* from, int64_t bytes) {
    for (int64_t done = 0; done < bytes; done += kBytes) {
      Piece& p = pieces_[next_];
      next_ = 1 - next_;
      LH_CUDA(cudaEventSynchronize(p.sent.get()));
      const auto count = static_cast<size_t>(std::min(kBytes, bytes - done));
      std::memcpy(p.memory.data(), static_cast<const std::byte*>(from) + done, count);
      LH_CUDA(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, p.memory.data(), count,
                              cudaMemcpyHostToDevice, stream_));
      p.sent.record(stream_);
    }
  }

 private:
  static constexpr int64_t kBytes = int64_t{32} << 20;
  struct Piece {
    cuda::PinnedBuffer memory;
    cuda::Event sent;
  };
  cudaStream_t stream_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

class CudaLoader : public CudaWeights {
 public:
  using Form = CudaWeights;

  CudaLoader(io::Checkpoint& checkpoint, const io::ModelConfig& config, DType compute,
             Progress& progress)
      : checkpoint_(checkpoint),
        config_(config),
        compute_(compute),
        progress_(progress),
        uploader_(stream_) {}

  CudaModelWeights load() {
    CudaModelWeights w = load_model(*this, config_, progress_);
    w.content = random_ ? checkpoint_.fingerprint() : content_;
    LH_CUDA(cudaStreamSynchronize(stream_));
    return w;
  }

  Table table(const std::string& name, const Shape& shape) {
    cuda::DeviceTensor out(compute_, shape, "the embedding", MemoryUse::weights);
    put(name, out.view());
    return out;
  }

  Vector vector(const std::string& name, int64_t size) {
    cuda::DeviceTensor out(compute_, {size}, "a norm", MemoryUse::weights);
    put(name, out.view());
    return out;
  }

  Linear linear(const std::vector<WeightPart>& parts, int64_t in_features, bool bias) {
    Linear l;
    for (const WeightPart& p : parts) l.out_features += p.out_features;
    l.weight = cuda::DeviceTensor(compute_, {l.out_features, in_features}, "a layer's weights",
                                  MemoryUse::weights);
    if (bias)
      l.bias = cuda::DeviceTensor(compute_, {l.out_features}, "a layer's bias", MemoryUse::weights);
    int64_t row = 0;
    for (const WeightPart& p : parts) {
      put(p.name + ".weight", l.weight.view().row_range(row, p.out_features));
      if (bias) put(p.name + ".bias", l.bias.view().row_range(row, p.out_features));
      row += p.out_features;
    }
    l.product = std::make_unique<ops::cuda::Linear>(l.weight.view(), l.bias.view(), compute_);
    return l;
  }

  Linear tied_head(const Table& embedding) {
    Linear l;
    l.out_features = config_.vocab_size;
    l.product = std::make_unique<ops::cuda::Linear>(embedding.view(), ConstTensorView{}, compute_);
    return l;
  }

  Experts experts(const std::string& prefix, const io::ModelConfig& c) {
    const int64_t n = c.moe.num_experts, inner = c.moe.intermediate_size, hidden = c.hidden_size;
    Experts x;
    x.gate_up = cuda::DeviceTensor(compute_, {n, 2 * inner, hidden}, "a layer's experts",
                                   MemoryUse::weights);
    x.down =
        cuda::DeviceTensor(compute_, {n, hidden, inner}, "a layer's experts", MemoryUse::weights);
    const TensorView gate_up = x.gate_up.view().reshaped({2 * n * inner, hidden});
    const TensorView down = x.down.view().reshaped({n * hidden, inner});
    for (int64_t e = 0; e < n; ++e) {
      const std::string name = fmt::format("{}experts.{}.", prefix, e);
      put(name + "gate_proj.weight", gate_up.row_range(2 * e * inner, inner));
      put(name + "up_proj.weight", gate_up.row_range((2 * e + 1) * inner, inner));
      put(name + "down_proj.weight", down.row_range(e * hidden, hidden));
    }
    moe::cuda::ExpertShape shape;
    shape.num_experts = c.moe.num_experts;
    shape.top_k = c.moe.num_experts_per_tok;
    shape.hidden = hidden;
    shape.intermediate = inner;
    shape.normalize = c.moe.norm_topk_prob;
    shape.dtype = compute_;
    x.product = std::make_unique<moe::cuda::Experts>(shape, x.gate_up.view(), x.down.view());
    return x;
  }

 private:
  // The named tensor, of out's shape, in out's dtype.
  void put(const std::string& name, TensorView out) {
    progress_.tick();
    const DType stored = checkpoint_.dtype_of(name);
    const TensorView raw = stored == out.dtype ? out : staging(stored, out.shape);
    if (const auto fill = checkpoint_.random_fill(name, out.shape)) {
      random_ = true;
      ops::cuda::fill_random(raw, fill->key, fill->mean, fill->deviation, stream_);
    } else {
      const ConstTensorView v = checkpoint_.tensor(name, out.shape);
      content_ = XXH3_64bits_withSeed(v.data, static_cast<size_t>(v.num_bytes()), content_);
      uploader_.copy(raw.data, v.data, v.num_bytes());
      checkpoint_.release(name);
    }
    if (stored != out.dtype) ops::cuda::convert(raw, out, stream_);
  }

  // Room for a tensor in its stored form; work of one stream, so one piece is enough.
  TensorView staging(DType dtype, const Shape& shape) {
    const int64_t bytes = shape.num_elements() * dtype_size(dtype);
    if (staging_.bytes() < bytes) {
      LH_CUDA(cudaStreamSynchronize(stream_));
      staging_.reset();
      staging_ = cuda::Buffer(bytes, "converting weights", MemoryUse::activations);
    }
    return {staging_.data(), dtype, shape};
  }

  io::Checkpoint& checkpoint_;
  const io::ModelConfig& config_;
  DType compute_;
  Progress& progress_;
  cuda::Stream stream_;
  Uploader uploader_;
  cuda::Buffer staging_;
  uint64_t content_ = 0;
  bool random_ = false;
};

}  // namespace

CudaModelWeights load_cuda_weights(io::Checkpoint& checkpoint, const io::ModelConfig& config,
                                   DType compute, Progress& progress) {
  return CudaLoader(checkpoint, config, compute, progress).load();
}

}  // namespace longhaul::model
