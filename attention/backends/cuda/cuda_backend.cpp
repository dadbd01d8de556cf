#include "attention/backends/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/backends/cuda/attention.h"
#include "runtime/core/cuda/check.h"
#include "runtime/core/cuda/memory.h"

namespace longhaul::attention {
namespace {

// Keys at consecutive positions, wherever their segments lie in host memory.
struct Run {
  int64_t position = 0;
  int64_t length = 0;
  int64_t row = 0;  // of k and v on the device
};

// All keys of a call in the order of their positions, packed: what goes to the device.
struct GatheredKeys {
  std::vector<std::byte> k, v;
  std::vector<std::vector<Run>> runs;  // of each sequence, ascending
  int64_t rows = 0;
};

void append_rows(std::vector<std::byte>& to, const void* from, int64_t rows, int64_t row_bytes,
                 int64_t stride_bytes) {
  const size_t at = to.size();
  to.resize(at + static_cast<size_t>(rows * row_bytes));
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(to.data() + at + static_cast<size_t>(i * row_bytes),
                static_cast<const std::byte*>(from) + i * stride_bytes,
                static_cast<size_t>(row_bytes));
  }
}

GatheredKeys gather(const AttentionArgs& a) {
  GatheredKeys keys;
  const int64_t size = dtype_size(a.q.dtype);
  const int64_t k_bytes = a.num_kv_heads * a.q.shape[2] * size;
  const int64_t v_bytes = a.num_kv_heads * a.out.shape[2] * size;
  for (const std::vector<KvSegment>& given : a.kv) {
    std::vector<KvSegment> segments = given;
    std::sort(segments.begin(), segments.end(),
              [](const KvSegment& x, const KvSegment& y) { return x.position < y.position; });
    std::vector<Run> runs;
    for (const KvSegment& s : segments) {
      if (s.length == 0) continue;
      if (runs.empty() || runs.back().position + runs.back().length != s.position) {
        runs.push_back({s.position, 0, keys.rows});
      }
      append_rows(keys.k, s.k, s.length, k_bytes, s.k_stride * size);
      append_rows(keys.v, s.v, s.length, v_bytes, s.v_stride * size);
      runs.back().length += s.length;
      keys.rows += s.length;
    }
    keys.runs.push_back(std::move(runs));
  }
  return keys;
}

// The n-th runs of all sequences. The first pass has every item, with or without keys, since it
// writes; later ones merge into it.
std::vector<cuda::Item> items_of_pass(const AttentionArgs& a, const GatheredKeys& keys, size_t n) {
  std::vector<cuda::Item> items;
  for (const WorkItem& w : a.items) {
    const std::vector<Run>& runs = keys.runs[static_cast<size_t>(w.sequence)];
    cuda::Item item;
    item.q_row = w.q_row;
    item.q_length = w.q_length;
    if (n < runs.size()) {
      const Run& run = runs[n];
      item.kv_row = run.row;
      item.kv_length = std::clamp<int64_t>(w.kv_length - run.position, 0, run.length);
      item.causal_offset = a.causal ? w.q_position - run.position : cuda::kNoMask;
    }
    if (n == 0 || item.kv_length > 0) items.push_back(item);
  }
  return items;
}

// A bf16 or float32 tensor with the sign of every element turned.
std::vector<std::byte> negated(ConstTensorView t) {
  std::vector<std::byte> bytes(static_cast<size_t>(t.num_bytes()));
  if (!bytes.empty()) std::memcpy(bytes.data(), t.data, bytes.size());
  const auto size = static_cast<size_t>(dtype_size(t.dtype));
  for (size_t at = size - 1; at < bytes.size(); at += size) bytes[at] ^= std::byte{0x80};
  return bytes;
}

class CudaBackend final : public Backend {
 public:
  std::string_view name() const override { return "cuda"; }
  DeviceKind device() const override { return DeviceKind::cuda; }

  Support supports(const AttentionDesc& desc) const override {
    Support support;
    if (longhaul::cuda::device_count(&support.why_not) == 0) return support;
    try {
      (void)cuda::choose_kernel(longhaul::cuda::current_device(), shape_of(desc, 1, 1));
      support.ok = true;
    } catch (const Error& e) {
      support.why_not = e.what();
    }
    return support;
  }

  void prepare(const AttentionDesc& desc, int /*num_threads*/) override { desc_ = desc; }
  void run(const AttentionArgs& args, ThreadPool& pool) override;

