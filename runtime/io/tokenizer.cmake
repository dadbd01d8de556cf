list(APPEND io_sources
  tokenizer.cpp tokenizer_json.cpp tokenizer_json_steps.cpp byte_tokenizer.cpp bpe_tokenizer.cpp
  bpe_model.cpp added_tokens.cpp pretokenizer.cpp split_regex.cpp split_pattern.cpp pattern_characters.cpp nfc.cpp
  unicode_tables.cpp utf8.cpp prompts.cpp json_lines.cpp)
list(APPEND io_private_link PkgConfig::PCRE2 PkgConfig::UTF8PROC)
