#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "attention/backends/cuda/attention_sm90.h"
#include "attention/backends/cuda/attention_sm90_balance.h"
#include "runtime/core/check.h"

namespace longhaul::attention::cuda::sm90 {
namespace {

constexpr int64_t kMaxCoordinate = int64_t{1} << 30;  // TMA coordinates, mask sums stay below 2^31

void check_item(const Item& item, const PlanOptions& options) {
  LH_CHECK(item.q_row >= 0 && item.q_length >= 0 && item.q_row + item.q_length <= kMaxCoordinate,
           "q rows {} + {}", item.q_row, item.q_length);
  const int64_t first = item.page_begin >= 0 ? item.page_begin : item.kv_row;
  LH_CHECK(first >= 0 && item.kv_length >= 0 && first + item.kv_length <= kMaxCoordinate,
           "kv rows {} + {}", first, item.kv_length);
  LH_CHECK(item.page_begin < 0 || options.page_size > 0, "an item with pages, but no page size");
}

// Tiles of `tokens` queries each, in the order of the items.
std::vector<Tile> cut_queries(std::span<const Item> items, int64_t tokens) {
  std::vector<Tile> tiles;
  for (const Item& item : items) {
    const int64_t offset = std::clamp(item.causal_offset, -kMaxCoordinate, kNoMask);
    for (int64_t first = 0; first < item.q_length; first += tokens) {
      const int64_t count = std::min(tokens, item.q_length - first);
      // The last query of the tile sees the most keys.
      const int64_t seen = std::clamp(first + count + offset, int64_t{0}, item.kv_length);
      Tile tile;
      tile.q_row = static_cast<int32_t>(item.q_row + first);
      tile.q_count = static_cast<int32_t>(count);
      tile.kv_row = static_cast<int32_t>(item.page_begin >= 0 ? 0 : item.kv_row);
      tile.kv_end = static_cast<int32_t>(seen);
      tile.diagonal = static_cast<int32_t>(std::min(first + offset, kNoMask));
      tile.page_begin = static_cast<int32_t>(std::max(item.page_begin, int64_t{-1}));
      tiles.push_back(tile);
    }
  }
  return tiles;
}

// Key blocks of all tiles and heads, with what a tile costs beside its keys.
double total_cost(const std::vector<Tile>& tiles, int units, int block) {
  double cost = 0;
  for (const Tile& tile : tiles) cost += (tile.kv_end + block - 1) / block + kTileOverhead;
  return cost * units;
}

// Replaces tiles of more than `most` key blocks by parts of equal length. Where there are more than
// `most_joined`, the second kernel joins them.
std::vector<Merge> cut_keys(std::vector<Tile>& tiles, int most, int block, int most_joined) {
  std::vector<Tile> parts;
  std::vector<Merge> merges;
  int32_t partials = 0;
  for (const Tile& tile : tiles) {
    const int blocks = (tile.kv_end + block - 1) / block;
    const int count = number_of_parts(blocks, most);
    if (count > most_joined) {
      merges.push_back({tile.q_row, tile.q_count, partials, count});
    }
    for (int i = 0; i < count; ++i) {
      const int first = static_cast<int>(int64_t{blocks} * i / count) * block;
      const int end = static_cast<int>(int64_t{blocks} * (i + 1) / count) * block;
      Tile part = tile;
      part.kv_row += first;
      part.kv_end = std::min(end, tile.kv_end) - first;
      part.diagonal -= first;
      if (count > 1) part.partial = partials++;
      if (count > 1 && count <= most_joined) part.join = i << 8 | count;
      parts.push_back(part);
    }
  }
  tiles = std::move(parts);
  return merges;
}

double unmasked_area(std::span<const Item> items) {
  double area = 0;
  for (const Item& item : items) {
    // Query i sees clamp(i + causal_offset + 1, 0, kv_length) keys.
    const int64_t none = std::clamp(-item.causal_offset - 1, int64_t{0}, item.q_length);
    const int64_t all = std::clamp(item.kv_length - item.causal_offset - 1, none, item.q_length);
    const auto rising = static_cast<double>(all - none);
    area += rising * (static_cast<double>(none + item.causal_offset + 1) + (rising - 1) / 2) +
            static_cast<double>(item.q_length - all) * static_cast<double>(item.kv_length);
  }
  return area;
}

}  // namespace

bool shape_supported(const Shape& shape, std::string* why_not) {
  const auto no = [&](std::string reason) {
    if (why_not != nullptr) *why_not = std::move(reason);
    return false;
  };
  const int d = shape.head_dim, dv = shape.head_dim_v;
  if (shape.dtype != DType::bf16) {
    return no(fmt::format("the sm_90a kernel computes in bf16, not {}", dtype_name(shape.dtype)));
  }
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

int rows_per_tile(const Shape& shape) {
  return shape.head_dim == 64 ? 192 : 128;
}

int keys_per_block(const Shape& shape) {
  return shape.head_dim == 256 ? 80 : 128;
}

PartialLayout partial_layout(const Plan& plan) {
  const int64_t rows =
      plan.num_partials * (plan.shape.num_heads / plan.heads_per_tile) * rows_per_tile(plan.shape);
  PartialLayout at;
  at.out = static_cast<int64_t>(kWorkspaceHeader);
  at.state = at.out + rows * plan.shape.head_dim_v * 4;
  at.bytes = at.state + rows * 8;
  return at;
}

Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options) {
  std::string why_not;
  LH_CHECK(shape_supported(shape, &why_not), "{}", why_not);
  LH_CHECK(options.multiprocessors > 0, "{} multiprocessors", options.multiprocessors);
  LH_CHECK(options.page_size == 0 ||
               (options.page_size >= 16 && (options.page_size & (options.page_size - 1)) == 0),
           "page size {}: a power of two of 16 or more", options.page_size);
  Plan plan;
  plan.kernel = Kernel::sm90;
  plan.shape = shape;
  plan.options = options;
  bool pages = false;
  for (const Item& item : items) {
    check_item(item, options);
    pages |= item.page_begin >= 0 && item.q_length > 0;
    if (item.q_length > 0) plan.max_kv_length = std::max(plan.max_kv_length, item.kv_length);
  }
  if (!pages) plan.options.page_size = 0;
  plan.flops = 2.0 * (shape.head_dim + shape.head_dim_v) * shape.num_heads * unmasked_area(items);

  const int rows = rows_per_tile(shape), block = keys_per_block(shape);
  const int group = shape.num_heads / shape.num_kv_heads;
  int units = shape.num_heads;  // that visit each tile
  std::vector<Tile> tiles = cut_queries(items, rows);
  if (group > 1 && group <= rows) {
    // Few queries: the heads of a group fill the rows that would stay empty.
    std::vector<Tile> shared = cut_queries(items, rows / group);
    if (total_cost(shared, shape.num_kv_heads, block) < 0.9 * total_cost(tiles, units, block)) {
      tiles = std::move(shared);
      units = shape.num_kv_heads;
      plan.heads_per_tile = group;
    }
  }

  std::vector<Merge> merges;
  if (!options.deterministic) {
    std::vector<int> blocks;
    for (const Tile& tile : tiles) blocks.push_back((tile.kv_end + block - 1) / block);
    const int most_joined = joins_parts(shape.head_dim) ? kMostJoinedParts : 1;
    const int most = longest_part(std::move(blocks), units, options.multiprocessors, most_joined);
    merges = cut_keys(tiles, most, block, most_joined);
  }
  for (const Merge& merge : merges) plan.num_splits = std::max(plan.num_splits, merge.count);
  for (const Tile& tile : tiles) {
    plan.num_splits = std::max(plan.num_splits, tile.join & 0xff);
    plan.num_partials += tile.partial >= 0;
  }
  LH_CHECK(plan.num_partials * units <= kMostPartialTiles, "{} partials x {}", plan.num_partials,
           units);
  // Longest first, so that the multiprocessors finish together; stable, so that neighbours in one
  // sequence stay neighbours in time and share its keys in the L2 cache.
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.kv_end > b.kv_end; });

  plan.num_tiles = static_cast<int64_t>(tiles.size());
  plan.num_merges = static_cast<int64_t>(merges.size());
  LH_CHECK(plan.num_tiles * units < std::numeric_limits<int32_t>::max(), "{} tiles x {} heads",
           plan.num_tiles, units);
  plan.table.resize(tiles.size() * sizeof(Tile) + merges.size() * sizeof(Merge));
  if (!tiles.empty()) std::memcpy(plan.table.data(), tiles.data(), tiles.size() * sizeof(Tile));
  if (!merges.empty()) {
    std::memcpy(plan.table.data() + tiles.size() * sizeof(Tile), merges.data(),
                merges.size() * sizeof(Merge));
  }
  plan.workspace_bytes = partial_layout(plan).bytes;
  return plan;
}

}  // namespace longhaul::attention::cuda::sm90
