#include "attention/backends/cpu_plan.h"

#include <algorithm>

namespace longhaul::attention::cpu {
namespace {

// Enough tasks a thread that the last ones even out; a part shorter than this many tiles costs
// more in joining than it gains.
constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kLeastTiles = 4;

double cost(const Task& t) {
  return static_cast<double>(t.token_end - t.token_begin) *
         static_cast<double>(t.key_end - t.key_begin + 1);
}

void split_keys(Plan& plan, const PlanLimits& limits) {
  const auto wanted = kTasksPerThread * limits.num_threads;
  const auto have = static_cast<int64_t>(plan.tasks.size());
  if (have == 0 || have >= wanted || limits.num_threads == 1) return;
  const int64_t parts = (wanted + have - 1) / have;
  std::vector<Task> cut;
  for (const Task& t : plan.tasks) {
    const int64_t tiles = (t.key_end - t.key_begin + limits.columns - 1) / limits.columns;
    const int64_t pieces = std::clamp<int64_t>(tiles / kLeastTiles, 1, parts);
    if (pieces == 1) {
      cut.push_back(t);
      continue;
    }
    plan.joins.push_back({t, plan.num_partials, pieces});
    for (int64_t i = 0; i < pieces; ++i) {
      Task part = t;
      part.key_begin = t.key_begin + tiles * i / pieces * limits.columns;
      part.key_end =
          i + 1 == pieces ? t.key_end : t.key_begin + tiles * (i + 1) / pieces * limits.columns;
      part.partial = plan.num_partials++;
      cut.push_back(part);
    }
  }
  plan.tasks = std::move(cut);
}

// Packing costs about as much as a tenth of using a tile once.
constexpr int64_t kLeastUses = 2;

PackedTiles plan_packing(const Plan& plan, const AttentionArgs& a, const PlanLimits& limits) {
  PackedTiles packed;
  packed.count.assign(plan.keys.size(), 0);
  std::vector<int64_t> uses(plan.keys.size(), 0);
  for (const Task& t : plan.tasks) {
    if (t.kv_head != 0) continue;
    const auto s = static_cast<size_t>(a.items[static_cast<size_t>(t.item)].sequence);
    packed.count[s] = std::max(packed.count[s], t.key_end / limits.columns);
    ++uses[s];
  }
  packed.first.push_back(0);
  for (size_t s = 0; s < uses.size(); ++s) {
    if (uses[s] < kLeastUses) packed.count[s] = 0;
    packed.first.push_back(packed.first.back() + packed.count[s]);
  }
  return packed;
}

}  // namespace

KeyList::KeyList(std::span<const KvSegment> segments) {
  for (const KvSegment& s : segments)
    if (s.length > 0) segments_.push_back(s);
  std::sort(segments_.begin(), segments_.end(),
            [](const KvSegment& a, const KvSegment& b) { return a.position < b.position; });
  first_.push_back(0);
  for (const KvSegment& s : segments_) first_.push_back(first_.back() + s.length);
}

int64_t KeyList::count_below(int64_t position) const {
  const auto after = std::lower_bound(
      segments_.begin(), segments_.end(), position,
      [](const KvSegment& s, int64_t p) { return s.position < p; });  // the first at >= position
  if (after == segments_.begin()) return 0;
  const auto i = static_cast<size_t>(after - segments_.begin() - 1);
  return first_[i] + std::min(position - segments_[i].position, segments_[i].length);
}

const KvSegment& KeyList::find(int64_t i, int64_t* offset) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), i);
  const auto s = static_cast<size_t>(after - first_.begin() - 1);
  *offset = i - first_[s];
  return segments_[s];
}

Plan make_plan(const AttentionArgs& a, const PlanLimits& limits) {
  Plan plan;
  const int64_t group = a.q.shape[1] / std::max<int64_t>(a.num_kv_heads, 1);
  if (group == 0) return plan;
  for (const std::vector<KvSegment>& segments : a.kv) plan.keys.emplace_back(segments);
  const int64_t tokens = std::max<int64_t>(limits.rows / group, 1);
  for (size_t i = 0; i < a.items.size(); ++i) {
    const WorkItem& w = a.items[i];
    const KeyList& keys = plan.keys[static_cast<size_t>(w.sequence)];
    for (int64_t begin = 0; begin < w.q_length; begin += tokens) {
      const int64_t end = std::min(begin + tokens, w.q_length);
      const int64_t limit = a.causal ? std::min(w.q_position + end, w.kv_length) : w.kv_length;
      for (int64_t h = 0; h < a.num_kv_heads; ++h)
        plan.tasks.push_back({static_cast<int>(i), h, begin, end, 0, keys.count_below(limit), -1});
    }
  }
  plan.packed = plan_packing(plan, a, limits);
  if (limits.split_keys) split_keys(plan, limits);
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                   [](const Task& x, const Task& y) { return cost(x) > cost(y); });
  return plan;
}

}  // namespace longhaul::attention::cpu
