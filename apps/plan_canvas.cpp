#include "apps/plan_canvas.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iterator>

namespace longhaul::apps {
namespace {

constexpr std::string_view kFont =
    "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif";

// Shorter files: two decimals at most, no trailing zeros.
std::string px(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string close_shape(std::string_view element, std::string_view tooltip) {
  return tooltip.empty() ? std::string("/>\n")
                         : fmt::format("><title>{}</title></{}>\n", tooltip, element);
}

std::string hsl(double hue, double saturation, double lightness) {
  auto channel = [&](double n) {
    const double k = std::fmod(n + hue / 30, 12.0);
    const double a = saturation * std::min(lightness, 1 - lightness);
    return static_cast<int>(
        std::lround(255 * (lightness - a * std::max(-1.0, std::min({k - 3, 9 - k, 1.0})))));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", channel(0), channel(8), channel(4));
}

}  // namespace

void Canvas::rect(Point at, double width, double height, std::string_view fill,
                  std::string_view tooltip) {
  fmt::format_to(std::back_inserter(body_),
                 "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" "
                 "fill=\"{}\"{}",
                 px(at.x), px(at.y), px(width), px(height), fill, close_shape("rect", tooltip));
}

void Canvas::polygon(const std::vector<Point>& points, std::string_view fill,
                     std::string_view tooltip) {
  body_ += "<polygon points=\"";
  for (size_t i = 0; i < points.size(); ++i)
    fmt::format_to(std::back_inserter(body_), "{}{},{}", i == 0 ? "" : " ", px(points[i].x),
                   px(points[i].y));
  fmt::format_to(std::back_inserter(body_), "\" fill=\"{}\"{}", fill,
                 close_shape("polygon", tooltip));
}

void Canvas::line(Point from, Point to, std::string_view colour, double width, bool dashed) {
  fmt::format_to(std::back_inserter(body_),
                 "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" "
                 "stroke-width=\"{}\"{}/>\n",
                 px(from.x), px(from.y), px(to.x), px(to.y), colour, px(width),
                 dashed ? " stroke-dasharray=\"4 3\"" : "");
}

void Canvas::text(Point at, std::string_view content, double size, std::string_view colour,
                  Anchor anchor, bool bold) {
  constexpr std::string_view anchors[] = {"start", "middle", "end"};
  fmt::format_to(std::back_inserter(body_),
                 "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{}\"{}>{}"
                 "</text>\n",
                 px(at.x), px(at.y), px(size), colour, anchors[static_cast<size_t>(anchor)],
                 bold ? " font-weight=\"600\"" : "", content);
}

std::string Canvas::document(double width, double height, std::string_view title) const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\" font-family=\"{2}\">\n<title>{3}</title>\n<defs>\n"
      "<pattern id=\"next\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\"><rect width=\"2\" height=\"6\" fill=\"#ffffff\" "
      "fill-opacity=\"0.38\"/></pattern>\n"
      "<pattern id=\"prefix\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">"
      "<rect width=\"5\" height=\"5\" fill=\"#eceef1\"/><circle cx=\"2.5\" cy=\"2.5\" r=\"0.8\" "
      "fill=\"#b9bec7\"/></pattern>\n</defs>\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n{4}</svg>\n",
      px(width), px(height), kFont, title, body_);
}

std::string rank_colour(int rank, int ranks) {
  constexpr std::array<std::string_view, 10> picked = {"#3b6fb6", "#e8883a", "#4aa564", "#c94f4f",
                                                       "#8a63b8", "#d9b036", "#3aa6b0", "#d06fa4",
                                                       "#7a6a5a", "#8aa63a"};
  if (ranks <= static_cast<int>(picked.size()))
    return std::string(picked[static_cast<size_t>(rank)]);
  constexpr std::array<double, 3> lightness = {0.45, 0.60, 0.72};
  return hsl(std::fmod(210 + 137.50776 * rank, 360.0), 0.55,
             lightness[static_cast<size_t>(rank % 3)]);
}

std::string_view ink_on(std::string_view colour) {
  auto channel = [&](size_t at) {
    return static_cast<double>(std::strtol(std::string(colour.substr(at, 2)).c_str(), nullptr, 16));
  };
  const double luma = 0.299 * channel(1) + 0.587 * channel(3) + 0.114 * channel(5);
  return luma > 165 ? "#1d2430" : "#ffffff";
}

}  // namespace longhaul::apps
