#pragma once
// The subcommands of `longhaul`, one file each. add_X_command declares options on `app` and returns
// the action to run when the subcommand was chosen; its int is the exit code.

#include <CLI/CLI.hpp>
#include <functional>

namespace longhaul::apps {

using Action = std::function<int()>;

Action add_run_command(CLI::App& app);
Action add_plan_command(CLI::App& app);
Action add_merge_command(CLI::App& app);
Action add_inspect_command(CLI::App& app);
Action add_bench_command(CLI::App& app);
Action add_make_checkpoint_command(CLI::App& app);
Action add_info_command(CLI::App& app);

}  // namespace longhaul::apps
