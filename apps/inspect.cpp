// longhaul inspect PATH: the tensors of a dump, a merged file or a checkpoint.

#include "runtime/io/inspect.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/command.h"

namespace longhaul::apps {
namespace {

using io::ElementStatistics;
using io::InspectedTensor;
using io::Inspection;

// "0-3,7"
std::string ranges(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (!text.empty()) text += ',';
    text +=
        end - i > 1 ? fmt::format("{}-{}", ranks[i], ranks[end - 1]) : fmt::format("{}", ranks[i]);
    i = end;
  }
  return text;
}

std::string shape_text(const InspectedTensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.shape, ", "));
}

std::string owner_text(const InspectedTensor& tensor) {
  return tensor.file.empty() ? ranges(tensor.ranks) : tensor.file;
}

void print_table(const Inspection& inspection) {
  for (const auto& [key, value] : inspection.facts) fmt::print("{:<10} {}\n", key, value);
  size_t name = 6, shape = 5, owner = 5;
  bool statistics = false;
  for (const InspectedTensor& t : inspection.tensors) {
    name = std::max(name, t.name.size());
    shape = std::max(shape, shape_text(t).size());
    owner = std::max(owner, owner_text(t).size());
    statistics |= t.statistics.has_value();
  }
  const bool has_owners = inspection.kind == "dump" || inspection.kind == "checkpoint";
  const char* owner_title = inspection.kind == "checkpoint" ? "file" : "ranks";
  fmt::print("\n{:<{}}  {:<5} {:<{}}", "tensor", name, "dtype", "shape", shape);
  if (has_owners) fmt::print("  {:<{}}", owner_title, owner);
  if (statistics)
    fmt::print("  {:>12} {:>12} {:>12} {:>12} {:>8} {:>8}", "min", "max", "mean", "rms", "nan",
               "inf");
  fmt::print("\n");
  for (const InspectedTensor& t : inspection.tensors) {
    fmt::print("{:<{}}  {:<5} {:<{}}", t.name, name, t.dtype, shape_text(t), shape);
    if (has_owners) fmt::print("  {:<{}}", owner_text(t), owner);
    if (t.statistics) {
      const ElementStatistics& s = *t.statistics;
      fmt::print("  {:>12.5g} {:>12.5g} {:>12.5g} {:>12.5g} {:>8} {:>8}", s.min(), s.max(),
                 s.mean(), s.rms(), s.nan(), s.inf());
    }
    fmt::print("\n");
  }
  fmt::print("{} tensors, {:.3f} MB\n", inspection.tensors.size(),
             static_cast<double>(inspection.bytes) / 1e6);
}

void print_json(const Inspection& inspection) {
  using nlohmann::ordered_json;
  ordered_json out = {{"kind", inspection.kind}};
  for (const auto& [key, value] : inspection.facts) out[key] = value;
  out["bytes"] = inspection.bytes;
  out["tensors"] = ordered_json::array();
  for (const InspectedTensor& t : inspection.tensors) {
    ordered_json one = {{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}};
    if (!t.dims.empty()) one["dims"] = t.dims;
    if (inspection.kind == "dump") one["ranks"] = t.ranks;
    if (!t.file.empty()) one["file"] = t.file;
    one["bytes"] = t.bytes;
    if (t.statistics) {
      const ElementStatistics& s = *t.statistics;
      one["statistics"] = {{"count", s.count()}, {"min", s.min()}, {"max", s.max()},
                           {"mean", s.mean()},   {"rms", s.rms()}, {"nan", s.nan()},
                           {"inf", s.inf()}};
    }
    out["tensors"].push_back(std::move(one));
  }
  fmt::print("{}\n", out.dump(2, ' ', false, ordered_json::error_handler_t::replace));
}

}  // namespace

Action add_inspect_command(CLI::App& app) {
  struct Options {
    std::string path;
    bool statistics = false, json = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("PATH", options->path,
                 "a dump's folder, a merged or rank file, or a checkpoint's folder")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_flag("--stats", options->statistics,
               "minimum, maximum, mean, root mean square, NaN and infinity counts");
  app.add_flag("--json", options->json, "print JSON");
  return [options] {
    const Inspection inspection = io::inspect_path(options->path, options->statistics);
    if (options->json)
      print_json(inspection);
    else
      print_table(inspection);
    return 0;
  };
}

}  // namespace longhaul::apps
