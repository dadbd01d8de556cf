#pragma once
// Parses what a person gives `longhaul plan`; every mistake is Error(usage) in one line.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "apps/plan_report.h"

namespace longhaul::apps {

constexpr int64_t kMaxPlanRanks = 4096;
constexpr int64_t kMaxPlanBlocks = int64_t{1} << 25;  // ranks x 2 x sequences: about 1 GiB of lists

// "9", "16K" (x 1024), "1M" (x 1024^2); at least `least`, within int64.
int64_t parse_count(std::string_view option, std::string_view text, int64_t least);

// Comma-separated counts; "64*9" or "64x9" stands for 64 times 9.
std::vector<int64_t> parse_counts(std::string_view option, std::string_view text, int64_t least);

int parse_ranks(std::string_view text);  // --cp

// Checks that the lists fit each other, the ranks and int64. An empty prefix list means none.
std::vector<layout::SequenceExtent> make_extents(int cp, const std::vector<int64_t>& lengths,
                                                 const std::vector<int64_t>& prefixes);

// "32/4" (query heads / KV heads) or "32" (as many of both).
HeadShape parse_heads(std::string_view heads, std::string_view head_dim, std::string_view dtype);

// Head counts and dtype size of DIR/config.json.
HeadShape heads_of_model(const std::string& model_dir, std::string_view dtype);

}  // namespace longhaul::apps
