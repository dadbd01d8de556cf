#pragma once
// Who owns and computes which new tokens of a ragged batch: pure data, no MPI, no CUDA.
//
// A sequence has `prefix` cached tokens and `extend` new ones. Positions are absolute: the new
// tokens of a sequence are [prefix, prefix + extend). Every layout cuts a sequence's new tokens
// into at most 2*cp blocks, and gives each rank at most two of them: "prev" and "next", prev at the
// lower position. zigzag (Meta, arXiv 2411.01783, section 3.4; SGLang's in-seq split) is the case
// of 2*cp nearly equal blocks of which rank r owns r and 2*cp-1-r.
//
// Local token order of a rank: [prev blocks of all sequences | next blocks of all sequences].

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::layout {

struct SequenceExtent {
  int64_t prefix = 0;  // tokens already in the KV cache
  int64_t extend = 0;  // new tokens of this step; 0 is allowed (the sequence sits this step out)
  bool operator==(const SequenceExtent&) const = default;
};

// New tokens [start, start + length) of one sequence, absolute positions. May be empty.
struct Block {
  int64_t start = 0;
  int64_t length = 0;
  int64_t end() const { return start + length; }
  // Query x KV pairs under a causal mask: the token at position p sees p + 1 keys. Exact below
  // 2^53.
  double area() const {
    const double n = static_cast<double>(length);
    return n * static_cast<double>(start) + n * (n + 1) / 2;
  }
  bool operator==(const Block&) const = default;
};

// balanced    blocks of equal query x KV area over the whole batch (runtime/layout/balance.h).
// zigzag      2*cp blocks, the first `extend mod 2*cp` of them one token longer; rank r owns r and
//             2*cp-1-r.
// contiguous  cp blocks [floor(L r / cp), floor(L (r+1) / cp)), as SGLang's contiguous strategy
//             cuts; rank r owns block r as "prev", every "next" is empty.
// Empty blocks stand at the sequence's end.
enum class LayoutKind { balanced, zigzag, contiguous };
std::span<const std::string_view> layout_names();
std::string_view layout_name(LayoutKind kind);
LayoutKind parse_layout(std::string_view name);  // throws Error(usage), with the nearest name

enum class Half : int { prev = 0, next = 1 };

// The running load of each rank over the steps of a run, so that `balanced` can even out what
// earlier steps (chunks, generated tokens) left uneven. Same on all ranks.
struct RankLoad {
  std::vector<int64_t> tokens;  // [cp]: KV tokens stored
  std::vector<double> area;     // [cp]: query x KV pairs computed
};

class BatchLayout {
 public:
  // cp >= 1; every extend >= 0, prefix >= 0. `load` may be null.
  static BatchLayout make(LayoutKind kind, int cp, std::span<const SequenceExtent> sequences,
                          const RankLoad* load = nullptr);

  LayoutKind kind() const { return kind_; }
  int cp() const { return cp_; }
  int num_sequences() const { return static_cast<int>(sequences_.size()); }
  const std::vector<SequenceExtent>& sequences() const { return sequences_; }

  const Block& block(int cp_rank, Half half, int sequence) const {
    return blocks_[(static_cast<size_t>(cp_rank) * 2 + static_cast<size_t>(half)) *
                       sequences_.size() +
                   static_cast<size_t>(sequence)];
  }
  // First local row of that block on its rank.
  int64_t row(int cp_rank, Half half, int sequence) const {
    return rows_[(static_cast<size_t>(cp_rank) * 2 + static_cast<size_t>(half)) *
                     sequences_.size() +
                 static_cast<size_t>(sequence)];
  }
  int64_t num_tokens(int cp_rank) const {  // local rows of the rank
    return num_tokens_[static_cast<size_t>(cp_rank)];
  }
  int64_t total_tokens() const { return total_tokens_; }  // over all ranks
  // Query x KV pairs that the rank computes under a causal mask, prefix counted.
  double area(int cp_rank) const;

  // The i-th block of a sequence in natural token order, i in [0, 2*cp). Empty blocks have a place
  // too: in front of the block that starts where they stand; several of them in zigzag's order.
  struct Owner {
    int32_t cp_rank = 0;
    Half half = Half::prev;
  };
  Owner owner(int sequence, int i) const {
    return order_[static_cast<size_t>(sequence) * 2 * static_cast<size_t>(cp_) +
                  static_cast<size_t>(i)];
  }

  // The rank and local row of the new token at `position` of `sequence`.
  struct Place {
    int cp_rank = -1;
    int64_t row = -1;
  };
  Place place(int sequence, int64_t position) const;

 private:
  LayoutKind kind_ = LayoutKind::balanced;
  int cp_ = 1;
  std::vector<SequenceExtent> sequences_;
  std::vector<Block> blocks_;        // [cp, 2, num_sequences]
  std::vector<int64_t> rows_;        // [cp, 2, num_sequences] first local row of each block
  std::vector<Owner> order_;         // [num_sequences, 2*cp] blocks in natural token order
  std::vector<int64_t> num_tokens_;  // [cp]
  int64_t total_tokens_ = 0;

  void index();  // fills everything below blocks_
};

// max over mean; 1 when there is nothing to share.
struct Imbalance {
  double tokens = 1;
  double area = 1;
};
Imbalance imbalance(const BatchLayout& layout);

// An area imbalance that no placement of single tokens on ranks can go below: tokens are atomic, so
// the largest one, and the ranks that must hold more tokens than the others, set a floor. 1 when
// tokens are plenty.
double area_imbalance_lower_bound(int cp, std::span<const SequenceExtent> sequences);

}  // namespace longhaul::layout
