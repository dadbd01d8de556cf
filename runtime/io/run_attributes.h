#pragma once
// What ran, as attributes: the same in a rank's file and in a merged one.

#include "runtime/io/hdf5_file.h"
#include "runtime/io/manifest.h"

namespace longhaul::io {

void write_run_attributes(Hdf5Object& root, const DumpInfo& info);

}  // namespace longhaul::io
