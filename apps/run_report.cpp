#include "apps/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

namespace longhaul::apps {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

double max_of(const std::vector<RankFigures>& ranks, double model::StageTimes::*stage) {
  double most = 0;
  for (const RankFigures& r : ranks) most = std::max(most, r.times.*stage);
  return most;
}

double mean_of(const std::vector<RankFigures>& ranks, double model::StageTimes::*stage) {
  double sum = 0;
  for (const RankFigures& r : ranks) sum += r.times.*stage;
  return sum / static_cast<double>(ranks.size());
}

int64_t max_of(const std::vector<RankFigures>& ranks, int64_t RankFigures::*figure) {
  int64_t most = 0;
  for (const RankFigures& r : ranks) most = std::max(most, r.*figure);
  return most;
}

double mean_of(const std::vector<RankFigures>& ranks, double RankFigures::*figure) {
  double sum = 0;
  for (const RankFigures& r : ranks) sum += r.*figure;
  return sum / static_cast<double>(ranks.size());
}

int64_t total_sent(const std::vector<RankFigures>& ranks) {
  int64_t sum = 0;
  for (const RankFigures& r : ranks) sum += r.sent_bytes;
  return sum;
}

// Text on one line of a table: control characters escaped, cut at a whole UTF-8 character.
std::string one_line(std::string_view text, size_t most) {
  std::string out;
  for (char c : text) {
    if (out.size() >= most && (static_cast<unsigned char>(c) & 0xc0u) != 0x80u) return out + "...";
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out;
}

struct Stage {
  const char* key;
  double model::StageTimes::*seconds;
};
constexpr Stage kStages[] = {
    {"load", &model::StageTimes::load},
    {"embed", &model::StageTimes::embed},
    {"qkv", &model::StageTimes::qkv},
    {"exchange_exposed", &model::StageTimes::exchange_exposed},
    {"exchange_hidden", &model::StageTimes::exchange_hidden},
    {"attention", &model::StageTimes::attention},
    {"mlp", &model::StageTimes::mlp},
    {"logits", &model::StageTimes::logits},
};

void print_prompts(const RunSummary& s) {
  size_t id_width = 6;
  for (const io::Prompt& p : s.prompts)
    id_width = std::max(id_width, std::min<size_t>(p.id.size(), 32));
  fmt::print("{:<{}}  {:>9}  {:<28}  {:<12}  {}\n", "prompt", id_width, "tokens", "generated",
             "answer", "right?");
  for (size_t i = 0; i < s.prompts.size(); ++i) {
    std::string generated;
    if (s.generated[i].empty())
      generated = "-";
    else if (s.has_text)
      generated = '"' + one_line(s.texts[i], 22) + '"';
    else
      generated = one_line(fmt::format("{}", fmt::join(s.generated[i], " ")), 24);
    fmt::print("{:<{}}  {:>9}  {:<28}  {:<12}  {}\n", one_line(s.prompts[i].id, 29), id_width,
               s.prompts[i].tokens.size(), generated,
               s.has_answer(i) ? one_line(*s.prompts[i].answer, 9) : "-",
               !s.judged(i) ? "-" : (s.correct(i) ? "right" : "WRONG"));
  }
}

void print_times(const RunSummary& s) {
  fmt::print("\nprefill time by stage, ms {:>23} {:>10}\n", "mean rank", "worst rank");
  for (const Stage& stage : kStages) {
    std::string name = stage.key;
    std::replace(name.begin(), name.end(), '_', ' ');
    // On GPUs only a trace looks at the exchange's own stream.
    if (stage.seconds == &model::StageTimes::exchange_hidden && s.ranks.front().device[0] != 0 &&
        max_of(s.ranks, stage.seconds) == 0) {
      fmt::print("  {:<36} {:>10} {:>10}\n", name, "-", "-");
      continue;
    }
    fmt::print("  {:<36} {:>10.1f} {:>10.1f}\n", name, 1e3 * mean_of(s.ranks, stage.seconds),
               1e3 * max_of(s.ranks, stage.seconds));
  }
}

}  // namespace

bool RunSummary::correct(size_t i) const {
  return prompts[i].answer.has_value() && has_text && texts[i].starts_with(*prompts[i].answer);
}

bool RunSummary::all_correct() const {
  for (size_t i = 0; i < prompts.size(); ++i)
    if (judged(i) && !correct(i)) return false;
  return true;
}

int64_t RunSummary::num_prompt_tokens() const {
  int64_t n = 0;
  for (const io::Prompt& p : prompts) n += static_cast<int64_t>(p.tokens.size());
  return n;
}

std::vector<RankFigures> gather_figures(comm::Communicator& comm, const RankFigures& own) {
  std::vector<RankFigures> all(static_cast<size_t>(comm.size()));
  const std::vector<int64_t> bytes(all.size(), static_cast<int64_t>(sizeof own));
  comm.all_gather_v(&own, sizeof own, all.data(), bytes, {"gather figures"});
  return all;
}

void print_report(const RunSummary& s, const RunOptions& o) {
  const double tokens = static_cast<double>(s.num_prompt_tokens());
  fmt::print("model {} on {} rank{} x {} thread{}, backend {}, {}, layout {}, strategy {}\n\n",
             s.model, s.ranks.size(), s.ranks.size() == 1 ? "" : "s", s.ranks.front().threads,
             s.ranks.front().threads == 1 ? "" : "s", s.backend, s.dtype, o.layout, o.strategy);
  print_prompts(s);
  print_times(s);
  fmt::print("\n{} prompt tokens: TTFT {:.1f} ms, prefill {:.1f} tokens/s; {:.1f} ms in all\n",
             s.num_prompt_tokens(), 1e3 * s.result.ttft_seconds, tokens / s.result.ttft_seconds,
             1e3 * s.wall_seconds);
  const double flops = mean_of(s.ranks, &RankFigures::flops);
  const double rate = 1e-12 * flops / s.result.ttft_seconds;
  const double in_attention = mean_of(s.ranks, &model::StageTimes::attention);
  fmt::print("{:.2f} TFLOP/s per {}", rate, s.ranks.front().device[0] != 0 ? "GPU" : "rank");
  if (const double ceiling = mean_of(s.ranks, &RankFigures::matmul_ceiling); ceiling > 0)
    fmt::print(" ({:.0f} % of the {:.0f} of a large matrix product)", 100 * rate / ceiling,
               ceiling);
  if (in_attention > 0)
    fmt::print(", {:.2f} in attention",
               1e-12 * mean_of(s.ranks, &RankFigures::attention_flops) / in_attention);
  fmt::print("; communication exposed for {:.2f} % of the time\n",
             100 * mean_of(s.ranks, &model::StageTimes::exchange_exposed) / s.result.ttft_seconds);
  fmt::print("moved {:.2f} MiB between ranks; imbalance (max/mean): tokens {:.4f}, area {:.4f}\n",
             static_cast<double>(total_sent(s.ranks)) / kMiB, s.result.prefill_imbalance.tokens,
             s.result.prefill_imbalance.area);
  fmt::print(
      "memory of the fullest rank: tensors {:.1f} MiB at the peak (KV cache {:.1f} MiB), "
      "weights {:.1f} MiB\n",
      static_cast<double>(max_of(s.ranks, &RankFigures::tensor_peak_bytes)) / kMiB,
      static_cast<double>(max_of(s.ranks, &RankFigures::kv_cache_bytes)) / kMiB,
      static_cast<double>(max_of(s.ranks, &RankFigures::weights_bytes)) / kMiB);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    fail(ExitCode::resource, "cannot write the report to stdout: {}", std::strerror(errno));
}

std::string report_json(const RunSummary& s, const RunOptions& o) {
  using nlohmann::ordered_json;
  ordered_json sequences = ordered_json::array();
  for (size_t i = 0; i < s.prompts.size(); ++i) {
    ordered_json q;
    q["id"] = s.prompts[i].id;
    q["num_tokens"] = s.prompts[i].tokens.size();
    q["generated"] = s.generated[i];
    q["text"] = s.has_text ? ordered_json(s.texts[i]) : ordered_json(nullptr);
    q["answer"] = s.has_answer(i) ? ordered_json(*s.prompts[i].answer) : ordered_json(nullptr);
    q["correct"] = s.judged(i) ? ordered_json(s.correct(i)) : ordered_json(nullptr);
    sequences.push_back(std::move(q));
  }
  ordered_json timing;
  for (const Stage& stage : kStages) timing[stage.key] = 1e3 * max_of(s.ranks, stage.seconds);
  timing["total"] = 1e3 * s.wall_seconds;
  ordered_json memory = ordered_json::array();
  for (const RankFigures& r : s.ranks)
    memory.push_back({{"host", r.host},
                      {"device", r.device[0] != 0 ? r.device : "cpu"},
                      {"tflops", 1e-12 * r.flops / s.result.ttft_seconds},
                      {"matmul_ceiling_tflops", r.matmul_ceiling},
                      {"threads", r.threads},
                      {"weights_bytes", r.weights_bytes},
                      {"tensor_peak_bytes", r.tensor_peak_bytes},
                      {"kv_cache_bytes", r.kv_cache_bytes},
                      {"sent_bytes", r.sent_bytes},
                      {"received_bytes", r.received_bytes}});
  ordered_json j;
  j["sequences"] = std::move(sequences);
  j["ranks"] = s.ranks.size();
  j["strategy"] = o.strategy;
  j["layout"] = o.layout;
  j["backend"] = s.backend;
  j["dtype"] = s.dtype;
  j["ttft_ms"] = 1e3 * s.result.ttft_seconds;
  j["prefill_tokens_per_s"] = static_cast<double>(s.num_prompt_tokens()) / s.result.ttft_seconds;
  j["timing_ms"] = std::move(timing);
  j["communication_bytes"] = total_sent(s.ranks);
  j["imbalance"] = {{"tokens", s.result.prefill_imbalance.tokens},
                    {"area", s.result.prefill_imbalance.area}};
  j["model"] = s.model;
  j["per_rank"] = std::move(memory);
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace longhaul::apps
