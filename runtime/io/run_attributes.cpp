#include "runtime/io/run_attributes.h"

namespace longhaul::io {

void write_run_attributes(Hdf5Object& root, const DumpInfo& info) {
  root.set_attribute("format_version", int64_t{1});
  root.set_attribute("version", info.version);
  root.set_attribute("model", info.model);
  root.set_attribute("config", info.config_json);
  root.set_attribute("layout", info.layout);
  root.set_attribute("strategy", info.strategy);
  root.set_attribute("backend", info.backend);
  root.set_attribute("dtype", info.dtype);
  root.set_attribute("command", info.command);
}

}  // namespace longhaul::io
