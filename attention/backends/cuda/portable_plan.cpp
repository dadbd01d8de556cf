#include <algorithm>
#include <cstring>
#include <functional>
#include <queue>

#include "attention/backends/cuda/portable.h"
#include "attention/backends/cuda/portable_config.h"
#include "runtime/core/check.h"

namespace longhaul::attention::cuda::portable {
namespace {

constexpr int64_t kMaxCoordinate = int64_t{1} << 30;  // rows, lengths, and sums of two in 31 bits
constexpr int64_t kMinPart = 512;  // keys: shorter parts cost more than they gain

// Shared memory that one thread block can have (CUDA programming guide, compute capabilities).
int shared_limit(const longhaul::cuda::Device& device) {
  const bool small =
      (device.major == 8 && (device.minor == 6 || device.minor == 9)) || device.major >= 12;
  return (small ? 99 : device.major == 8 ? 163 : 227) * 1024;
}

void check_item(const Item& item, const PlanOptions& options) {
  const auto fits = [](int64_t first, int64_t count) {
    return first >= 0 && count >= 0 && first <= kMaxCoordinate && count <= kMaxCoordinate - first;
  };
  LH_CHECK(fits(item.q_row, item.q_length), "q rows {} + {}", item.q_row, item.q_length);
  LH_CHECK(fits(item.kv_row, item.kv_length), "kv rows {} + {}", item.kv_row, item.kv_length);
  if (item.page_begin < 0) return;
  LH_CHECK(options.page_size >= 16 && (options.page_size & (options.page_size - 1)) == 0,
           "page size {} is no power of two of 16 or more", options.page_size);
  LH_CHECK(fits(item.page_begin, item.kv_length / options.page_size + 1), "page entries {} + {}",
           item.page_begin, item.kv_length / options.page_size + 1);
}

// Pairs of a query and a key it sees: the sum of clamp(i + offset + 1, 0, keys) over the queries.
double visible_pairs(int64_t queries, int64_t keys, int64_t offset) {
  const int64_t none = std::clamp(-offset, int64_t{0}, queries);     // queries that see none
  const int64_t all = std::clamp(keys - 1 - offset, none, queries);  // the first that sees all
  const double first = static_cast<double>(none + offset + 1);
  const double count = static_cast<double>(all - none);
  return count * first + count * (count - 1) / 2 +
         static_cast<double>(queries - all) * static_cast<double>(keys);
}

int64_t parts_of(const Tile& tile, int64_t length) {
  return std::clamp<int64_t>((tile.kv_end + length - 1) / length, 1, kMaxParts);
}

// About how long `workers` thread blocks take for all parts of these tiles (longest first) and all
// heads, in keys; `give_up` where there are more than `most` parts.
int64_t duration(const std::vector<Tile>& tiles, int64_t num_heads, int64_t workers, int64_t length,
                 int64_t most, int64_t give_up) {
  constexpr int64_t kStart = 96, kMerge = 64;  // what a part costs beside its keys
  int64_t count = 0;
  for (const Tile& tile : tiles) count += parts_of(tile, length) * num_heads;
  if (count > most) return give_up;
  std::vector<int64_t> jobs;
  jobs.reserve(static_cast<size_t>(count));
  for (const Tile& tile : tiles) {
    const int64_t parts = parts_of(tile, length);
    jobs.insert(jobs.end(), static_cast<size_t>(parts * num_heads),
                (tile.kv_end + parts - 1) / parts + kStart + (parts > 1 ? kMerge : 0));
  }
  std::sort(jobs.begin(), jobs.end(), std::greater<>());
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> ends;
  for (int64_t i = 0; i < workers; ++i) ends.push(0);
  int64_t last = 0;
  for (const int64_t job : jobs) {
    const int64_t end = ends.top() + job;
    ends.pop();
    ends.push(end);
    last = std::max(last, end);
  }
  return last;
}

// Keys of a part where tiles are too few or too uneven to keep the device busy, else those of the
// longest tile.
int64_t part_length(const std::vector<Tile>& tiles, int64_t num_heads, int64_t workers,
                    int64_t block_n) {
  int64_t total = 0, longest = 1;
  for (const Tile& tile : tiles) {
    total += tile.kv_end;
    longest = std::max<int64_t>(longest, tile.kv_end);
  }
  const auto whole_blocks = [&](int64_t length) {
    return (std::max(length, kMinPart) + block_n - 1) / block_n * block_n;
  };
  const int64_t jobs = static_cast<int64_t>(tiles.size()) * num_heads;
  if (jobs > 4 * workers) {
    // Longest first evens out the ends, unless single tiles are longer than everybody's share.
    const int64_t share = total * num_heads / workers;
    return longest <= share ? longest : whole_blocks(std::max(share / 2, longest / kMaxParts));
  }
  const int64_t whole = duration(tiles, num_heads, workers, longest, jobs, 0);
  int64_t best = longest, best_time = whole - whole / 20;
  for (int64_t parts = 2; parts <= kMaxParts; ++parts) {
    const int64_t length = whole_blocks(longest / parts);
    if (length >= longest) break;
    const int64_t time = duration(tiles, num_heads, workers, length, 8 * workers, whole);
    if (time < best_time) {
      best = length;
      best_time = time;
    }
    if (length == whole_blocks(0)) break;
  }
  return best;
}

}  // namespace

bool supported(const longhaul::cuda::Device& device, const Shape& shape, std::string* why_not) {
  const auto no = [&](std::string reason) {
    if (why_not != nullptr) *why_not = std::move(reason);
    return false;
  };
  const int d = shape.head_dim, dv = shape.head_dim_v;
  if (device.major < 8) {
    return no(fmt::format("compute capability {}.{}: 8.0 or later is needed", device.major,
                          device.minor));
  }
  if (shape.dtype != DType::bf16 && shape.dtype != DType::f32) {
    return no(fmt::format("dtype {}: bf16 and f32 have kernels", dtype_name(shape.dtype)));
  }
  if (d <= 0 || dv <= 0 || d > 256 || dv > 256 || d % 8 != 0 || dv % 8 != 0) {
    return no(fmt::format("head dims {}/{}: multiples of 8 up to 256 have kernels", d, dv));
  }
  if (shape.num_heads <= 0 || shape.num_kv_heads <= 0 ||
      shape.num_heads % shape.num_kv_heads != 0) {
    return no(fmt::format("{} heads do not divide among {} kv heads", shape.num_heads,
                          shape.num_kv_heads));
  }
  const int bytes = with_config(shape, [&](auto c) {
    return c.fixed_bytes(d) + c.slots(device.major >= 9) * decltype(c)::kSlotBytes;
  });
  if (bytes > shared_limit(device)) {
    return no(fmt::format("head dims {}/{} in {} take {} KiB of shared memory, the device has {}",
                          d, dv, dtype_name(shape.dtype), bytes / 1024,
                          shared_limit(device) / 1024));
  }
  return true;
}

Plan make_plan(const Shape& shape, std::span<const Item> items, const PlanOptions& options) {
  Plan plan;
  plan.kernel = Kernel::portable;
  plan.shape = shape;
  plan.options = options;
  int64_t block_m = 0, block_n = 0, workers = 1;
  with_config(shape, [&](auto c) {
    block_m = c.kBlockM;
    block_n = c.kBlockN;
    workers = std::max<int64_t>(1, int64_t{c.kBlocks} * options.multiprocessors);
  });
  std::vector<Tile> tiles;
  for (const Item& item : items) {
    check_item(item, options);
    const int64_t offset = std::clamp(item.causal_offset, -kMaxCoordinate, kNoMask);
    plan.max_kv_length = std::max(plan.max_kv_length, item.kv_length);
    plan.flops += 2.0 * (shape.head_dim + shape.head_dim_v) * shape.num_heads *
                  visible_pairs(item.q_length, item.kv_length, offset);
    for (int64_t first = 0; first < item.q_length; first += block_m) {
      const int64_t count = std::min(block_m, item.q_length - first);
      Tile tile{};
      tile.q_row = static_cast<int32_t>(item.q_row + first);
      tile.q_count = static_cast<int32_t>(count);
      tile.kv_row = static_cast<int32_t>(item.kv_row);
      tile.page_begin = item.page_begin < 0 ? -1 : static_cast<int32_t>(item.page_begin);
      // The last query of the tile sees the most keys.
      tile.kv_end =
          static_cast<int32_t>(std::clamp(first + count + offset, int64_t{0}, item.kv_length));
      tile.diagonal = static_cast<int32_t>(std::min(first + offset, kNoMask));
      tile.parts = 1;
      tiles.push_back(tile);
    }
  }
  // In deterministic form a query's sums never depend on what else there is to do.
  int64_t splits = 0, partials = 0;
  if (!options.deterministic) {
    const int64_t length = part_length(tiles, shape.num_heads, workers, block_n);
    std::vector<Tile> parts;
    parts.reserve(tiles.size());
    for (Tile tile : tiles) {
      const int64_t blocks = (tile.kv_end + block_n - 1) / block_n;
      const int64_t count = parts_of(tile, length);
      if (count == 1) {
        parts.push_back(tile);
        continue;
      }
      const int64_t end = tile.kv_end;
      tile.parts = static_cast<int32_t>(count);
      tile.split = static_cast<int32_t>(splits++);
      tile.first_partial = static_cast<int32_t>(partials);
      partials += count;
      for (int64_t part = 0; part < count; ++part) {  // whole blocks, equal but for one
        tile.part = static_cast<int32_t>(part);
        tile.kv_begin = static_cast<int32_t>(blocks * part / count * block_n);
        tile.kv_end = static_cast<int32_t>(std::min(end, blocks * (part + 1) / count * block_n));
        parts.push_back(tile);
      }
      plan.num_splits = std::max(plan.num_splits, static_cast<int>(count));
    }
    tiles = std::move(parts);
  }
  // Longest first, so that the multiprocessors finish together; stable, so that neighbours in one
  // sequence stay neighbours in time and share its keys in the L2 cache.
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) {
    return a.kv_end - a.kv_begin > b.kv_end - b.kv_begin;
  });
  plan.num_tiles = static_cast<int64_t>(tiles.size());
  plan.table.resize(tiles.size() * sizeof(Tile));
  if (!tiles.empty()) std::memcpy(plan.table.data(), tiles.data(), plan.table.size());
  plan.num_merges = splits;
  plan.num_partials = partials;
  if (splits > 0) {
    plan.workspace_bytes =
        splits * shape.num_heads * int64_t{sizeof(uint32_t)} +
        partials * shape.num_heads * block_m * (shape.head_dim_v + 1) * int64_t{sizeof(float)};
  }
  return plan;
}

}  // namespace longhaul::attention::cuda::portable
