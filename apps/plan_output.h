#pragma once
#include <string>
#include <string_view>

namespace longhaul::apps {

// Writes a file under a temporary name in the same folder and renames it, so that a half-written
// file never carries the name. Error(usage) when it exists and `force` is not given or the folder
// is missing, Error(resource) for disk trouble.
void write_output_file(const std::string& path, std::string_view text, bool force);

// To stdout, checked: Error(resource) when it cannot be written.
void write_stdout(std::string_view text);

}  // namespace longhaul::apps
