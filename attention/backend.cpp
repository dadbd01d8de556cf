#include "attention/backend.h"

namespace longhaul::attention {

void check_arguments(const AttentionArgs& a) {
  LH_CHECK(a.q.shape.rank() == 3 && a.out.shape.rank() == 3 && a.lse.shape.rank() == 2,
           "q {}, out {}, lse {}", a.q.shape.to_string(), a.out.shape.to_string(),
           a.lse.shape.to_string());
  const int64_t rows = a.q.shape[0];
  const int64_t heads = a.q.shape[1];
  LH_CHECK(a.out.shape[0] == rows && a.out.shape[1] == heads, "q {}, out {}", a.q.shape.to_string(),
           a.out.shape.to_string());
  LH_CHECK(a.lse.shape[0] == rows && a.lse.shape[1] == heads, "q {}, lse {}", a.q.shape.to_string(),
           a.lse.shape.to_string());
  const DType acc = accumulator_dtype(a.q.dtype);
  LH_CHECK(a.out.dtype == acc && a.lse.dtype == acc, "q {}, out {}, lse {}", dtype_name(a.q.dtype),
           dtype_name(a.out.dtype), dtype_name(a.lse.dtype));
  LH_CHECK(heads == 0 || (a.num_kv_heads > 0 && heads % a.num_kv_heads == 0),
           "{} heads over {} kv heads", heads, a.num_kv_heads);
  for (const WorkItem& w : a.items) {
    LH_CHECK(w.sequence >= 0 && static_cast<size_t>(w.sequence) < a.kv.size(), "sequence {} of {}",
             w.sequence, a.kv.size());
    LH_CHECK(w.q_length >= 0 && w.q_row >= 0 && w.q_row + w.q_length <= rows, "rows [{}, {}) of {}",
             w.q_row, w.q_row + w.q_length, rows);
    LH_CHECK(w.kv_length >= 0, "kv length {}", w.kv_length);
  }
  for (const std::vector<KvSegment>& segments : a.kv)
    for (const KvSegment& s : segments)
      LH_CHECK(s.position >= 0 && s.length >= 0, "segment at {} of {}", s.position, s.length);
}

}  // namespace longhaul::attention
