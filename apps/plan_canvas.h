#pragma once
// The few SVG shapes that `longhaul plan --svg` draws with. Units are pixels.

#include <string>
#include <string_view>
#include <vector>

namespace longhaul::apps {

struct Point {
  double x = 0, y = 0;
};

enum class Anchor { start, middle, end };

class Canvas {
 public:
  // Shapes get `tooltip` as their title where it is not empty.
  void rect(Point at, double width, double height, std::string_view fill,
            std::string_view tooltip = {});
  void polygon(const std::vector<Point>& points, std::string_view fill,
               std::string_view tooltip = {});
  void line(Point from, Point to, std::string_view colour, double width = 1, bool dashed = false);
  void text(Point at, std::string_view content, double size, std::string_view colour,
            Anchor anchor = Anchor::start, bool bold = false);
  // The whole document, white background, with the patterns "next" and "prefix" defined.
  std::string document(double width, double height, std::string_view title) const;

 private:
  std::string body_;
};

// A colour for each rank: ten hand-picked ones, then hues a golden angle apart.
std::string rank_colour(int rank, int ranks);
// Black or white, whichever is readable on `colour` ("#rrggbb").
std::string_view ink_on(std::string_view colour);

}  // namespace longhaul::apps