 private:
  static cuda::Shape shape_of(const AttentionDesc& desc, int64_t heads, int64_t kv_heads) {
    return {desc.dtype, static_cast<int>(desc.head_dim), static_cast<int>(desc.head_dim_v),
            static_cast<int>(heads), static_cast<int>(kv_heads)};
  }
  static void* fit(longhaul::cuda::Buffer& buffer, int64_t bytes, const char* what) {
    if (buffer.bytes() < bytes) {
      buffer.reset();
      buffer = longhaul::cuda::Buffer(bytes, what, MemoryUse::activations);
    }
    return buffer.data();
  }
  // Copies to the device, growing the buffer where it is too small; never a null pointer.
  void* send(longhaul::cuda::Buffer& buffer, const void* data, size_t bytes, const char* what) {
    void* const to = fit(buffer, static_cast<int64_t>(bytes) + 256, what);
    if (bytes > 0) LH_CUDA(cudaMemcpyAsync(to, data, bytes, cudaMemcpyHostToDevice, *stream_));
    return to;
  }
  void wait(const AttentionArgs& args) {
    longhaul::cuda::Event done;
    done.record(*stream_);
    while (!done.done()) {
      if (args.poll != nullptr) (*args.poll)();
    }
  }
  void copy_back(const AttentionArgs& args);

  AttentionDesc desc_;
  std::unique_ptr<longhaul::cuda::Stream> stream_;
  longhaul::cuda::Buffer q_, k_, v_, out_, lse_, table_, workspace_;
};

void CudaBackend::run(const AttentionArgs& a, ThreadPool& /*pool*/) {
  check_arguments(a);
  if (a.q.num_elements() == 0 || a.items.empty()) return;
  if (stream_ == nullptr) stream_ = std::make_unique<longhaul::cuda::Stream>();
  const longhaul::cuda::Device& device = longhaul::cuda::current_device();
  AttentionDesc desc = desc_;
  desc.dtype = a.q.dtype;
  desc.head_dim = a.q.shape[2];
  desc.head_dim_v = a.out.shape[2];
  const cuda::Shape shape = shape_of(desc, a.q.shape[1], a.num_kv_heads);
  const cuda::Kernel kernel = cuda::choose_kernel(device, shape);

  const GatheredKeys keys = gather(a);
  cuda::Args args;
  args.k = send(k_, keys.k.data(), keys.k.size(), "attention keys");
  args.v = send(v_, keys.v.data(), keys.v.size(), "attention values");
  // The kernels take positive scales: the sign goes to q, and a scale of 0 to keys of 0.
  const std::vector<std::byte> minus_q = a.scale < 0 ? negated(a.q) : std::vector<std::byte>();
  args.q = send(q_, a.scale < 0 ? minus_q.data() : a.q.data, static_cast<size_t>(a.q.num_bytes()),
                "attention queries");
  args.scale = std::abs(a.scale);
  if (a.scale == 0) {
    LH_CUDA(cudaMemsetAsync(k_.data(), 0, keys.k.size(), *stream_));
    args.scale = 1;
  }
  args.out = fit(out_, a.out.num_bytes(), "attention output");
  args.lse = static_cast<float*>(fit(lse_, a.lse.num_bytes(), "attention lse"));
  args.q_rows = a.q.shape[0];
  args.kv_rows = std::max<int64_t>(keys.rows, 1);
  args.q_stride = a.q.shape.row_elements();
  args.k_stride = a.num_kv_heads * desc.head_dim;
  args.v_stride = a.num_kv_heads * desc.head_dim_v;
  args.out_stride = a.out.shape.row_elements();

  size_t passes = 1;
  for (const std::vector<Run>& runs : keys.runs) passes = std::max(passes, runs.size());
  cuda::PlanOptions options;
  options.multiprocessors = device.multiprocessors;
  options.deterministic = desc.deterministic;
  for (size_t n = 0; n < passes; ++n) {
    const cuda::Plan plan = cuda::make_plan(kernel, shape, items_of_pass(a, keys, n), options);
    args.table = send(table_, plan.table.data(), plan.table.size(), "attention work table");
    args.workspace = fit(workspace_, plan.workspace_bytes, "attention workspace");
    LH_CUDA(
        cudaMemsetAsync(args.workspace, 0, static_cast<size_t>(plan.workspace_bytes), *stream_));
    args.out_type = n == 0 ? cuda::OutType::f32 : cuda::OutType::f32_accumulate;
    cuda::forward(plan, args, *stream_);
    wait(a);  // the table's host memory ends here, and the next pass may need larger buffers
  }
  copy_back(a);
}

// Only rows of items: the others keep what out and lse held.
void CudaBackend::copy_back(const AttentionArgs& a) {
  const auto copy = [&](TensorView to, const longhaul::cuda::Buffer& from, const WorkItem& w) {
    const int64_t at = w.q_row * to.row_bytes();
    LH_CUDA(cudaMemcpyAsync(
        static_cast<std::byte*>(to.data) + at, static_cast<const std::byte*>(from.data()) + at,
        static_cast<size_t>(w.q_length * to.row_bytes()), cudaMemcpyDeviceToHost, *stream_));
  };
  for (const WorkItem& w : a.items) {
    if (w.q_length == 0) continue;
    copy(a.out, out_, w);
    copy(a.lse, lse_, w);
  }
  LH_CUDA(cudaStreamSynchronize(*stream_));
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend() {
  return std::make_unique<CudaBackend>();
}

}  // namespace longhaul::attention
