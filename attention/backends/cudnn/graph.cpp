#include "attention/backends/cudnn/graph.h"

#include <cudnn_frontend.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "runtime/core/check.h"

namespace longhaul::attention::cudnn {
namespace {

namespace fe = cudnn_frontend;
using Tensor = fe::graph::Tensor_attributes;

enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLse,
  kQLengths,
  kKvLengths,
  kQOffsets,
  kKOffsets,
  kVOffsets,
  kOutOffsets,
  kLseOffsets
};

void check(fe::error_t error, const char* what) {
  if (error.is_bad()) {
    fail(ExitCode::resource, "cuDNN attention: {}: {}", what, error.get_message());
  }
}

// One handle for a device; its stream is set and used under the lock.
struct Handle {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
};
Handle& handle_of(int device) {
  static std::mutex mutex;
  static std::map<int, Handle> handles;  // kept until the process ends
  const std::lock_guard lock(mutex);
  Handle& h = handles[device];
  if (h.handle == nullptr) {
    const cudnnStatus_t status = cudnnCreate(&h.handle);
    if (status != CUDNN_STATUS_SUCCESS) {
      fail(ExitCode::resource, "cuDNN attention: cudnnCreate: {}", cudnnGetErrorString(status));
    }
  }
  return h;
}

}  // namespace

struct Graph::Impl {
  fe::graph::Graph graph;
};

Graph::Graph(const GraphKey& key) : impl_(std::make_unique<Impl>()), key_(key) {
  fe::graph::Graph& graph = impl_->graph;
  graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto column = [&](const char* name, int64_t uid, int64_t count, fe::DataType_t type) {
    return graph.tensor(Tensor()
                            .set_name(name)
                            .set_uid(uid)
                            .set_dim({count, 1, 1, 1})
                            .set_stride({1, 1, 1, 1})
                            .set_data_type(type));
  };
  const auto offsets = [&](const char* name, int64_t uid) {
    return column(name, uid, key.segments + 1, fe::DataType_t::INT64);
  };
  const auto rows = [&](const char* name, int64_t uid, int heads, int64_t length, int dim,
                        int64_t stride, const std::shared_ptr<Tensor>& ragged) {
    return Tensor()
        .set_name(name)
        .set_uid(uid)
        .set_dim({key.segments, heads, length, dim})
        .set_stride({length * stride, dim, stride, 1})
        .set_ragged_offset(ragged);
  };
  const auto q = graph.tensor(rows("q", kQ, key.num_heads, key.max_q, key.head_dim, key.q_stride,
                                   offsets("q_offsets", kQOffsets)));
  const auto k = graph.tensor(rows("k", kK, key.num_kv_heads, key.max_kv, key.head_dim,
                                   key.k_stride, offsets("k_offsets", kKOffsets)));
  const auto v = graph.tensor(rows("v", kV, key.num_kv_heads, key.max_kv, key.head_dim_v,
                                   key.v_stride, offsets("v_offsets", kVOffsets)));
  auto options =
      fe::graph::SDPA_attributes()
          .set_name("attention")
          .set_generate_stats(true)
          .set_attn_scale(key.scale)
          .set_padding_mask(true)
          .set_seq_len_q(column("q_lengths", kQLengths, key.segments, fe::DataType_t::INT32))
          .set_seq_len_kv(column("kv_lengths", kKvLengths, key.segments, fe::DataType_t::INT32));
  if (key.causal) {
    options.set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT)
        .set_diagonal_band_right_bound(0);
  }
  auto [out, lse] = graph.sdpa(q, k, v, options);
  out->set_output(true)
      .set_uid(kOut)
      .set_dim({key.segments, key.num_heads, key.max_q, key.head_dim_v})
      .set_stride({key.max_q * key.out_stride, key.head_dim_v, key.out_stride, 1})
      .set_ragged_offset(offsets("out_offsets", kOutOffsets));
  lse->set_output(true)
      .set_uid(kLse)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({key.segments, key.num_heads, key.max_q, 1})
      .set_stride({key.max_q * key.num_heads, 1, key.num_heads, 1})
      .set_ragged_offset(offsets("lse_offsets", kLseOffsets));

  Handle& h = handle_of(key.device);
  const std::lock_guard lock(h.mutex);
  check(graph.validate(), "the problem");
  check(graph.build_operation_graph(h.handle), "the operation graph");
  check(graph.create_execution_plans({fe::HeurMode_t::A}), "looking for a kernel");
  check(graph.check_support(), "no kernel supports it");
  check(graph.build_plans(), "compiling");
  check(graph.get_workspace_size(workspace_bytes_), "the workspace");
}

Graph::~Graph() = default;

void Graph::run(const GraphData& data, void* workspace, cudaStream_t stream) const {
  const auto pointer = [](const void* p) { return const_cast<void*>(p); };
  std::unordered_map<int64_t, void*> pack = {{kQ, pointer(data.q)},
                                             {kK, pointer(data.k)},
                                             {kV, pointer(data.v)},
                                             {kOut, data.out},
                                             {kLse, data.lse},
                                             {kQLengths, pointer(data.q_lengths)},
                                             {kKvLengths, pointer(data.kv_lengths)},
                                             {kQOffsets, pointer(data.q_offsets)},
                                             {kKOffsets, pointer(data.k_offsets)},
                                             {kVOffsets, pointer(data.v_offsets)},
                                             {kOutOffsets, pointer(data.out_offsets)},
                                             {kLseOffsets, pointer(data.lse_offsets)}};
  Handle& h = handle_of(key_.device);
  const std::lock_guard lock(h.mutex);
  const cudnnStatus_t status = cudnnSetStream(h.handle, stream);
  LH_CHECK(status == CUDNN_STATUS_SUCCESS, "cudnnSetStream: {}", cudnnGetErrorString(status));
  check(impl_->graph.execute(h.handle, pack, workspace), "launch");
}

int64_t cudnn_version() {
  return static_cast<int64_t>(cudnnGetVersion());
}

}  // namespace longhaul::attention::cudnn
