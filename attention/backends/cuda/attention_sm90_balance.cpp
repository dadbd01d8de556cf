#include "attention/backends/cuda/attention_sm90_balance.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>

#include "attention/backends/cuda/attention_sm90_tile.h"

namespace longhaul::attention::cuda::sm90 {
namespace {

// What comes after the last piece, in key blocks: joining few parts on the spot, or many of them in
// a second kernel.
constexpr double kJoinCost = 3;
constexpr double kMergeCost = 5;
constexpr double kLeastGain = 0.95;    // of the time: less is not worth the memory traffic
constexpr int kPartsPerProcessor = 4;  // bounds the workspace

// When the last multiprocessor is done, if each takes the next piece as it becomes free.
double finish_time(const std::vector<int>& blocks, int longest, int units, int multiprocessors,
                   int most_joined) {
  std::vector<double> pieces;
  int most_parts = 1;
  for (const int b : blocks) {
    const int parts = number_of_parts(b, longest);
    most_parts = std::max(most_parts, parts);
    for (int i = 0; i < parts; ++i) {
      const int size = static_cast<int>(int64_t{b} * (i + 1) / parts - int64_t{b} * i / parts);
      pieces.push_back(size + kTileOverhead + (parts > 1 ? kPartOverhead : 0));
    }
  }
  std::sort(pieces.begin(), pieces.end(), std::greater<>());
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at;
  for (int i = 0; i < multiprocessors; ++i) free_at.push(0);
  double last = 0;
  for (const double piece : pieces) {
    for (int u = 0; u < units; ++u) {
      const double end = free_at.top() + piece;
      free_at.pop();
      free_at.push(end);
      last = std::max(last, end);
    }
  }
  if (most_parts == 1) return last;
  return last + (most_parts <= most_joined ? kJoinCost : kMergeCost);
}

}  // namespace

int longest_part(std::vector<int> blocks, int units, int multiprocessors, int most_joined) {
  std::sort(blocks.begin(), blocks.end(), std::greater<>());
  const int longest = blocks.empty() ? 1 : std::max(1, blocks.front());
  double total = 0;
  for (const int b : blocks) total += b + kTileOverhead;
  // The last tiles to start are short: where even the longest is small beside everybody's share,
  // all finish together anyway.
  if (longest + kTileOverhead < 0.3 * total * units / multiprocessors) return longest;

  const double whole = finish_time(blocks, longest, units, multiprocessors, most_joined);
  double best = kLeastGain * whole;
  int choice = longest;
  for (int most = longest - 1; most >= 1; most = std::min(most - 1, static_cast<int>(most * 0.9))) {
    int64_t parts = 0;
    for (const int b : blocks) {
      if (b <= most) break;
      parts += number_of_parts(b, most);
    }
    if (parts * units > std::min(kMostPartialTiles, kPartsPerProcessor * multiprocessors)) break;
    const double time = finish_time(blocks, most, units, multiprocessors, most_joined);
    if (time < best) {
      best = time;
      choice = most;
    }
  }
  return choice;
}

}  // namespace longhaul::attention::cuda::sm90
