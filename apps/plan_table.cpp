#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/plan_report.h"
#include "runtime/layout/exchange_plan.h"

namespace longhaul::apps {
namespace {

using layout::BatchLayout;
using layout::Block;
using layout::Half;
using layout::LayoutKind;

constexpr int kShownSequences = 4;  // of one rank, before the list is cut short
constexpr int kShownRanks = 64;

std::string bytes(double value) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t u = 0;
  while (value >= 1024 && u + 1 < std::size(units)) {
    value /= 1024;
    ++u;
  }
  return u == 0 ? fmt::format("{:.0f} B", value) : fmt::format("{:.1f} {}", value, units[u]);
}

std::string range(const Block& block) {
  return block.length == 0 ? "-" : fmt::format("{}..{}", block.start, block.end() - 1);
}

std::string blocks_of_rank(const BatchLayout& layout, int rank) {
  std::string text;
  int shown = 0, more = 0;
  for (int s = 0; s < layout.num_sequences(); ++s) {
    const Block& prev = layout.block(rank, Half::prev, s);
    const Block& next = layout.block(rank, Half::next, s);
    if (prev.length + next.length == 0) continue;
    if (shown == kShownSequences) {
      ++more;
      continue;
    }
    text += fmt::format("{}{}:{}", shown == 0 ? "" : "  ", s, range(prev));
    if (next.length > 0) text += fmt::format(" | {}", range(next));
    ++shown;
  }
  if (more > 0) text += fmt::format("  and {} more", more);
  return text.empty() ? "nothing" : text;
}

std::string head(const PlanReport& report) {
  const BatchLayout& layout = report.layout;
  int64_t prefix = 0;
  for (const layout::SequenceExtent& s : layout.sequences()) prefix += s.prefix;
  std::string text =
      fmt::format("{} layout: {} rank{}, {} sequence{}, {} new token{}", layout_name(layout.kind()),
                  layout.cp(), layout.cp() == 1 ? "" : "s", grouped(layout.num_sequences()),
                  layout.num_sequences() == 1 ? "" : "s", grouped(layout.total_tokens()),
                  layout.total_tokens() == 1 ? "" : "s");
  if (prefix > 0) text += fmt::format(" on {} cached", grouped(prefix));
  return text + "\n\n";
}

std::string rank_lines(const PlanReport& report) {
  const BatchLayout& layout = report.layout;
  double total = 0;
  for (double a : report.area) total += a;
  std::string text = fmt::format("{:>5} {:>12} {:>12} {:>9} {:>12}", "rank", "tokens", "area",
                                 "of mean", "KV received");
  if (report.heads) text += fmt::format(" {:>11}", "bytes/layer");
  text += "  owned and computed (sequence:prev | next positions)\n";
  for (int r = 0; r < std::min(layout.cp(), kShownRanks); ++r) {
    const size_t i = static_cast<size_t>(r);
    text +=
        fmt::format("{:>5} {:>12} {:>12} {:>8.2f}% {:>12}", r, grouped(layout.num_tokens(r)),
                    report.area[i] < 1e12 ? grouped(std::llround(report.area[i]))
                                          : fmt::format("{:.5g}", report.area[i]),
                    100 * report.area[i] * layout.cp() / total, grouped(report.received_tokens[i]));
    if (report.heads)
      text +=
          fmt::format(" {:>11}", bytes(static_cast<double>(report.received_tokens[i]) *
                                       static_cast<double>(report.heads->kv_bytes_per_token())));
    text += "  " + blocks_of_rank(layout, r) + "\n";
  }
  if (layout.cp() > kShownRanks)
    text += fmt::format("  and {} more ranks (--json lists them all)\n", layout.cp() - kShownRanks);
  return text;
}

}  // namespace

std::string grouped(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

std::string plan_table(const PlanReport& report) {
  const BatchLayout& layout = report.layout;
  std::string text = head(report) + rank_lines(report);
  text += fmt::format("\n{:<12} {:>15} {:>16}   (max over mean)\n", "layout", "area imbalance",
                      "token imbalance");
  for (LayoutKind kind : {LayoutKind::balanced, LayoutKind::zigzag, LayoutKind::contiguous}) {
    const layout::Imbalance i =
        kind == layout.kind()
            ? report.imbalance
            : layout::imbalance(BatchLayout::make(kind, layout.cp(), layout.sequences()));
    text += fmt::format("{:<12} {:>15.4f} {:>16.4f}{}\n", layout_name(kind), i.area, i.tokens,
                        kind == layout.kind() ? "   <- shown above" : "");
  }
  text += fmt::format("{:<12} {:>15.4f}\n", "lower bound", report.area_lower_bound);
  const bool cached = std::any_of(layout.sequences().begin(), layout.sequences().end(),
                                  [](const layout::SequenceExtent& s) { return s.prefix > 0; });
  if (cached)
    text +=
        "\nKV received: cached prefixes are taken as stored by one earlier step in this layout\n";
  return text;
}

}  // namespace longhaul::apps
