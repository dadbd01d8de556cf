#include <algorithm>
#include <limits>

#include "attention/backends/cuda/attention_sm90.h"
#include "runtime/core/check.h"

namespace longhaul::attention::sm90 {
namespace {

constexpr int64_t kMaxCoordinate = int64_t{1}
                                   << 30;  // TMA coordinates and mask sums stay below 2^31

void check_item(const Item& item) {
  LH_CHECK(item.q_row >= 0 && item.q_length >= 0 && item.q_row + item.q_length <= kMaxCoordinate,
           "q rows {} + {}", item.q_row, item.q_length);
  LH_CHECK(
      item.kv_row >= 0 && item.kv_length >= 0 && item.kv_row + item.kv_length <= kMaxCoordinate,
      "kv rows {} + {}", item.kv_row, item.kv_length);
}

}  // namespace

bool supported(const Shape& shape, std::string* why_not) {
  const auto no = [&](std::string reason) {
    if (why_not != nullptr) *why_not = std::move(reason);
    return false;
  };
  const int d = shape.head_dim, dv = shape.head_dim_v;
  if (!((d == dv && (d == 64 || d == 128 || d == 256)) || (d == 192 && dv == 128))) {
    return no(
        fmt::format("head dims {}/{} have no sm_90a kernel: 64, 128, 256 and 192/128 do", d, dv));
  }
  if (shape.num_heads <= 0 || shape.num_kv_heads <= 0 ||
      shape.num_heads % shape.num_kv_heads != 0) {
    return no(fmt::format("{} heads do not divide among {} kv heads", shape.num_heads,
                          shape.num_kv_heads));
  }
  return true;
}

int queries_per_tile(const Shape& shape) {
  return shape.head_dim == 64 ? 192 : 128;
}

std::vector<Tile> plan_tiles(const Shape& shape, std::span<const Item> items) {
  const int64_t rows = queries_per_tile(shape);
  std::vector<Tile> tiles;
  for (const Item& item : items) {
    check_item(item);
    const int64_t offset = std::clamp(item.causal_offset, -kMaxCoordinate, kNoMask);
    for (int64_t first = 0; first < item.q_length; first += rows) {
      const int64_t count = std::min(rows, item.q_length - first);
      // The last query of the tile sees the most keys.
      const int64_t seen = std::clamp(first + count + offset, int64_t{0}, item.kv_length);
      Tile tile;
      tile.q_row = static_cast<int32_t>(item.q_row + first);
      tile.q_count = static_cast<int32_t>(count);
      tile.kv_row = static_cast<int32_t>(item.kv_row);
      tile.kv_end = static_cast<int32_t>(seen);
      tile.diagonal = static_cast<int32_t>(std::min(first + offset, kNoMask));
      tiles.push_back(tile);
    }
  }
  // Longest first, so that the multiprocessors finish together; stable, so that neighbours in one
  // sequence stay neighbours in time and share its keys in the L2 cache.
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.kv_end > b.kv_end; });
  return tiles;
}

}  // namespace longhaul::attention::sm90
