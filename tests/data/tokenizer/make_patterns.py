#!/usr/bin/env python3
"""Writes random split patterns and how the `tokenizers` package (Oniguruma) cuts random text with
them, a JSON object a line: p pattern, r whether "Removed" (else "Isolated"), i invert, c cases: a list
of [text, [pieces]].

usage: make_patterns.py OUTPUT [COUNT] [SEED]
"""

import json
import random
import sys

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CATEGORIES = "L Lu Ll Lt Lm Lo M Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Cc Cf".split()
LITERALS = ["a", "b", "s", "S", "k", "'", "\u00e9", "1", "-", ":", r"\.", r"\-", r"\[", r"\x41", r"\x{e9}",
            r"\u0301", r"\t", r"\n", r"\r", r"\/", " ", "{", "}", '"', "\u65e5", r"\v", r"\f", r"\e", r"\a",
            "/", "=", "#", "~"]
IN_CLASS = ["a", "b", "\u00e9", "1", "_", r"\-", r"\]", r"\[", "!", '"', "#", "$", "(", ")", "*", "+", ".", "|",
            "?", "{", "}", "'", "/", r"\\", "\u65e5", r"\r", r"\n", r"\u0300"]
RANGES = ["a-z", "0-9", "A-Z", "\u4e00-\u9fa5", "!-/", r"\x{300}-\x{36f}", r"\t-\r"]
TEXT = (list("ab sSkK1'-_:. AZf{}[]\"#/\\$+^\t\n\r\x0b\x0c\x1b\x07") +
        ["\u017f", "\u212a", "\u00e9", "e\u0301", "\u0663", "\u00b2", "\u00bd", "\u2167", "\u65e5", "\u672c",
         "\u3042", "\r\n", "\u0085", "\u180e", "\u200b", "\u200d", "\u2028", "\u3000", "\ufeff", "\u24b6",
         "\U0001F130", "\U0001F600", "\u0897", "\U000105C0", "\U00010D40", "\U00031350", "\U0001CCF0",
         "\U0001FAE9", "\u01c5", "\u02b0", "\u00ab", "\u00bb", "\u0378", "\u00df", "\U0001171e"])


class Patterns:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def set_escape(self):
        plain = [r"\s", r"\S", r"\d", r"\D", r"\w", r"\W", r"\h", r"\H"]
        named = [r"\p{%s}"] * 12 + [r"\P{%s}", r"\p{^%s}"]
        if self.r.random() < 0.45:
            return self.r.choice(plain)
        return self.r.choice(named) % self.r.choice(CATEGORIES)

    def bracket(self):
        out = "[" + self.r.choice(["", "", "^"])
        for _ in range(self.r.randrange(1, 5)):
            kind = self.r.randrange(3)
            out += (self.r.choice(IN_CLASS) if kind == 0 else self.r.choice(RANGES) if kind == 1
                    else self.set_escape())
        return out + self.r.choice(["", "", "-"]) + "]"

    def atom(self, depth):
        kind = self.r.random()
        if kind < 0.3:
            return self.r.choice(LITERALS)
        if kind < 0.5:
            return self.set_escape()
        if kind < 0.7:
            return self.bracket()
        if kind < 0.75:
            return "."
        if kind < 0.78:
            return self.r.choice(["^", "$", r"\A", r"\z", r"\Z"])
        if kind < 0.84 or depth > 2:
            part = self.r.choice([lambda: self.r.choice(LITERALS), self.set_escape, self.bracket])()
            return self.r.choice(["(?=", "(?!", "(?<=", "(?<!"]) + part + ")"
        if kind < 0.9:
            words = ["'s", "'t", "'re", "'ll", "k", "ab", "x1"]
            return "(?i:" + "|".join(self.r.choice(words) for _ in range(self.r.randrange(1, 4))) + ")"
        return self.r.choice(["(", "(?:", "(?>"]) + self.alternatives(depth + 1) + ")"

    def quantifier(self):
        return self.r.choice([""] * 6 + ["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,3}",
                                         "{,2}", "{2,}"])

    def sequence(self, depth):
        return "".join(self.atom(depth) + self.quantifier() for _ in range(self.r.randrange(1, 4)))

    def alternatives(self, depth=0):
        return "|".join(self.sequence(depth) for _ in range(self.r.randrange(1, 4)))

    def text(self):
        return "".join(self.r.choice(TEXT) for _ in range(self.r.randrange(0, 24)))


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
    source = Patterns(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        written = 0
        while written < count:
            pattern = source.alternatives()
            removed, invert = source.r.random() < 0.3, source.r.random() < 0.3
            texts = [source.text() for _ in range(4)]
            try:
                step = Split(Regex(pattern), "removed" if removed else "isolated", invert)
                cases = [[text, [piece for piece, _ in step.pre_tokenize_str(text)]] for text in texts]
            except BaseException as error:  # not a pattern, or the package gives up (it panics)
                if isinstance(error, KeyboardInterrupt):
                    raise
                continue
            line = {"p": pattern, "r": removed, "i": invert, "c": cases}
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
            written += 1


if __name__ == "__main__":
    main()
