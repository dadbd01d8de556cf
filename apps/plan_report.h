#pragma once
// What `longhaul plan` works out, and the three ways it shows it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/layout/batch_layout.h"

namespace longhaul::apps {

// Attention's shape, for bytes and floating-point operations.
struct HeadShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t element_bytes = 2;
  int64_t kv_bytes_per_token() const { return 2 * num_kv_heads * head_dim * element_bytes; }
};

struct PlanReport {
  layout::BatchLayout layout;
  layout::Imbalance imbalance;
  double area_lower_bound = 1;
  // [cp] KV tokens that the exchange brings to each rank. The prefixes are taken as stored by one
  // earlier step in the same layout.
  std::vector<int64_t> received_tokens;
  std::vector<double> area;  // [cp]
  std::optional<HeadShape> heads;
};

PlanReport make_plan_report(layout::LayoutKind kind, int cp,
                            const std::vector<layout::SequenceExtent>& sequences,
                            std::optional<HeadShape> heads);

std::string grouped(int64_t value);  // 1234567 as 1,234,567; value >= 0

std::string plan_json(const PlanReport& report);   // one JSON document
std::string plan_table(const PlanReport& report);  // for people
std::string plan_svg(const PlanReport& report);    // one self-contained picture

}  // namespace longhaul::apps
