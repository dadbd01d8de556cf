#include "attention/backends/cpu.h"

#include <algorithm>
#include <cmath>

#include "attention/backends/cpu_plan.h"
#include "attention/backends/cpu_tile.h"

namespace longhaul::attention {
namespace {

// Memory for packed keys and values of a call: KV heads are taken in rounds that fit (a single head
// may need more).
constexpr int64_t kPackedBytes = int64_t{256} << 20;

// Partial results of key ranges that were cut; all have the shape of the largest.
struct Partials {
  Tensor out, top, sum;
  int64_t rows, dim_v;

  Partials(int64_t count, int64_t most_rows, int64_t dim)
      : out(DType::f32, {count, most_rows, dim}),
        top(DType::f32, {count, most_rows}),
        sum(DType::f32, {count, most_rows}),
        rows(most_rows),
        dim_v(dim) {}
  cpu::Running at(int64_t i) {
    return {out.as<float>() + i * rows * dim_v, top.as<float>() + i * rows,
            sum.as<float>() + i * rows};
  }
};

// Adds parts 1... to part 0, in their order.
void join_parts(Partials& partials, const cpu::Join& join, int64_t rows) {
  const cpu::Running whole = partials.at(join.first);
  for (int64_t i = 1; i < join.count; ++i) {
    const cpu::Running part = partials.at(join.first + i);
    for (int64_t r = 0; r < rows; ++r) {
      if (part.sum[r] == 0) continue;
      const float top = std::max(whole.top[r], part.top[r]);
      const float w = whole.sum[r] == 0 ? 0.0f : std::exp2(whole.top[r] - top);
      const float p = std::exp2(part.top[r] - top);
      for (int64_t d = 0; d < partials.dim_v; ++d) {
        float& out = whole.out[r * partials.dim_v + d];
        out = out * w + part.out[r * partials.dim_v + d] * p;
      }
      whole.sum[r] = whole.sum[r] * w + part.sum[r] * p;
      whole.top[r] = top;
    }
  }
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options)
      : widen_(options.widen_bf16 || !cpu::has_bf16_products()) {}

  std::string_view name() const override { return "cpu"; }

  Support supports(const AttentionDesc& desc) const override {
    if (desc.dtype == DType::f64)
      return {false, "computes f32 and bf16; float64 is the reference backend's"};
    if (desc.dtype != DType::f32 && desc.dtype != DType::bf16)
      return {false, fmt::format("computes f32 and bf16, not {}", dtype_name(desc.dtype))};
    if (desc.head_dim < 1 || desc.head_dim_v < 1)
      return {false,
              fmt::format("head dims {} and {} are not positive", desc.head_dim, desc.head_dim_v)};
    return {true, {}};
  }

  void prepare(const AttentionDesc& desc, int num_threads) override {
    const Support support = supports(desc);
    LH_CHECK(support.ok, "{}", support.why_not);
    desc_ = desc;
    workers_.clear();
    add_workers(num_threads);
  }

  void run(const AttentionArgs& a, ThreadPool& pool) override;

 private:
  void pack(const cpu::Call& call, int64_t end, ThreadPool& pool);
  void add_workers(int num_threads) {
    const DType tile = desc_.dtype == DType::bf16 && !widen_ ? DType::bf16 : DType::f32;
    while (workers_.size() < static_cast<size_t>(num_threads))
      workers_.push_back(std::make_unique<cpu::TileWorker>(tile, desc_.head_dim, desc_.head_dim_v));
  }

