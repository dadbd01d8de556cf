#pragma once
// The lists of the two-half contract, step by step, on their way into a rank's dump file.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/io/hdf5_file.h"
#include "runtime/io/manifest.h"
#include "runtime/layout/batch_layout.h"

namespace longhaul::io {

class StepRecord {
 public:
  // Every step has the same sequences and cp, and each sequence goes on where it stopped.
  void add(const layout::BatchLayout& layout, int cp_rank);
  int64_t num_steps() const { return num_steps_; }
  const std::vector<DumpSequence>& sequences() const { return sequences_; }  // of all steps so far
  // /steps/<field>: [steps] for numbers, [steps, length] for lists, int64.
  void write(Hdf5File& file) const;

 private:
  std::map<std::string, std::vector<int64_t>> values_;  // of all steps, one after the other
  std::vector<DumpSequence> sequences_;
  int64_t num_steps_ = 0;
  int cp_ = 0;
};

}  // namespace longhaul::io
