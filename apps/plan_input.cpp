#include "apps/plan_input.h"

#include <charconv>
#include <limits>

#include "runtime/core/check.h"
#include "runtime/core/dtype.h"

namespace longhaul::apps {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 60;

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

int64_t unit(char suffix) {
  switch (suffix) {
    case 'k':
    case 'K':
      return int64_t{1} << 10;
    case 'm':
    case 'M':
      return int64_t{1} << 20;
    case 'g':
    case 'G':
      return int64_t{1} << 30;
    default:
      return 0;
  }
}

int64_t bytes_of(std::string_view dtype) {
  return dtype_size(parse_dtype(dtype));
}

}  // namespace

int64_t parse_count(std::string_view option, std::string_view text, int64_t least) {
  const std::string_view whole = trim(text);
  if (whole.empty()) fail(ExitCode::usage, "{}: a number is missing", option);
  std::string_view digits = whole;
  int64_t times = unit(digits.back());
  if (times > 0)
    digits.remove_suffix(1);
  else
    times = 1;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::invalid_argument || end != digits.data() + digits.size())
    fail(ExitCode::usage, "{}: '{}' is not a number (write 300, 16K or 1M)", option, whole);
  if (error == std::errc::result_out_of_range || value > kMaxTokens / times ||
      value < std::numeric_limits<int64_t>::min() / times)
    fail(ExitCode::usage, "{}: {} is beyond 2^60", option, whole);
  if (value * times < least)
    fail(ExitCode::usage, "{}: {} is too small, the least is {}", option, whole, least);
  return value * times;
}

std::vector<int64_t> parse_counts(std::string_view option, std::string_view text, int64_t least) {
  std::vector<int64_t> counts;
  while (true) {
    const size_t comma = text.find(',');
    std::string_view item = trim(text.substr(0, comma));
    int64_t repeat = 1;
    if (const size_t star = item.find_first_of("*x"); star != std::string_view::npos) {
      repeat = parse_count(option, item.substr(0, star), 1);
      item.remove_prefix(star + 1);
    }
    const int64_t count = parse_count(option, item, least);
    if (repeat > kMaxPlanBlocks / 2 - static_cast<int64_t>(counts.size()))
      fail(ExitCode::usage, "{}: more than {} sequences", option, kMaxPlanBlocks / 2);
    counts.insert(counts.end(), static_cast<size_t>(repeat), count);
    if (comma == std::string_view::npos) return counts;
    text.remove_prefix(comma + 1);
  }
}

int parse_ranks(std::string_view text) {
  const int64_t ranks = parse_count("--cp", text, 1);
  if (ranks > kMaxPlanRanks)
    fail(ExitCode::usage, "--cp: {} ranks are more than {}", ranks, kMaxPlanRanks);
  return static_cast<int>(ranks);
}

std::vector<layout::SequenceExtent> make_extents(int cp, const std::vector<int64_t>& lengths,
                                                 const std::vector<int64_t>& prefixes) {
  if (!prefixes.empty() && prefixes.size() != lengths.size())
    fail(ExitCode::usage, "--prefix has {} numbers, --lengths has {}: give one for each sequence",
         prefixes.size(), lengths.size());
  if (static_cast<int64_t>(lengths.size()) > kMaxPlanBlocks / 2 / cp)
    fail(ExitCode::usage, "{} sequences on {} ranks are more than {} blocks: plan fewer at a time",
         lengths.size(), cp, kMaxPlanBlocks);
  std::vector<layout::SequenceExtent> sequences(lengths.size());
  int64_t total = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    sequences[i] = {prefixes.empty() ? 0 : prefixes[i], lengths[i]};
    const int64_t all = sequences[i].prefix + sequences[i].extend;  // each at most 2^60
    if (all > kMaxTokens - total)
      fail(ExitCode::usage, "--lengths and --prefix: together more than 2^60 tokens");
    total += all;
  }
  return sequences;
}

HeadShape parse_heads(std::string_view heads, std::string_view head_dim, std::string_view dtype) {
  HeadShape shape;
  const size_t slash = heads.find('/');
  shape.num_heads = parse_count("--heads", heads.substr(0, slash), 1);
  shape.num_kv_heads = slash == std::string_view::npos
                           ? shape.num_heads
                           : parse_count("--heads", heads.substr(slash + 1), 1);
  shape.head_dim = parse_count("--head-dim", head_dim, 1);
  shape.element_bytes = bytes_of(dtype);
  constexpr int64_t most = int64_t{1} << 20;
  if (shape.num_heads > most || shape.num_kv_heads > most || shape.head_dim > most)
    fail(ExitCode::usage, "--heads {} --head-dim {}: beyond 2^20", heads, head_dim);
  if (shape.num_heads % shape.num_kv_heads != 0)
    fail(ExitCode::usage, "--heads {}: {} query heads cannot share {} KV heads evenly", heads,
         shape.num_heads, shape.num_kv_heads);
  return shape;
}

}  // namespace longhaul::apps
