// `longhaul plan`: who owns and computes what, without a model run and without MPI.

#include <memory>

#include "apps/command.h"
#include "apps/plan_input.h"
#include "apps/plan_output.h"
#include "apps/plan_report.h"
#include "runtime/core/check.h"
#include "runtime/layout/exchange_plan.h"

namespace longhaul::apps {
namespace {

struct PlanOptions {
  std::string cp, lengths, prefix, layout = "balanced";
  std::string model, heads, head_dim, dtype;
  std::string svg;
  bool json = false, force = false;
};

std::optional<HeadShape> head_shape(const PlanOptions& options) {
  const bool by_hand = !options.heads.empty() || !options.head_dim.empty();
  if (!options.model.empty()) return heads_of_model(options.model, options.dtype);
  if (by_hand && (options.heads.empty() || options.head_dim.empty()))
    fail(ExitCode::usage, "--heads and --head-dim belong together: give both");
  if (by_hand)
    return parse_heads(options.heads, options.head_dim,
                       options.dtype.empty() ? "bf16" : options.dtype);
  if (!options.dtype.empty())
    fail(ExitCode::usage, "--dtype sizes the exchange: give --model or --heads and --head-dim too");
  return std::nullopt;
}

int plan(const PlanOptions& options) {
  const int cp = parse_ranks(options.cp);
  const layout::LayoutKind kind = layout::parse_layout(options.layout);
  const auto lengths = parse_counts("--lengths", options.lengths, 1);
  const auto prefixes =
      options.prefix.empty() ? std::vector<int64_t>{} : parse_counts("--prefix", options.prefix, 0);
  const auto sequences = make_extents(cp, lengths, prefixes);
  const PlanReport report = make_plan_report(kind, cp, sequences, head_shape(options));
  if (!options.svg.empty())
    write_output_file(options.svg, plan_svg(report), options.force);
  else
    write_stdout(options.json ? plan_json(report) : plan_table(report));
  return static_cast<int>(ExitCode::good);
}

}  // namespace

PlanReport make_plan_report(layout::LayoutKind kind, int cp,
                            const std::vector<layout::SequenceExtent>& sequences,
                            std::optional<HeadShape> heads) {
  PlanReport report;
  report.layout = layout::BatchLayout::make(kind, cp, sequences);
  report.imbalance = layout::imbalance(report.layout);
  report.area_lower_bound = layout::area_imbalance_lower_bound(cp, sequences);
  for (int r = 0; r < cp; ++r) report.area.push_back(report.layout.area(r));
  std::vector<layout::SequenceExtent> earlier;
  for (const layout::SequenceExtent& s : sequences) earlier.push_back({0, s.prefix});
  layout::KvOwnership ownership(cp, static_cast<int>(sequences.size()));
  ownership.append(layout::BatchLayout::make(kind, cp, earlier));
  ownership.append(report.layout);
  report.received_tokens = layout::exchange_recv_rows(report.layout, ownership);
  report.heads = heads;
  return report;
}

Action add_plan_command(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  app.add_option("--cp", options->cp, "ranks that share the tokens")->required();
  app.add_option("--lengths", options->lengths,
                 "new tokens of each sequence: 9,10 or 16K (x 1024), 1M, and 64*9 for 64 times 9")
      ->required();
  app.add_option("--prefix", options->prefix, "cached tokens of each sequence, in the same way");
  app.add_option("--layout", options->layout, "balanced (default), zigzag or contiguous");
  auto* model = app.add_option("--model", options->model, "checkpoint folder, for its head counts");
  app.add_option("--heads", options->heads, "query heads / KV heads, such as 32/4")
      ->excludes(model);
  app.add_option("--head-dim", options->head_dim, "elements of a head")->excludes(model);
  app.add_option("--dtype", options->dtype,
                 "element type of the KV cache (default: the checkpoint's, or bf16)");
  auto* json = app.add_flag("--json", options->json, "print one JSON document with every list");
  app.add_option("--svg", options->svg, "draw a picture into this file")->excludes(json);
  app.add_flag("--force", options->force, "overwrite the picture");
  return [options] { return plan(*options); };
}

}  // namespace longhaul::apps
