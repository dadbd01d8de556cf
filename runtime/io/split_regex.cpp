#include "runtime/io/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "runtime/core/check.h"
#include "runtime/io/json_lines.h"
#include "runtime/io/split_pattern.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

template <auto free_function>
struct Freer {
  template <class T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
using CodePointer = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

constexpr uint32_t kLeastMatchLimit = 1'000'000;
constexpr uint32_t kHeapLimitKiB = 256 * 1024;
constexpr size_t kJitStackBytes = 16 << 20;

}  // namespace

struct SplitRegex::Code {
  CodePointer pcre2;
  bool jit = false;
};

SplitRegex::SplitRegex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  const std::string translated = translate_split_pattern(pattern);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  LH_CHECK(context != nullptr);
  // Not what the library happened to be built with.
  LH_CHECK(pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF) == 0);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->pcre2.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                   translated.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset,
                                   context.get()));
  if (!code_->pcre2) {
    fail(ExitCode::usage, "PCRE2 does not accept the pattern {}: {}", quoted_excerpt(pattern),
         pcre2_message(error));
  }
  // Where the system forbids or lacks it, the interpreter gives the same matches.
  code_->jit = pcre2_jit_compile(code_->pcre2.get(), PCRE2_JIT_COMPLETE) == 0;
}

SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;

struct SplitMatcher::State {
  explicit State(const SplitRegex::Code& compiled) : code(compiled) {}
  const SplitRegex::Code& code;
  MatchData data;
  MatchContext context;
  JitStack jit_stack;
  std::string_view text;
  size_t search_from = 0;
  bool done = true;
  bool matched_before = false;
  size_t last_end = 0;
};

SplitMatcher::SplitMatcher(const SplitRegex& regex)
    : state_(std::make_unique<State>(regex.code())) {
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  LH_CHECK(state_->data && state_->context);
  LH_CHECK(pcre2_set_heap_limit(state_->context.get(), kHeapLimitKiB) == 0);
  if (state_->code.jit) {
    state_->jit_stack.reset(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr));
    LH_CHECK(state_->jit_stack != nullptr);
    pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->jit_stack.get());
  }
}

SplitMatcher::~SplitMatcher() = default;
SplitMatcher::SplitMatcher(SplitMatcher&&) noexcept = default;

void SplitMatcher::start(std::string_view text) {
  State& s = *state_;
  s.text = text;
  s.search_from = 0;
  s.done = false;
  s.matched_before = false;
  // A run of spaces is given back one by one when no newline follows it, so the limit must allow a
  // few steps a byte.
  const uint64_t limit = kLeastMatchLimit + 8 * static_cast<uint64_t>(text.size());
  pcre2_set_match_limit(s.context.get(), static_cast<uint32_t>(std::min<uint64_t>(
                                             limit, std::numeric_limits<uint32_t>::max())));
}

bool SplitMatcher::next(Match& match) {
  State& s = *state_;
  while (!s.done) {
    int found =
        pcre2_match(s.code.pcre2.get(), reinterpret_cast<PCRE2_SPTR>(s.text.data()), s.text.size(),
                    s.search_from, PCRE2_NO_UTF_CHECK, s.data.get(), s.context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(s.code.pcre2.get(), reinterpret_cast<PCRE2_SPTR>(s.text.data()),
                          s.text.size(), s.search_from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          s.data.get(), s.context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) {
      s.done = true;
      break;
    }
    if (found < 0) {
      fail(ExitCode::usage,
           "the pre-tokenizer's pattern gives up at byte {} of a piece of text of {} bytes: {}",
           s.search_from, s.text.size(), pcre2_message(found));
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(s.data.get());
    match = {offsets[0], offsets[1]};
    LH_CHECK(match.begin <= match.end && match.begin >= s.search_from, "match {} to {}",
             match.begin, match.end);
    if (match.begin == match.end && s.matched_before && match.end == s.last_end) {
      // As the package's iterator does: no empty match right after a match; look one character on.
      if (s.search_from >= s.text.size()) {
        s.done = true;
        break;
      }
      s.search_from += static_cast<size_t>(code_point_at(s.text, s.search_from).length);
      continue;
    }
    s.search_from = match.end;
    s.last_end = match.end;
    s.matched_before = true;
    return true;
  }
  return false;
}

}  // namespace longhaul::io
