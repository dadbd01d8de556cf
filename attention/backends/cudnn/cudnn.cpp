#include "attention/backends/cudnn/cudnn.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>

#include "attention/backends/cudnn/graph.h"
#include "attention/backends/cudnn/segments.h"
#include "attention/backends/cudnn/unseen.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda/check.h"

namespace longhaul::attention::cudnn {
namespace {

constexpr size_t kAlign = 16;

// Up to an eighth longer, so that a few sizes serve all lengths.
int64_t rounded(int64_t length) {
  const int64_t step = std::max<int64_t>(
      64, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(length))) / 8);
  return (length + step - 1) / step * step;
}

std::shared_ptr<const Graph> graph_for(const GraphKey& key) {
  static std::mutex mutex;
  static std::map<GraphKey, std::shared_ptr<const Graph>> graphs;
  const std::lock_guard lock(mutex);
  std::shared_ptr<const Graph>& graph = graphs[key];
  if (graph == nullptr) graph = std::make_shared<const Graph>(key);
  return graph;
}

template <class T>
int64_t append(std::vector<std::byte>& table, const std::vector<T>& values) {
  table.resize((table.size() + kAlign - 1) / kAlign * kAlign);
  const size_t at = table.size();
  table.resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(table.data() + at, values.data(), values.size() * sizeof(T));
  return static_cast<int64_t>(at);
}

Plan::Part make_part(Plan& plan, const std::vector<Segment>& segments, int device) {
  const Shape& s = plan.shape;
  const PlanOptions& o = plan.options;
  GraphKey key;
  key.device = device;
  key.causal = segments[0].mask == Segment::Mask::causal;
  key.segments = static_cast<int64_t>(std::bit_ceil(segments.size()));
  for (const Segment& segment : segments) {
    key.max_q = std::max(key.max_q, segment.q_length);
    key.max_kv = std::max(key.max_kv, segment.kv_length);
  }
  key.max_q = rounded(key.max_q);
  key.max_kv = std::max(rounded(key.max_kv), key.causal ? key.max_q : 0);
  key.num_heads = s.num_heads;
  key.num_kv_heads = s.num_kv_heads;
  key.head_dim = s.head_dim;
  key.head_dim_v = s.head_dim_v;
  key.q_stride = o.q_stride;
  key.k_stride = o.k_stride;
  key.v_stride = o.v_stride;
  key.out_stride = o.out_stride;
  key.scale = static_cast<float>(o.scale);

  // Segments that only fill up the number are empty and lie where the last one does.
  const auto count = static_cast<size_t>(key.segments);
  std::vector<int32_t> q_lengths(count), kv_lengths(count);
  std::vector<int64_t> q(count + 1), k(count + 1), v(count + 1), out(count + 1), lse(count + 1);
  for (size_t i = 0; i <= count; ++i) {
    const bool real = i < segments.size();
    const Segment& segment = real ? segments[i] : segments.back();
    const int64_t q_row = segment.q_row + (real ? 0 : segment.q_length);
    const int64_t kv_row = segment.kv_row + (real ? 0 : segment.kv_length);
    if (real) {
      q_lengths[i] = static_cast<int32_t>(segment.q_length);
      kv_lengths[i] = static_cast<int32_t>(segment.kv_length);
    }
    q[i] = q_row * o.q_stride;
    k[i] = kv_row * o.k_stride;
    v[i] = kv_row * o.v_stride;
    out[i] = q_row * o.out_stride;
    lse[i] = q_row * s.num_heads;
  }
  Plan::Part part;
  part.graph = graph_for(key);
  part.q_lengths = append(plan.table, q_lengths);
  part.kv_lengths = append(plan.table, kv_lengths);
  part.q_offsets = append(plan.table, q);
  part.k_offsets = append(plan.table, k);
  part.v_offsets = append(plan.table, v);
  part.out_offsets = append(plan.table, out);
  part.lse_offsets = append(plan.table, lse);
  return part;
}

}  // namespace

bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not) {
  const auto no = [&](std::string reason) {
    if (why_not != nullptr) *why_not = std::move(reason);
    return false;
  };
  const int64_t version = cudnn_version();
  if (version < 90700 || version == 91000 || version == 91001) {
    return no(
        fmt::format("cuDNN {}: 9.7 or later is needed, and neither 9.10.0 nor 9.10.1", version));
  }
  if (device.major < 9) {
    return no(fmt::format("compute capability {}.{}: cuDNN takes ragged batches from 9.0 on",
                          device.major, device.minor));
  }
  if (shape.dtype != DType::bf16) {
    return no(fmt::format("dtype {}: cuDNN attention is used in bf16", dtype_name(shape.dtype)));
  }
  const int d = shape.head_dim, dv = shape.head_dim_v;
  if (d <= 0 || dv <= 0 || d > 256 || dv > 256 || d % 8 != 0 || dv % 8 != 0) {
    return no(fmt::format("head dims {}/{}: cuDNN takes multiples of 8 up to 256", d, dv));
  }
  if (shape.num_heads <= 0 || shape.num_kv_heads <= 0 ||
      shape.num_heads % shape.num_kv_heads != 0) {
    return no(fmt::format("{} heads do not divide among {} kv heads", shape.num_heads,
                          shape.num_kv_heads));
  }
  return true;
}

Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options) {
  Plan plan;
  plan.shape = shape;
  plan.options = options;
  std::vector<Segment> causal, full;
  std::vector<int64_t> unseen;
  double pairs = 0;
  for (const Segment& segment : make_segments(items)) {
    const auto q = static_cast<double>(segment.q_length);
    const auto kv = static_cast<double>(segment.kv_length);
    switch (segment.mask) {
      case Segment::Mask::unseen:
        unseen.insert(unseen.end(), {segment.q_row, segment.q_length});
        break;
      case Segment::Mask::causal:
        pairs += q * kv - q * (q - 1) / 2;
        causal.push_back(segment);
        break;
      case Segment::Mask::full:
        pairs += q * kv;
        full.push_back(segment);
        break;
    }
  }
  plan.flops = 2.0 * (shape.head_dim + shape.head_dim_v) * shape.num_heads * pairs;
  const int device = longhaul::cuda::current_device().ordinal;
  for (const std::vector<Segment>* segments : {&causal, &full}) {
    if (segments->empty()) continue;
    plan.parts.push_back(make_part(plan, *segments, device));
    plan.workspace_bytes =
        std::max(plan.workspace_bytes, plan.parts.back().graph->workspace_bytes());
  }
  plan.unseen = append(plan.table, unseen);
  plan.num_unseen = static_cast<int64_t>(unseen.size() / 2);
  return plan;
}

void forward(const Plan& plan, const Args& args, cudaStream_t stream) {
  const PlanOptions& o = plan.options;
  LH_CHECK(args.out_type == cuda::OutType::bf16, "cuDNN attention writes bf16");
  LH_CHECK(args.ready.flags == nullptr, "cuDNN attention knows no ready flags");
  LH_CHECK(args.scale == o.scale && args.q_stride == o.q_stride && args.k_stride == o.k_stride &&
               args.v_stride == o.v_stride && args.out_stride == o.out_stride,
           "scale or strides differ from the plan's");
  LH_CHECK(plan.workspace_bytes == 0 || args.workspace != nullptr, "{} bytes of workspace missing",
           plan.workspace_bytes);
  const char* const table = static_cast<const char*>(args.table);
  for (const Plan::Part& part : plan.parts) {
    const GraphData data{args.q,
                         args.k,
                         args.v,
                         args.out,
                         args.lse,
                         table + part.q_lengths,
                         table + part.kv_lengths,
                         table + part.q_offsets,
                         table + part.k_offsets,
                         table + part.v_offsets,
                         table + part.out_offsets,
                         table + part.lse_offsets};
    part.graph->run(data, args.workspace, stream);
  }
  const auto* ranges = reinterpret_cast<const int64_t*>(table + plan.unseen);
  LH_CUDA(fill_unseen(ranges, plan.num_unseen, args.out, o.out_stride,
                      int64_t{plan.shape.num_heads} * plan.shape.head_dim_v, args.lse,
                      plan.shape.num_heads, stream));
}

}  // namespace longhaul::attention::cudnn
