#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/plan_canvas.h"
#include "apps/plan_report.h"

namespace longhaul::apps {
namespace {

using layout::BatchLayout;
using layout::Block;
using layout::Half;

constexpr double kWidth = 1200, kMargin = 32;
constexpr std::string_view kInk = "#1d2430", kSoft = "#667085", kRule = "#d5d9e0";
constexpr int kMostRows = 48;         // sequences drawn as rows
constexpr size_t kMostTriangles = 6;  // sequences whose causal area is drawn

class Picture {
 public:
  explicit Picture(const PlanReport& report) : report_(report), layout_(report.layout) {}

  std::string draw() {
    heading();
    token_rows();
    rank_bars();
    if (layout_.sequences().size() <= kMostTriangles) triangles();
    return canvas_.document(kWidth, y_ + 16, "longhaul plan");
  }

 private:
  std::string colour(int rank) const { return rank_colour(rank, layout_.cp()); }

  std::string tooltip(int sequence, int rank, Half half) const {
    const Block& block = layout_.block(rank, half, sequence);
    return fmt::format("sequence {}, rank {} {}: positions {} to {}, {} tokens, area {:.6g}",
                       sequence, rank, half == Half::prev ? "prev" : "next", block.start,
                       block.end() - 1, block.length, block.area());
  }

  void section(std::string_view title, std::string_view hint) {
    y_ += 30;
    canvas_.text({kMargin, y_}, title, 15, kInk, Anchor::start, true);
    canvas_.text({kWidth - kMargin, y_}, hint, 12, kSoft, Anchor::end);
    y_ += 8;
    canvas_.line({kMargin, y_}, {kWidth - kMargin, y_}, kRule);
    y_ += 14;
  }

  void heading() {
    y_ = 44;
    canvas_.text({kMargin, y_},
                 fmt::format("{} layout on {} rank{}", layout_name(layout_.kind()), layout_.cp(),
                             layout_.cp() == 1 ? "" : "s"),
                 22, kInk, Anchor::start, true);
    y_ += 24;
    canvas_.text({kMargin, y_},
                 fmt::format("{} new tokens in {} sequence{}; max over mean: area {:.4f} (lower "
                             "bound {:.4f}), tokens {:.4f}",
                             grouped(layout_.total_tokens()), grouped(layout_.num_sequences()),
                             layout_.num_sequences() == 1 ? "" : "s", report_.imbalance.area,
                             report_.area_lower_bound, report_.imbalance.tokens),
                 13, kSoft);
  }

  void token_rows() {
    section("Who owns and computes which tokens",
            "each row has its own scale; plain: prev, hatched: next, dotted: cached prefix");
    const int rows = std::min(layout_.num_sequences(), kMostRows);
    const bool dense = rows > 16;
    const double height = dense ? 13 : 26, step = dense ? 17 : 48;
    for (int s = 0; s < rows; ++s) {
      token_row(s, height, dense);
      y_ += step;
    }
    if (layout_.num_sequences() > rows) {
      canvas_.text({kMargin, y_ + 10},
                   fmt::format("and {} more sequences", grouped(layout_.num_sequences() - rows)),
                   12, kSoft);
      y_ += 20;
    }
  }

  void token_row(int s, double height, bool dense) {
    const layout::SequenceExtent& sequence = layout_.sequences()[static_cast<size_t>(s)];
    const double left = kMargin + 150, right = kWidth - kMargin;
    const double total = static_cast<double>(sequence.prefix + sequence.extend);
    // A long prefix is cut short: the new tokens are what the picture is about.
    const double share = static_cast<double>(sequence.prefix) / total;
    const bool cut = share > 0.2;
    const double begin = left + (right - left) * std::min(share, 0.2);
    const double scale = (right - begin) / static_cast<double>(sequence.extend);
    canvas_.text({kMargin, y_ + height - (dense ? 3 : 12)}, fmt::format("sequence {}", s),
                 dense ? 10 : 13, kInk);
    const std::string size = fmt::format("{} new", grouped(sequence.extend));
    if (dense)
      canvas_.text({left - 8, y_ + height - 3}, size, 10, kSoft, Anchor::end);
    else
      canvas_.text({kMargin, y_ + height + 2}, size, 11, kSoft);
    if (sequence.prefix > 0) {
      canvas_.rect({left, y_}, begin - left, height, "url(#prefix)",
                   fmt::format("cached prefix: {} tokens", sequence.prefix));
      if (!dense && begin - left > 90)
        canvas_.text({(left + begin) / 2, y_ + height + 13},
                     fmt::format("{} cached{}", grouped(sequence.prefix), cut ? ", cut short" : ""),
                     10, kSoft, Anchor::middle);
    }
    for (int i = 0; i < 2 * layout_.cp(); ++i) {
      const BatchLayout::Owner o = layout_.owner(s, i);
      const Block& block = layout_.block(o.cp_rank, o.half, s);
      if (block.length == 0) continue;
      const double x = begin + static_cast<double>(block.start - sequence.prefix) * scale;
      const double width = static_cast<double>(block.length) * scale;
      const double gap = width > 6 ? 1 : 0;
      canvas_.rect({x, y_}, width - gap, height, colour(o.cp_rank), tooltip(s, o.cp_rank, o.half));
      if (o.half == Half::next) canvas_.rect({x, y_}, width - gap, height, "url(#next)");
      if (width > (dense ? 18 : 26))
        canvas_.text({x + width / 2, y_ + height / 2 + (dense ? 3.5 : 4.5)},
                     fmt::format("{}", o.cp_rank), dense ? 10 : 13, ink_on(colour(o.cp_rank)),
                     Anchor::middle, true);
      if (!dense && width > 9.0 * static_cast<double>(std::to_string(block.start).size()))
        canvas_.text({x, y_ + height + 13}, std::to_string(block.start), 10, kSoft);
    }
  }

