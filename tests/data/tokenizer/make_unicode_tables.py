#!/usr/bin/env python3
"""Writes runtime/io/unicode_tables.inc: where the Unicode data of the `tokenizers` package (0.23: 16.0
in its regular expressions, 9.0 in its normalizer) differs from the system's libraries.

usage: make_unicode_tables.py OUTPUT    (needs tokenizers; Python's own Unicode data must be 14.0)
"""

import sys
import unicodedata

from tokenizers import Regex, normalizers
from tokenizers.pre_tokenizers import Split

CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn"
).split()


def scalars():
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def ranges(pairs):
    """[(code point, value)], sorted -> [[first, last, value]]"""
    found = []
    for code, value in pairs:
        if found and found[-1][1] == code - 1 and found[-1][2] == value:
            found[-1][1] = code
        else:
            found.append([code, code, value])
    return found


def newer_categories():
    category = {}
    for name in CATEGORIES:
        split = Split(Regex(r"\p{%s}" % name), "removed", False)
        for code in scalars():
            if not split.pre_tokenize_str(chr(code)):
                category[code] = name
    return ranges(
        (code, category[code])
        for code in sorted(category)
        if unicodedata.category(chr(code)) != category[code]
    )


def unordered_marks():
    """Combining in Unicode 14, or part of a composition, but plain to the package's normalizer."""
    nfc = normalizers.NFC()
    base = "\u2603"
    plain = set()
    for code in scalars():
        mark = chr(code)
        if unicodedata.combining(mark) == 0:
            continue
        # U+0334 has class 1 and U+0345 class 240: any other class moves past one of them.
        moved = nfc.normalize_str(base + mark + "\u0334").startswith(base + "\u0334")
        moves = nfc.normalize_str(base + "\u0345" + mark).endswith("\u0345")
        if not moved and not moves:
            plain.add(code)
    for code in scalars():
        parts = unicodedata.decomposition(chr(code))
        if parts and not parts.startswith("<"):
            text = "".join(chr(int(p, 16)) for p in parts.split())
            for given in (text, chr(code)):
                if nfc.normalize_str(given) != unicodedata.normalize("NFC", given):
                    plain.update([code] + [ord(c) for c in text])
    return ranges((code, None) for code in sorted(plain))


def main():
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    with open(sys.argv[1], "w") as out:
        out.write("// Written by tests/data/tokenizer/make_unicode_tables.py; do not edit.\n")
        out.write("constexpr CategoryRange kNewerCategories[] = {\n")
        for first, last, name in newer_categories():
            out.write('    {0x%X, 0x%X, "%s"},\n' % (first, last, name))
        out.write("};\n\nconstexpr CodeRange kMarksNewerThanNormalizer[] = {\n")
        for first, last, _ in unordered_marks():
            out.write("    {0x%X, 0x%X},\n" % (first, last))
        out.write("};\n")


if __name__ == "__main__":
    main()
