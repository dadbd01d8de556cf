#pragma once
// Byte-level byte-pair encoding: words of bytes to token ids.
//
// Merges are done in the order of their rank, leftmost first, from a queue: n log n in the length
// of a word, with the same order of events as the `tokenizers` package (Sennrich et al. 2016,
// section 3.2, for the method).

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longhaul::io {

class BpeModel {
 public:
  // byte_ids[b]: the token of the single byte b. Merges by rank: a pair of ids and what they
  // become.
  struct Merge {
    int32_t left, right, merged;
  };
  BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges);

  // Words (bytes) that are tokens as they stand, whatever the merges would give (ignore_merges).
  void set_whole_words(std::unordered_map<std::string, int32_t> words);

  // One thread's memory between words.
  class Scratch;
  // Appends the ids of `word`; at most 2^31 - 2 bytes.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Target {
    uint64_t pair = ~uint64_t{0};  // left << 32 | right
    uint32_t rank = 0;
    int32_t merged = 0;
  };
  const Target* find(int32_t left, int32_t right) const;
  void merge_word(std::string_view word, Scratch& scratch) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<Target> targets_;  // open addressing, a power of two, at most half full
  std::unordered_map<std::string, int32_t> whole_words_;
};

class BpeModel::Scratch {
 private:
  friend class BpeModel;
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // -1 at the ends
    bool gone;
  };
  struct Candidate {
    uint32_t rank, position;
    int32_t merged;
  };
  std::vector<Symbol> symbols_;
  std::vector<Candidate> queue_;
  // Words seen before, as ranges of known_ids_.
  struct Range {
    size_t begin, end;
  };
  std::unordered_map<std::string, Range> known_;
  std::vector<int32_t> known_ids_;
  std::string key_;
};

}  // namespace longhaul::io
