#include "runtime/io/bpe_model.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "runtime/core/check.h"

namespace longhaul::io {
namespace {

// Longer words hardly repeat; more words than this hardly pay for their memory.
constexpr size_t kLongestKnownWord = 64;
constexpr size_t kMostKnownWords = size_t{1} << 18;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Multiplicative mixing (SplitMix64's finalizer), so that pairs of small ids spread.
size_t slot_of(uint64_t key, size_t mask) {
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  return static_cast<size_t>(key ^ (key >> 31)) & mask;
}

// For heap functions, which put the greatest first: lowest rank, then leftmost.
constexpr auto later = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

}  // namespace

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(byte_ids), targets_(std::bit_ceil(std::max<size_t>(2 * merges.size(), 2))) {
  const size_t mask = targets_.size() - 1;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const uint64_t key = pair_key(merge.left, merge.right);
    size_t slot = slot_of(key, mask);
    while (targets_[slot].pair != key && targets_[slot].pair != ~uint64_t{0}) {
      slot = (slot + 1) & mask;
    }
    // Of a pair given twice the last counts.
    targets_[slot] = {key, static_cast<uint32_t>(rank), merge.merged};
  }
}

void BpeModel::set_whole_words(std::unordered_map<std::string, int32_t> words) {
  whole_words_ = std::move(words);
}

const BpeModel::Target* BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = targets_.size() - 1;
  for (size_t slot = slot_of(key, mask);; slot = (slot + 1) & mask) {
    const Target& target = targets_[slot];
    if (target.pair == key) return &target;
    if (target.pair == ~uint64_t{0}) return nullptr;
  }
}

void BpeModel::merge_word(std::string_view word, Scratch& scratch) const {
  LH_CHECK(word.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()), "{} bytes",
           word.size());
  auto& symbols = scratch.symbols_;
  auto& queue = scratch.queue_;
  symbols.clear();
  queue.clear();
  const auto size = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<size_t>(i)]);
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < size ? i + 1 : -1, false});
  }
  const auto symbol = [&](int32_t at) -> Scratch::Symbol& {
    return symbols[static_cast<size_t>(at)];
  };
  const auto candidate = [&](int32_t at, int32_t next) {
    const Target* target = find(symbol(at).id, symbol(next).id);
    if (target == nullptr) return;
    queue.push_back({target->rank, static_cast<uint32_t>(at), target->merged});
  };
  for (int32_t i = 0; i + 1 < size; ++i) candidate(i, i + 1);
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push = [&](int32_t at, int32_t next) {
    const size_t before = queue.size();
    candidate(at, next);
    if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), later);
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const Scratch::Candidate top = queue.back();
    queue.pop_back();
    const auto at = static_cast<int32_t>(top.position);
    Scratch::Symbol& left = symbol(at);
    if (left.gone || left.next < 0) continue;
    // Out of date, unless what stands there now becomes the same token: the package looks at no
    // more than that, so neither does this.
    const Target* target = find(left.id, symbol(left.next).id);
    if (target == nullptr || target->merged != top.merged) continue;
    Scratch::Symbol& right = symbol(left.next);
    right.gone = true;
    left.id = top.merged;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = at;
    if (left.previous >= 0) push(left.previous, at);
    if (left.next >= 0) push(at, left.next);
  }
}

void BpeModel::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  const bool may_be_known = word.size() <= kLongestKnownWord;
  if (may_be_known) {
    scratch.key_.assign(word);
    if (const auto known = scratch.known_.find(scratch.key_); known != scratch.known_.end()) {
      const auto begin = scratch.known_ids_.begin();
      ids.insert(ids.end(), begin + static_cast<ptrdiff_t>(known->second.begin),
                 begin + static_cast<ptrdiff_t>(known->second.end));
      return;
    }
  }
  const size_t first = ids.size();
  const auto whole =
      whole_words_.empty() ? whole_words_.end() : whole_words_.find(std::string(word));
  if (whole != whole_words_.end()) {
    ids.push_back(whole->second);
  } else {
    merge_word(word, scratch);
    for (const Scratch::Symbol& symbol : scratch.symbols_) {
      if (!symbol.gone) ids.push_back(symbol.id);
    }
  }
  if (may_be_known && scratch.known_.size() < kMostKnownWords) {
    const size_t begin = scratch.known_ids_.size();
    scratch.known_ids_.insert(scratch.known_ids_.end(), ids.begin() + static_cast<ptrdiff_t>(first),
                              ids.end());
    scratch.known_.emplace(scratch.key_, Scratch::Range{begin, scratch.known_ids_.size()});
  }
}

}  // namespace longhaul::io
