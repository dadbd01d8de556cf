#pragma once
// "Did you mean ...?": the nearest of the valid names to what a person typed.

#include <span>
#include <string_view>

namespace longhaul {

// The member of `known` at the smallest edit distance (insert, delete, replace, swap of neighbours;
// case does not count) from `given`; the first of equals. Empty when `known` is empty, or when even
// the nearest shares too little with `given` to be worth suggesting (more than half of the longer
// one's letters differ and neither begins with the other).
std::string_view nearest_name(std::string_view given, std::span<const std::string_view> known);

}  // namespace longhaul
