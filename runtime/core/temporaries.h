#pragma once
// Files under temporary names: removed when the process is ended without unwinding, so that a job
// that ends because of another rank leaves nothing half-written either.

#include <string>

namespace longhaul {

// Remembers the path (a few at a time; longer than 1 KiB are not remembered) until it is forgotten.
void remember_temporary(const std::string& path);
void forget_temporary(const std::string& path);

// Unlinks what is remembered; callable from a signal handler.
void remove_temporaries() noexcept;

// remove_temporaries(), then _exit(); callable from a signal handler.
[[noreturn]] void exit_at_once(int code) noexcept;

}  // namespace longhaul
