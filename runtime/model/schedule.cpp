#include "runtime/model/schedule.h"

#include <algorithm>
#include <limits>

namespace longhaul::model {

std::vector<std::vector<layout::SequenceExtent>> prefill_schedule(
    std::span<const int64_t> prompt_lengths, int64_t chunk) {
  std::vector<std::vector<layout::SequenceExtent>> steps;
  std::vector<int64_t> done(prompt_lengths.size(), 0);
  size_t first = 0;  // sequences before it are complete
  while (first < prompt_lengths.size()) {
    int64_t room = chunk > 0 ? chunk : std::numeric_limits<int64_t>::max();
    std::vector<layout::SequenceExtent> step(prompt_lengths.size());
    for (size_t s = 0; s < prompt_lengths.size(); ++s) {
      const int64_t take = std::min(room, prompt_lengths[s] - done[s]);
      step[s] = {done[s], take};
      done[s] += take;
      room -= take;
    }
    while (first < prompt_lengths.size() && done[first] == prompt_lengths[first]) ++first;
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace longhaul::model
