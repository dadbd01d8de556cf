#include "apps/agreement.h"

#include <xxhash.h>

#include <cstring>
#include <vector>

namespace longhaul::apps {
namespace {

// A fixed-size record a value, so that one all-gather carries them whatever the ranks were given.
struct Record {
  uint64_t hash = 0;
  char shown[48] = {};  // the value, cut
};

Record make_record(const Common& c) {
  Record r;
  r.hash = XXH3_64bits_withSeed(c.value.data(), c.value.size(), c.name.size());
  std::strncpy(r.shown, c.value.c_str(), sizeof r.shown - 1);
  return r;
}

}  // namespace

void check_agreement(comm::Communicator& comm, std::span<const Common> common) {
  // The count first: ranks with other programs could otherwise send records of other sizes.
  const auto n = static_cast<int64_t>(common.size());
  int64_t range[2] = {n, -n};
  comm.all_reduce(range, 2, DType::i64, comm::ReduceOp::max, {"agreement"});
  if (range[0] != -range[1])
    fail(ExitCode::usage,
         "ranks run different versions of longhaul; start the same program on all");

  std::vector<Record> own, all(common.size() * static_cast<size_t>(comm.size()));
  for (const Common& c : common) own.push_back(make_record(c));
  const auto bytes = static_cast<int64_t>(own.size() * sizeof(Record));
  const std::vector<int64_t> counts(static_cast<size_t>(comm.size()), bytes);
  comm.all_gather_v(own.data(), bytes, all.data(), counts, {"agreement"});
  for (size_t i = 0; i < common.size(); ++i)
    for (int r = 1; r < comm.size(); ++r) {
      const Record& a = all[i];
      const Record& b = all[static_cast<size_t>(r) * common.size() + i];
      if (a.hash != b.hash)
        fail(common[i].code,
             "ranks were started differently: {} is '{}' on rank 0 but '{}' on rank {}; start all "
             "ranks with the same arguments and files",
             common[i].name, a.shown, b.shown, r);
    }
}

}  // namespace longhaul::apps
