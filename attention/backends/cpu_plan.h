#pragma once
// How the cpu backend cuts a call into tasks: pure data.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/backend.h"

namespace longhaul::attention::cpu {

// The keys of one sequence in order of position: key i is the i-th of them, wherever it lies.
class KeyList {
 public:
  explicit KeyList(std::span<const KvSegment> segments);

  int64_t size() const { return first_.back(); }
  // How many keys lie at positions below `position`: they are keys [0, that).
  int64_t count_below(int64_t position) const;
  // The segment that holds key i; *offset is the key's place in it.
  const KvSegment& find(int64_t i, int64_t* offset) const;

 private:
  std::vector<KvSegment> segments_;  // ascending positions, none empty
  std::vector<int64_t> first_;       // [segments + 1] key index of each segment's first
};

// Queries [token_begin, token_end) of an item, the query heads of one KV head, against keys
// [key_begin, key_end) of its sequence.
struct Task {
  int item = 0;
  int64_t kv_head = 0;
  int64_t token_begin = 0, token_end = 0;
  int64_t key_begin = 0, key_end = 0;
  int64_t partial = -1;  // index of its partial result, -1: it writes the result itself
};

// Partial results [first, first + count) belong to one block of queries, in ascending order of
// keys.
struct Join {
  Task task;  // keys of all parts together
  int64_t first = 0;
  int64_t count = 0;
};

// Tiles of keys that are packed once a call and used by many tasks.
struct PackedTiles {
  std::vector<int64_t> count;  // [num_sequences] whole tiles packed, from key 0 on; may be 0
  std::vector<int64_t> first;  // [num_sequences + 1] where a sequence's tiles begin
  int64_t total() const { return first.empty() ? 0 : first.back(); }  // of one KV head
};

struct Plan {
  std::vector<KeyList> keys;  // [num_sequences]
  std::vector<Task> tasks;    // the dearest first, so that the threads finish together
  std::vector<Join> joins;
  PackedTiles packed;
  int64_t num_partials = 0;
};

struct PlanLimits {
  int64_t rows = 0;     // query rows (tokens x heads of a KV head) of a task
  int64_t columns = 0;  // key ranges are cut at multiples of this
  int num_threads = 1;
  bool split_keys = true;  // cut long key ranges where there are too few tasks for the threads
};

Plan make_plan(const AttentionArgs& args, const PlanLimits& limits);

}  // namespace longhaul::attention::cpu
