#include "comm/rank_record.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace longhaul::comm {
namespace {

std::string text_of(const char* chars, size_t size) {
  return {chars, strnlen(chars, size)};
}

}  // namespace

std::string RankBody::place() const {
  const bool in_operation = state == RankState::waiting;
  const std::string what =
      in_operation ? text_of(wait.name, sizeof wait.name) : text_of(operation, sizeof operation);
  const int where = in_operation ? wait.layer : layer;
  std::string place = fmt::format("phase {}", text_of(phase, sizeof phase));
  if (!what.empty() && what != text_of(phase, sizeof phase)) place += ", " + what;
  if (where >= 0) place += fmt::format(", layer {}", where);
  return place;
}

// A sequence lock. Whoever reads a new word also sees that the version has become odd.
void RankRecord::write(const RankBody& body) {
  uint64_t words[kWords];
  std::memcpy(words, &body, sizeof body);
  const uint64_t version = version_.load(std::memory_order_relaxed);
  version_.store(version | 1, std::memory_order_relaxed);
  for (size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
  version_.store((version | 1) + 1, std::memory_order_release);
}

RankBody RankRecord::read() const {
  uint64_t words[kWords];
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const uint64_t before = version_.load(std::memory_order_acquire);
    for (size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
    if ((before & 1) == 0 && version_.load(std::memory_order_relaxed) == before) break;
  }
  RankBody body;
  std::memcpy(static_cast<void*>(&body), words, sizeof body);
  return body;
}

}  // namespace longhaul::comm
