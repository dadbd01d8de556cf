#include "runtime/io/unicode_tables.h"

#include <utf8proc.h>

#include <algorithm>

namespace longhaul::io {
namespace {

#include "runtime/io/unicode_tables.inc"

constexpr CodeRange kWhiteSpace[] = {
    {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
};
constexpr CodeRange kAlphabeticSymbols[] = {
    {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

template <class Range>
const Range* find_range(std::span<const Range> ranges, char32_t code) {
  const auto at = std::upper_bound(ranges.begin(), ranges.end(), code,
                                   [](char32_t c, const Range& r) { return c < r.first; });
  if (at == ranges.begin()) return nullptr;
  const Range& range = *std::prev(at);
  return code <= range.last ? &range : nullptr;
}

}  // namespace

std::span<const CategoryRange> newer_categories() {
  return kNewerCategories;
}
std::span<const CodeRange> white_space() {
  return kWhiteSpace;
}
std::span<const CodeRange> alphabetic_symbols() {
  return kAlphabeticSymbols;
}

std::string general_category(char32_t code) {
  if (const auto* range = find_range<CategoryRange>(kNewerCategories, code)) return range->category;
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code));
}

bool is_inert_in_nfc(char32_t code) {
  return find_range<CategoryRange>(kNewerCategories, code) != nullptr ||
         find_range<CodeRange>(kMarksNewerThanNormalizer, code) != nullptr;
}

bool is_white_space(char32_t code) {
  return find_range<CodeRange>(kWhiteSpace, code) != nullptr;
}

bool is_word_character(char32_t code) {
  const std::string category = general_category(code);
  return category[0] == 'L' || category[0] == 'M' || category == "Nd" || category == "Nl" ||
         category == "Pc" || code == 0x200C || code == 0x200D ||
         find_range<CodeRange>(kAlphabeticSymbols, code) != nullptr;
}

}  // namespace longhaul::io
