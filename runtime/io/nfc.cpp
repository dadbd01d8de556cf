#include "runtime/io/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/io/unicode_tables.h"
#include "runtime/io/utf8.h"

namespace longhaul::io {
namespace {

// Below U+0300 nothing combines with what stands before it.
constexpr char32_t kFirstMark = 0x300;

// utf8proc 2.8 swallows U+11A7 after a Hangul syllable, as if it were a final consonant (those
// begin at U+11A8). It composes with nothing.
constexpr char32_t kBeforeFirstFinal = 0x11A7;

int combining_class(utf8proc_int32_t code) {
  return utf8proc_get_property(code)->combining_class;
}

// Composes one stretch that neither neighbour reaches into.
void compose(std::string_view text, std::string& out, std::vector<utf8proc_int32_t>& codes) {
  codes.clear();
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    utf8proc_int32_t parts[32];
    int last_class = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(point.value), parts, 32,
        static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &last_class);
    LH_CHECK(count > 0 && count <= 32, "decomposing U+{:04X} gives {}",
             static_cast<uint32_t>(point.value), count);
    codes.insert(codes.end(), parts, parts + count);
    at += static_cast<size_t>(point.length);
  }
  // The library would reorder too, but by exchanging neighbours: quadratic in a run of marks.
  for (auto first = codes.begin(); first != codes.end();) {
    if (combining_class(*first) == 0) {
      ++first;
      continue;
    }
    const auto last = std::find_if(first, codes.end(),
                                   [](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(first, last, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    first = last;
  }
  const utf8proc_ssize_t composed =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  LH_CHECK(composed >= 0, "utf8proc: {}", utf8proc_errmsg(composed));
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    append_utf8(out, static_cast<char32_t>(codes[static_cast<size_t>(i)]));
  }
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;
  size_t start = 0;     // of the stretch being gathered
  bool marked = false;  // it holds something at or past kFirstMark
  const auto flush = [&](size_t end) {
    const std::string_view stretch = text.substr(start, end - start);
    if (marked) {
      compose(stretch, out, codes);
    } else {
      out.append(stretch);
    }
    start = end;
    marked = false;
  };
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      // A marked stretch ends here; a plain one runs on, and is cut before its last character only
      // when a mark follows.
      if (marked) flush(at);
      ++at;
      continue;
    }
    const CodePoint point = code_point_at(text, at);
    const size_t next = at + static_cast<size_t>(point.length);
    if (point.value < kFirstMark) {
      if (marked) flush(at);
    } else if (point.value == kBeforeFirstFinal || is_inert_in_nfc(point.value)) {
      flush(at);
      flush(next);
    } else if (!marked) {
      if (at > start) {
        const auto base = static_cast<size_t>(code_point_before(text, at).length);
        if (at - base > start) flush(at - base);
      }
      marked = true;
    }
    at = next;
  }
  flush(text.size());
  return out;
}

}  // namespace longhaul::io