  void rank_bars() {
    section("Work and tokens of each rank", "against the mean; upper bar: area, lower bar: tokens");
    const int ranks = layout_.cp();
    double total_area = 0, most = 1;
    for (double a : report_.area) total_area += a;
    const double mean_area = total_area / ranks;
    const double mean_tokens = static_cast<double>(layout_.total_tokens()) / ranks;
    most = std::max({most, report_.imbalance.area, report_.imbalance.tokens});
    const double left = kMargin + 150, width = kWidth - kMargin - left - 240;
    const double height = ranks <= 16 ? 22 : ranks <= 64 ? 12 : 4, gap = ranks <= 64 ? 6 : 1;
    const double top = y_;
    for (int r = 0; r < ranks; ++r) {
      const double area = report_.area[static_cast<size_t>(r)] / mean_area;
      const double tokens = static_cast<double>(layout_.num_tokens(r)) / mean_tokens;
      canvas_.rect({left, y_}, width * area / most, height * 0.6, colour(r));
      canvas_.rect({left, y_ + height * 0.66}, width * tokens / most, height * 0.34, "#98a2b3");
      if (ranks <= 64) {
        const double size = ranks <= 16 ? 12 : 10;
        canvas_.text({left - 10, y_ + height * 0.75}, fmt::format("rank {}", r), size, kInk,
                     Anchor::end);
        canvas_.text(
            {kWidth - kMargin, y_ + height * 0.75},
            fmt::format("{:.2f} % of mean, {} tokens", 100 * area, grouped(layout_.num_tokens(r))),
            size, kSoft, Anchor::end);
      }
      y_ += height + gap;
    }
    canvas_.line({left + width / most, top - 6}, {left + width / most, y_}, kInk, 1, true);
    y_ += 6;
  }

  void triangles() {
    section("Causal area: queries downwards, keys to the right",
            "each picture has its own scale; a row is as wide as the keys its query sees");
    const double size = (kWidth - 2 * kMargin - 2 * 28) / 3;
    double x = kMargin;
    const int count = layout_.num_sequences();
    for (int s = 0; s < count; ++s) {
      triangle(s, {x, y_}, size);
      x += size + 28;
      if (s % 3 == 2 || s == count - 1) {
        x = kMargin;
        y_ += size * 0.75 + 40;
      }
    }
  }

  void triangle(int s, Point at, double width) {
    const layout::SequenceExtent& sequence = layout_.sequences()[static_cast<size_t>(s)];
    const double height = width * 0.75;
    const double keys = static_cast<double>(sequence.prefix + sequence.extend);
    const double x_scale = width / keys, y_scale = height / static_cast<double>(sequence.extend);
    canvas_.text({at.x, at.y + 10}, fmt::format("sequence {}", s), 12, kInk, Anchor::start, true);
    const double top = at.y + 18;
    for (int i = 0; i < 2 * layout_.cp(); ++i) {
      const BatchLayout::Owner o = layout_.owner(s, i);
      const Block& block = layout_.block(o.cp_rank, o.half, s);
      if (block.length == 0) continue;
      const double y0 = top + static_cast<double>(block.start - sequence.prefix) * y_scale;
      const double y1 = top + static_cast<double>(block.end() - sequence.prefix) * y_scale;
      const double x0 = at.x + static_cast<double>(block.start) * x_scale;
      const double x1 = at.x + static_cast<double>(block.end()) * x_scale;
      const std::vector<Point> shape = {{at.x, y0}, {x0, y0}, {x1, y1}, {at.x, y1}};
      canvas_.polygon(shape, colour(o.cp_rank), tooltip(s, o.cp_rank, o.half));
      if (o.half == Half::next) canvas_.polygon(shape, "url(#next)");
      canvas_.line({at.x, y1}, {x1, y1}, "#ffffff", 0.6);
      if (y1 - y0 > 12 && x1 - at.x > 24)
        canvas_.text({at.x + (x0 + x1 - 2 * at.x) / 4, (y0 + y1) / 2 + 4},
                     fmt::format("{}", o.cp_rank), 11, ink_on(colour(o.cp_rank)), Anchor::middle,
                     true);
    }
    if (sequence.prefix > 0) {
      const double x = at.x + static_cast<double>(sequence.prefix) * x_scale;
      canvas_.line({x, top}, {x, top + height}, kInk, 0.8, true);
    }
  }

  const PlanReport& report_;
  const BatchLayout& layout_;
  Canvas canvas_;
  double y_ = 0;
};

}  // namespace

std::string plan_svg(const PlanReport& report) {
  return Picture(report).draw();
}

}  // namespace longhaul::apps
