list(APPEND io_sources tokenizer.cpp byte_tokenizer.cpp utf8.cpp prompts.cpp json_lines.cpp)
list(APPEND io_private_link PkgConfig::PCRE2 PkgConfig::UTF8PROC)