  bool widen_;
  AttentionDesc desc_;
  std::vector<std::unique_ptr<cpu::TileWorker>> workers_;  // one a thread
};

void CpuBackend::run(const AttentionArgs& a, ThreadPool& pool) {
  check_arguments(a);
  LH_CHECK(!workers_.empty() && a.q.dtype == desc_.dtype && a.q.shape[2] == desc_.head_dim &&
               a.out.shape[2] == desc_.head_dim_v,
           "q {} of {}, out {}; prepared for {}, head dims {} and {}", a.q.shape.to_string(),
           dtype_name(a.q.dtype), a.out.shape.to_string(), dtype_name(desc_.dtype), desc_.head_dim,
           desc_.head_dim_v);
  add_workers(pool.num_threads());
  const cpu::Plan plan = cpu::make_plan(
      a, {cpu::kTileRows, cpu::kTileColumns, pool.num_threads(), !desc_.deterministic});
  const int64_t group = a.num_kv_heads > 0 ? a.q.shape[1] / a.num_kv_heads : 1;
  const auto rows = [&](const cpu::Task& t) { return (t.token_end - t.token_begin) * group; };
  int64_t most_rows = 0;
  for (const cpu::Join& j : plan.joins) most_rows = std::max(most_rows, rows(j.task));
  Partials partials(plan.num_partials, most_rows, desc_.head_dim_v);

  cpu::Call call{a, plan, {}};
  int64_t heads = a.num_kv_heads;  // of a round
  Tensor packed;
  if (plan.packed.total() > 0) {
    call.packed.key_bytes = workers_[0]->packed_key_bytes();
    call.packed.value_bytes = workers_[0]->packed_value_bytes();
    const int64_t head_bytes =
        plan.packed.total() * (call.packed.key_bytes + call.packed.value_bytes);
    heads = std::clamp<int64_t>(kPackedBytes / head_bytes, 1, heads);
    packed = Tensor(DType::u8, {heads * head_bytes});
    call.packed.data = static_cast<std::byte*>(packed.data());
  }
  for (int64_t head = 0; head < a.num_kv_heads; head += heads) {
    call.packed.first_head = head;
    const int64_t end = std::min(head + heads, a.num_kv_heads);
    pack(call, end, pool);
    std::vector<const cpu::Task*> tasks;
    for (const cpu::Task& t : plan.tasks)
      if (t.kv_head >= head && t.kv_head < end) tasks.push_back(&t);
    pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
      const cpu::Task& task = *tasks[static_cast<size_t>(i)];
      const bool part = task.partial >= 0;
      const cpu::Running running = part ? partials.at(task.partial) : cpu::Running{};
      workers_[static_cast<size_t>(thread)]->run(call, task, part ? &running : nullptr,
                                                 thread == 0 ? a.poll : nullptr);
    });
  }
  pool.parallel_for(static_cast<int64_t>(plan.joins.size()), [&](int64_t i, int) {
    const cpu::Join& join = plan.joins[static_cast<size_t>(i)];
    join_parts(partials, join, rows(join.task));
    cpu::store_result(a, join.task, partials.at(join.first));
  });
}

// Packs the whole tiles of KV heads [call.packed.first_head, end).
void CpuBackend::pack(const cpu::Call& call, int64_t end, ThreadPool& pool) {
  constexpr int64_t kTilesPerTask = 8;
  struct Piece {
    size_t sequence;
    int64_t head, begin, end;
  };
  std::vector<Piece> pieces;
  const std::vector<int64_t>& count = call.plan.packed.count;
  for (int64_t h = call.packed.first_head; h < end; ++h)
    for (size_t s = 0; s < count.size(); ++s)
      for (int64_t t = 0; t < count[s]; t += kTilesPerTask)
        pieces.push_back({s, h, t, std::min(t + kTilesPerTask, count[s])});
  pool.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int thread) {
    if (thread == 0 && call.args.poll != nullptr) (*call.args.poll)();
    const Piece& p = pieces[static_cast<size_t>(i)];
    for (int64_t t = p.begin; t < p.end; ++t)
      workers_[static_cast<size_t>(thread)]->pack(call, p.sequence, p.head, t);
  });
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}
std::unique_ptr<Backend> make_cpu_backend() {
  return make_cpu_backend(CpuBackendOptions{});
}

}  // namespace longhaul::attention
