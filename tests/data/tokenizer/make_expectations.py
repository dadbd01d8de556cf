#!/usr/bin/env python3
"""Trains two byte-level BPE vocabularies on the documentation of a Debian system, one set up as
Qwen3's tokenizer.json is, one as Llama-3's, and writes what the `tokenizers` package makes of
10,000 random strings with each.

usage: make_expectations.py FOLDER [--strings N] [--seed S] [--plain]

FOLDER/qwen3/tokenizer.json, FOLDER/llama3/tokenizer.json   the vocabularies (kept where they exist)
FOLDER/<name>/expectations.bin                              see write_expectations()
FOLDER/variants/<name>.json, <name>.bin                     other pre-tokenizers over the first vocabulary
--plain writes FOLDER/<name>/expectations.jsonl instead: {"text", "ids", "decoded"}, for hand checks.
"""

import argparse
import glob
import gzip
import json
import os
import random
import struct
import sys
import unicodedata

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

# As in the models' own files.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TOKENS = (
    [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True),
     ("<|object_ref_start|>", True), ("<|vision_start|>", True), ("<|image_pad|>", True)]
    + [("<tool_call>", False), ("</tool_call>", False), ("<|fim_prefix|>", False),
       ("<tool_response>", False), ("</tool_response>", False), ("<think>", False),
       ("</think>", False)]
)
LLAMA_TOKENS = [
    ("<|begin_of_text|>", True), ("<|end_of_text|>", True), ("<|start_header_id|>", True),
    ("<|end_header_id|>", True), ("<|eot_id|>", True), ("<|python_tag|>", True),
    ("<|reserved_special_token_0|>", True), ("<|reserved_special_token_1|>", True),
    ("<|reserved_special_token_12|>", True),
]
# Not in the models' files: the flags that decide how added tokens are looked for.
FLAGGED_TOKENS = [
    AddedToken("[MASK]", lstrip=True, normalized=False, special=True),
    AddedToken("[AFTER]", rstrip=True, normalized=False),
    AddedToken("word", single_word=True, normalized=True),
    AddedToken("caf\u0065\u0301", normalized=True),  # found in its composed form where NFC is on
    AddedToken("\u212bngstr\u00f6m", normalized=False),
    AddedToken("<|im", normalized=False),  # the beginning of a longer one
    AddedToken("  ", lstrip=True, rstrip=True, normalized=True),
]


def corpus():
    """Plain text of the system: manuals, copyright notices, Python's library."""
    texts = []
    patterns = ["/usr/share/doc/*/copyright", "/usr/share/doc/*/README*", "/usr/share/man/man1/*.gz",
                "/usr/share/man/*/man1/*.gz", "/usr/lib/python3*/*.py", "/usr/share/perl/*/pod/*.pod",
                "/usr/share/i18n/locales/*"]
    for pattern in patterns:
        for path in sorted(glob.glob(pattern))[:150]:
            try:
                with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
                    texts.append(file.read(60000).decode("utf-8", "ignore"))
            except OSError:
                continue
    return texts


def build(name):
    qwen = name == "qwen3"
    tokenizer = Tokenizer(models.BPE(ignore_merges=not qwen))
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN if qwen else LLAMA_PATTERN), "isolated", False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=6000 if qwen else 5000, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    # Added after training, so that their ids follow the vocabulary's as in the models' files.
    plain = QWEN_TOKENS if qwen else LLAMA_TOKENS
    for content, special in plain:
        token = AddedToken(content, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    for token in FLAGGED_TOKENS:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if qwen:
        tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, use_regex=False,
                                                        trim_offsets=False)
    else:
        start = "<|begin_of_text|>"
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=start + " $A", pair=start + " $A " + start + " $B",
                                          special_tokens=[(start, tokenizer.token_to_id(start))]),
        ])
    data = json.loads(tokenizer.to_str())
    if not qwen:
        # Llama-3 has words in its vocabulary that its merges do not make (ignore_merges): here,
        # words of the corpus get tokens without merges, by dropping the merges that lead to them.
        dropped = data["model"]["merges"][-200:]
        data["model"]["merges"] = data["model"]["merges"][:-200]
        assert len(dropped) == 200
        # And the older spelling of merges.
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


