// longhaul merge DIR -o FILE.h5: a dump as one HDF5 file in natural token order.

#include "runtime/io/merge.h"

#include <fmt/core.h>

#include <cstdio>
#include <memory>
#include <string>

#include "apps/command.h"

namespace longhaul::apps {

Action add_merge_command(CLI::App& app) {
  struct Options {
    std::string dir, file;
    bool force = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("DIR", options->dir, "the dump's folder")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("-o,--output", options->file, "the HDF5 file to write")->required();
  app.add_flag("--force", options->force, "replace the file if it exists");
  return [options] {
    const io::MergeSummary merged = io::merge_dump(options->dir, options->file, options->force);
    fmt::print("{}: {} tensors of {} sequences, {} tokens, {:.1f} MB\n", options->file,
               merged.num_tensors, merged.num_sequences, merged.num_tokens,
               static_cast<double>(merged.bytes) / 1e6);
    return 0;
  };
}

}  // namespace longhaul::apps
