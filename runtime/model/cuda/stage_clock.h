#pragma once
// Where a step's time goes on a GPU: events between the pieces of work of a stream, read when the
// step is done. Costs an event record a piece, and no synchronisation.

#include <chrono>
#include <vector>

#include "runtime/core/cuda/device.h"
#include "runtime/model/stage_times.h"

namespace longhaul::model {

class StageClock {
 public:
  // The figures that pieces add to; null: counted nowhere.
  using Stage = double StageTimes::*;

  explicit StageClock(cudaStream_t stream) : stream_(stream) {}

  void begin();
  // From here on the stream works on this; name is a string literal.
  void mark(const char* name, int layer, Stage stage);
  void end() { mark("end", -1, nullptr); }
  // Work of another stream, from here on this clock's stream until here on the other: for
  // timelines, where set_tracing said that there is one.
  void set_tracing(bool on) { tracing_ = on; }
  void begin_span(const char* name, int layer);
  void end_span(cudaStream_t other);
  // After the stream's work is done: adds to the figures and forgets the marks.
  struct Piece {
    const char* name;
    int layer;
    double begin, end;  // seconds since the step's first mark
    bool other_stream;
  };
  std::vector<Piece> collect(StageTimes& times);
  // Host time of the first mark of the step, as closely as the host can tell.
  std::chrono::steady_clock::time_point began() const { return began_; }

 private:
  struct Mark {
    const char* name;
    int layer;
    Stage stage;
  };
  struct Span {
    const char* name;
    int layer;
    cuda::Event begin, end;
  };
  cudaStream_t stream_;
  bool tracing_ = false;
  std::vector<Span> spans_;
  std::vector<Mark> marks_;
  std::vector<cuda::Event> events_;  // kept for re-use; one a mark
  std::chrono::steady_clock::time_point began_;
};

}  // namespace longhaul::model