class Strings:
    """Random text of every kind that tokenizers have been seen to disagree on."""

    def __init__(self, seed, added):
        self.r = random.Random(seed)
        self.words = sorted(set(w for t in corpus()[::9] for w in t.split()))
        self.added = added
        assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
        self.assigned = assigned
        self.marks = [c for c in assigned if unicodedata.combining(chr(c))]
        self.blocks = [(0x20, 0x7F), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x500), (0x530, 0x590),
                       (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80),
                       (0x1000, 0x10A0), (0x10A0, 0x1100), (0x1100, 0x1200), (0x1E00, 0x1F00),
                       (0x1F00, 0x2000), (0x2000, 0x2070), (0x2100, 0x2200), (0x2460, 0x2500),
                       (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xF900, 0xFB00),
                       (0xFB00, 0xFE00), (0xFF00, 0xFFF0), (0x10300, 0x10350), (0x1D400, 0x1D800),
                       (0x1F300, 0x1F700), (0x20000, 0x20100), (0x2F800, 0x2FA20)]
        self.parts = [
            (20, self.word), (8, self.script), (6, self.marked), (5, self.emoji), (8, self.number),
            (14, self.space), (8, self.contraction), (8, self.added_token), (6, self.odd),
            (6, self.punctuation), (3, self.any_scalar), (3, self.any_assigned), (3, self.hangul),
            (2, self.run), (2, self.newer), (4, self.code),
        ]

    def word(self):
        w = self.r.choice(self.words)
        return self.r.choice([w, w, w.upper(), w.capitalize(), " " + w, w[::-1]])

    def script(self):
        low, high = self.r.choice(self.blocks)
        return "".join(chr(self.r.randrange(low, high)) for _ in range(self.r.randrange(1, 8)))

    def marked(self):
        base = self.r.choice("aeiouyAEIOUnscz\u1e63\u0915\u05d0\u0627\u3042\u30ab\u2603 ")
        return base + "".join(chr(self.r.choice(self.marks)) for _ in range(self.r.randrange(1, 5)))

    def emoji(self):
        return self.r.choice([
            "\U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0001F44D\U0001F3FD", "\u2764\ufe0f",
            "\U0001F1E9\U0001F1EA", "1\ufe0f\u20e3", "\U0001F3F3\ufe0f\u200d\U0001F308",
            "\U0001F9D1\u200D\U0001F680", "\U0001F600" * self.r.randrange(1, 4)])

    def number(self):
        digits = self.r.choice(["0123456789", "0123456789", "\u0660\u0661\u0665\u0669",
                                "\u0967\u0968\u096f", "\u00b2\u00b3\u00bc\u2153\u2167", "\uff10\uff19"])
        text = "".join(self.r.choice(digits) for _ in range(self.r.randrange(1, 12)))
        return text if self.r.random() < 0.7 else text[:3] + self.r.choice(".,:-") + text[3:]

    def space(self):
        kinds = self.r.choice([" ", " ", "  ", " \t", "\n", "\r\n", "\r", " \n", "\t\t", " \u00a0\u3000",
                               "\u0085\u2028\u2029", "\u180e\u200b\ufeff ", "\u2003 \n", "\x0b\x0c \x1c"])
        return "".join(self.r.choice(kinds) for _ in range(self.r.randrange(1, 7)))

    def contraction(self):
        return self.r.choice(["don", "it", "I", "We", "x ", "", "K", "9"]) + self.r.choice(
            ["'s", "'S", "'\u017f", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'VE", "'m", "'M", "'ll",
             "'LL", "'lL", "'d", "'D", "\u2019s", "'\u212a", "'\u1e9e", "'x", "''s", "'\u017ft", "'ss"])

    def added_token(self):
        return self.r.choice(["", "", " ", "  ", "\n", "a", "_", "\u0301"]) + self.r.choice(self.added)

    def odd(self):
        return self.r.choice(["\x00", "\x01\x7f", "\ufffd", "\ufffe", "\uffff", "\U0010FFFF", "\ue000",
                              "\u0340\u0341", "\u2126\u212b", "\u0344", "\u0958", "\ufb1d", "\ud7a3",
                              "\u0f73\u0f75", "\u1134", "\U0001D15E", "\u2adc", "\u0387", "\u037e",
                              "\u00e9", "\u0065\u0301", "\u0120\u0121", "\u010a"])

    def punctuation(self):
        return "".join(self.r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00ab\u2026\u3002\u00bf")
                       for _ in range(self.r.randrange(1, 9)))

    def any_scalar(self):
        return "".join(chr(c if not 0xD800 <= c < 0xE000 else 0x41)
                       for c in (self.r.randrange(0x110000) for _ in range(self.r.randrange(1, 5))))

    def any_assigned(self):
        return "".join(chr(self.r.choice(self.assigned)) for _ in range(self.r.randrange(1, 6)))

    def hangul(self):
        return "".join(chr(self.r.choice([0x1100 + self.r.randrange(19), 0x1161 + self.r.randrange(21),
                                          0x11A7 + self.r.randrange(28), 0xAC00 + self.r.randrange(11172)]))
                       for _ in range(self.r.randrange(1, 7)))

    def run(self):
        return self.r.choice("a =-.\n\u3042e7\u0301\t#") * self.r.choice([3, 10, 40, 200])

    def newer(self):
        """Code points that Unicode got after 9.0, after 14.0, or not yet."""
        low, high = self.r.choice([(0x0898, 0x08A0), (0x10D24, 0x10D28), (0x11930, 0x11939), (0x1ABF, 0x1ACF),
                                   (0x10EFD, 0x10F00), (0x1E4D0, 0x1E4FA), (0x31350, 0x31360),
                                   (0x1C89, 0x1C8B), (0x10D40, 0x10D8F), (0x16D40, 0x16D7A),
                                   (0x1CCF0, 0x1CCFA), (0x2FFC, 0x3000), (0x0378, 0x037A), (0x323B0, 0x323C0)])
        return "a" + "".join(chr(self.r.randrange(low, high)) for _ in range(self.r.randrange(1, 5))) + "\u0334"

    def code(self):
        return self.r.choice(["if (x >= 0) {\n\t\treturn y[i++];\n\t}\r\n", "<a href=\"http://x.org/?q=1&r=2\">",
                              "def f(self, *args):\n    pass\n\n\n", "{\"a\": [1, 22, 333, 4444]}",
                              "\n\n  - item\n  - item\n", "C:\\path\\to\\file.txt", "$x^2 + \\alpha_i$"])

    def one(self):
        weights = [w for w, _ in self.parts]
        text = ""
        for _ in range(self.r.choice([0, 1, 1, 2, 3, 4, 6, 8, 12, 16])):
            text += self.r.choices(self.parts, weights)[0][1]()
            if self.r.random() < 0.35:
                text += " "
        return text[:600]


