#include "tests/support/model_runner.h"

#include <cmath>
#include <limits>
#include <memory>
#include <mutex>

#include "attention/registry.h"
#include "comm/thread_communicator.h"
#include "runtime/io/checkpoint.h"
#include "runtime/io/prompts.h"

namespace longhaul::test {
namespace {

class Capture {
 public:
  Capture(RunOutput& out, std::vector<int64_t> lengths) : out_(out), lengths_(std::move(lengths)) {}

  void write(const std::string& name, ConstTensorView rows, const layout::BatchLayout& layout,
             int cp_rank) {
    std::lock_guard lock(mutex_);
    const int64_t n = rows.shape.row_elements();
    for (layout::Half half : {layout::Half::prev, layout::Half::next})
      for (int s = 0; s < layout.num_sequences(); ++s) {
        const layout::Block& block = layout.block(cp_rank, half, s);
        if (block.length == 0) continue;
        CapturedRows& c = out_.tensors[name][s];
        if (c.values.empty()) {
          c.row_elements = n;
          for (int d = 1; d < rows.shape.rank(); ++d) c.row_shape.push_back(rows.shape[d]);
          const auto length = static_cast<size_t>(lengths_[static_cast<size_t>(s)]);
          c.values.assign(length * static_cast<size_t>(n), std::nan(""));
          c.times_written.assign(length, 0);
        }
        copy(rows, layout.row(cp_rank, half, s) * n, block, c);
      }
  }

 private:
  static void copy(ConstTensorView rows, int64_t from, const layout::Block& block,
                   CapturedRows& c) {
    const int64_t n = c.row_elements;
    for (int64_t i = 0; i < block.length * n; ++i) {
      double value = 0;
      if (rows.dtype == DType::i32)
        value = rows.as<int32_t>()[from + i];
      else
        value = dispatch_float(rows.dtype, [&](auto t) {
          return static_cast<double>(rows.as<decltype(t)>()[from + i]);
        });
      c.values[static_cast<size_t>(block.start * n + i)] = value;
    }
    for (int64_t p = block.start; p < block.end(); ++p) ++c.times_written[static_cast<size_t>(p)];
  }

  RunOutput& out_;
  std::vector<int64_t> lengths_;
  std::mutex mutex_;
};

class CaptureSink : public io::ActivationSink {
 public:
  CaptureSink(Capture& capture, const RunSpec& spec) : capture_(capture), spec_(spec) {}
  bool wants(std::string_view name) const override { return spec_.wants(name); }
  void begin_step(const layout::BatchLayout& layout, int cp_rank) override {
    layout_ = std::make_unique<layout::BatchLayout>(layout);
    cp_rank_ = cp_rank;
  }
  void write(std::string_view name, ConstTensorView rows, std::string_view) override {
    capture_.write(std::string(name), rows, *layout_, cp_rank_);
  }
  void end_step() override { layout_.reset(); }

 private:
  Capture& capture_;
  const RunSpec& spec_;
  std::unique_ptr<layout::BatchLayout> layout_;
  int cp_rank_ = 0;
};

model::RunResult run_rank(const RunSpec& spec, comm::Communicator& comm, Capture& capture) {
  Progress progress;
  ThreadPool pool(spec.threads, &progress);
  const io::ModelConfig config = io::read_model_config(spec.model);
  const auto checkpoint = spec.random_weights ? io::make_random_checkpoint(config, 1)
                                              : io::open_safetensors(spec.model);
  attention::AttentionDesc desc;
  desc.dtype = spec.dtype;
  desc.head_dim = desc.head_dim_v = config.head_dim;
  attention::BackendChoice choice = attention::select_backend(desc, spec.backend);
  choice.backend->prepare(desc, spec.threads);
  const auto executor = model::make_executor(config, *checkpoint, spec.dtype, *choice.backend, pool,
                                             progress, spec.executor);
  model::Engine engine(comm, *executor, progress, spec.engine);
  CaptureSink sink(capture, spec);
  return engine.run(spec.prompts, &sink, [](const model::StepReport&) {});
}

}  // namespace

std::string why_backend_cannot_run(const RunSpec& spec) {
  const io::ModelConfig config = io::read_model_config(spec.model);
  attention::AttentionDesc desc;
  desc.dtype = spec.dtype;
  desc.head_dim = desc.head_dim_v = config.head_dim;
  try {
    attention::select_backend(desc, spec.backend);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

RunOutput run_on_threads(const RunSpec& spec) {
  RunOutput out;
  std::vector<int64_t> lengths;
  for (const auto& p : spec.prompts)
    lengths.push_back(static_cast<int64_t>(p.size()) +
                      std::max<int64_t>(spec.engine.generate - 1, 0));
  Capture capture(out, lengths);
  std::vector<model::RunResult> results(static_cast<size_t>(spec.ranks));
  comm::run_threads(spec.ranks, [&](comm::Communicator& comm) {
    results[static_cast<size_t>(comm.rank())] = run_rank(spec, comm, capture);
  });
  for (const model::RunResult& r : results)
    LH_CHECK(r.generated == results.front().generated, "ranks generated different tokens");
  out.result = results.front();
  return out;
}

std::vector<std::vector<int32_t>> read_token_lists(const std::filesystem::path& prompts_json) {
  std::vector<std::vector<int32_t>> lists;
  for (io::Prompt& p : io::read_prompts(prompts_json, nullptr, (int64_t{1} << 31) - 1))
    lists.push_back(std::move(p.tokens));
  return lists;
}

double error_over_rms(const std::vector<double>& a, const std::vector<double>& b) {
  LH_CHECK(a.size() == b.size() && !a.empty(), "{} against {} values", a.size(), b.size());
  double largest = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(a[i] - b[i]);
    if (!(e <= largest)) largest = std::isnan(e) ? std::numeric_limits<double>::infinity() : e;
    squares += b[i] * b[i];
  }
  const double rms = std::sqrt(squares / static_cast<double>(a.size()));
  return rms > 0 ? largest / rms : largest;
}

}  // namespace longhaul::test
