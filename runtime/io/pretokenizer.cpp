#include "runtime/io/pretokenizer.h"

#include <string>
#include <utility>

#include "runtime/core/check.h"

namespace longhaul::io {

void Pretokenizer::add_split(SplitRegex regex, Behavior behavior, bool invert) {
  Step step{{}, behavior, invert};
  step.regex.push_back(std::move(regex));
  steps_.push_back(std::move(step));
}

void Pretokenizer::add_prefix_space() {
  steps_.emplace_back();
}

Pretokenizer::Run::Run(const Pretokenizer& steps) : steps_(steps) {
  for (const Step& step : steps.steps_) {
    if (!step.regex.empty()) matchers_.emplace_back(step.regex.front());
  }
}

void Pretokenizer::Run::words(std::string_view text,
                              const std::function<void(std::string_view)>& word) {
  apply(0, text, word);
}

void Pretokenizer::Run::apply(size_t index, std::string_view piece,
                              const std::function<void(std::string_view)>& word) {
  if (piece.empty()) return;
  if (index == steps_.steps_.size()) return word(piece);
  const Step& step = steps_.steps_[index];
  if (step.regex.empty()) {
    if (piece.front() == ' ') return apply(index + 1, piece, word);
    std::string spaced(1, ' ');
    spaced += piece;
    return apply(index + 1, spaced, word);
  }
  size_t matcher_index = 0;
  for (size_t i = 0; i < index; ++i) matcher_index += steps_.steps_[i].regex.size();
  SplitMatcher& matcher = matchers_[matcher_index];
  matcher.start(piece);
  const auto part = [&](size_t begin, size_t end, bool matched) {
    const bool dropped = step.behavior == Behavior::removed && matched != step.invert;
    if (!dropped) apply(index + 1, piece.substr(begin, end - begin), word);
  };
  size_t done = 0;
  for (SplitMatcher::Match match{}; matcher.next(match);) {
    part(done, match.begin, false);
    part(match.begin, match.end, true);
    done = match.end;
  }
  part(done, piece.size(), false);
}

}  // namespace longhaul::io