def byte_level(prefix_space, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True,
            "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


# pre_tokenizer and normalizer of other models with byte-level BPE.
VARIANTS = {
    "gpt2": (byte_level(False, True), None),
    "gpt2_prefix_space": (byte_level(True, True), {"type": "NFC"}),
    "deepseek_v3": (
        sequence(
            split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                  r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+"),
            byte_level(False, False)),
        {"type": "Sequence", "normalizers": []}),
    "gpt4o": (
        sequence(
            split(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
                  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", "Removed", True),
            byte_level(False, False)),
        None),
    "smollm": (sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True)), None),
    "digits": (sequence({"type": "Digits", "individual_digits": False}, byte_level(True, True)), None),
    "string": (sequence(split(". ", "Removed", False, "String"), byte_level(True, False)),
               {"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
}


IDS_IN_FULL = 500  # strings whose ids are kept, so that a failure can be shown


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def write_expectations(path, tokenizer, strings):
    """Little-endian: uint32 count, then per string: uint32 bytes and UTF-8; uint64 FNV-1a of the ids
    as int32; uint64 FNV-1a of decode(ids); uint32 count of ids, and the ids where they are kept."""
    out = [struct.pack("<I", len(strings))]
    for index, text in enumerate(strings):
        raw = text.encode()
        ids = tokenizer.encode(text).ids
        packed = struct.pack("<%di" % len(ids), *ids)
        out.append(struct.pack("<I", len(raw)) + raw)
        out.append(struct.pack("<QQI", fnv1a(packed), fnv1a(tokenizer.decode(ids).encode()), len(ids)))
        if index < IDS_IN_FULL:
            out.append(packed)
    with open(path, "wb") as file:
        file.write(b"".join(out))


def write_variants(options, tokenizer, source):
    folder = os.path.join(options.folder, "variants")
    os.makedirs(folder, exist_ok=True)
    whole = json.loads(tokenizer.to_str())
    for name, (pre_tokenizer, normalizer) in VARIANTS.items():
        parts = {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer}
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(parts, file, ensure_ascii=False)
            file.write("\n")
        variant = Tokenizer.from_str(json.dumps({**whole, **parts}))
        strings = [source.one() for _ in range(400)]
        write_expectations(os.path.join(folder, name + ".bin"), variant, strings)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    for name in ("qwen3", "llama3"):
        folder = os.path.join(options.folder, name)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "tokenizer.json")
        if not os.path.exists(path):
            with open(path, "w", encoding="utf-8") as file:
                file.write(build(name))
        tokenizer = Tokenizer.from_file(path)
        added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        source = Strings(options.seed, added)
        strings = [source.one() for _ in range(options.strings)]
        if options.plain:
            with open(os.path.join(folder, "expectations.jsonl"), "w", encoding="utf-8") as file:
                for text in strings:
                    ids = tokenizer.encode(text).ids
                    file.write(json.dumps({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}) + "\n")
        else:
            write_expectations(os.path.join(folder, "expectations.bin"), tokenizer, strings)
        if name == "qwen3" and not options.plain:
            write_variants(options, tokenizer, source)
        print(name, tokenizer.get_vocab_size(), "tokens,", len(strings), "strings", file=sys.stderr)


if __name__ == "__main__":
    main()
