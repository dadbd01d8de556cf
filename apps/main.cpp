// One binary, `longhaul`; each subcommand is a file of this folder.

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/command.h"
#include "comm/mpi_session.h"
#include "runtime/core/check.h"
#include "runtime/core/suggest.h"

namespace longhaul::apps {
namespace {

// What a mistyped word was probably meant to be: ", did you mean --prompts?" or nothing.
std::string suggestion(const CLI::App& app, const std::string& given) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::vector<std::string_view> known(names.begin(), names.end());
  const std::string_view nearest =
      nearest_name(std::string_view(given).substr(0, given.find('=')), known);
  return nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest);
}

// One line for what the command line has wrong.
std::string usage_line(const CLI::App& app, const CLI::ParseError& e) {
  const CLI::App* level = &app;
  std::string path = "longhaul";
  while (!level->get_subcommands().empty()) {
    level = level->get_subcommands().front();
    path += " " + level->get_name();
  }
  std::string message = e.what();
  // A word that nothing knows explains a missing one: --promts for --prompts.
  const std::vector<std::string> unknown = app.remaining(true);
  if (!unknown.empty())
    message =
        fmt::format("'{}' is not known{}", unknown.front(), suggestion(*level, unknown.front()));
  for (char& c : message)
    if (c == '\n') c = ' ';
  return fmt::format("{} ({} --help lists what there is)", message, path);
}

int main_checked(int argc, char** argv) {
  CLI::App app{"longhaul: context-parallel prefill of long prompts", "longhaul"};
  app.require_subcommand(1);
  app.allow_extras();  // inherited; collected, so that usage_line can suggest what was meant
  std::vector<std::pair<CLI::App*, Action>> commands;
  auto add = [&](const char* name, const char* summary, Action (*declare)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, summary);
    commands.emplace_back(sub, declare(*sub));
  };
  add("run", "prefill prompts with a model, and generate", add_run_command);
  add("plan", "show who owns and computes what", add_plan_command);
  add("merge", "turn a dump into one HDF5 file in natural token order", add_merge_command);
  add("inspect", "list what a dump or a checkpoint holds", add_inspect_command);
  add("bench", "measure speed, as ratios to the machine's ceilings", add_bench_command);
  add("make-checkpoint", "write seeded random weights for a config as safetensors",
      add_make_checkpoint_command);
  add("info", "version, features, libraries, devices, binding", add_info_command);
  try {
    app.parse(argc, argv);
    if (!app.remaining(true).empty()) throw CLI::ExtrasError(app.remaining(true));
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    throw Error(ExitCode::usage, usage_line(app, e));
  }
  for (auto& [sub, action] : commands)
    if (sub->parsed()) return action();
  return static_cast<int>(ExitCode::usage);
}

}  // namespace
}  // namespace longhaul::apps

int main(int argc, char** argv) {
  try {
    return longhaul::apps::main_checked(argc, argv);
  } catch (...) {
    return longhaul::comm::report_outside_session(std::current_exception());
  }
}
