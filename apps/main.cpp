// One binary, `longhaul`; each subcommand is a file of this folder.

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "apps/command.h"
#include "runtime/core/check.h"

namespace longhaul::apps {
namespace {

int report(const Error& e) {
  if (e.code() == ExitCode::internal)
    std::fprintf(stderr, "longhaul: internal error: %s [%s:%d]\n", e.what(), e.file(), e.line());
  else
    std::fprintf(stderr, "longhaul: %s\n", e.what());
  return static_cast<int>(e.code());
}

int main_checked(int argc, char** argv) {
  CLI::App app{"longhaul: context-parallel prefill of long prompts", "longhaul"};
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, Action>> commands;
  auto add = [&](const char* name, const char* summary, Action (*declare)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, summary);
    commands.emplace_back(sub, declare(*sub));
  };
#if __has_include("apps/run.cpp")
  add("run", "prefill prompts with a model, and generate", add_run_command);
#endif
#if __has_include("apps/plan.cpp")
  add("plan", "show who owns and computes what", add_plan_command);
#endif
#if __has_include("apps/merge.cpp")
  add("merge", "turn a dump into one HDF5 file in natural token order", add_merge_command);
#endif
#if __has_include("apps/inspect.cpp")
  add("inspect", "list what a dump or a checkpoint holds", add_inspect_command);
#endif
#if __has_include("apps/bench.cpp")
  add("bench", "measure speed, as ratios to the machine's ceilings", add_bench_command);
#endif
#if __has_include("apps/make_checkpoint.cpp")
  add("make-checkpoint", "write seeded random weights for a config as safetensors",
      add_make_checkpoint_command);
#endif
#if __has_include("apps/info.cpp")
  add("info", "version, features, libraries, devices, binding", add_info_command);
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "longhaul: %s\n", e.what());
    return static_cast<int>(ExitCode::usage);
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
  } catch (const longhaul::Error& e) {
    return longhaul::apps::report(e);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "longhaul: out of memory\n");
    return static_cast<int>(longhaul::ExitCode::resource);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longhaul: internal error: %s\n", e.what());
    return static_cast<int>(longhaul::ExitCode::internal);
  }
}
