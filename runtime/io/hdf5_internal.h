#pragma once
// Shared by the .cpp files of the HDF5 wrapper; the only header that includes hdf5.h.

#include <hdf5.h>

#include <string>
#include <string_view>

#include "runtime/core/dtype.h"
#include "runtime/io/hdf5_driver.h"

namespace longhaul::io {

struct Hdf5FileState {
  Hdf5Channel channel;
  std::string shown;  // the file's name in messages
  hid_t id = -1;

  Hdf5FileState() = default;
  Hdf5FileState(const Hdf5FileState&) = delete;
  Hdf5FileState& operator=(const Hdf5FileState&) = delete;
  ~Hdf5FileState();
};

namespace hdf5 {

// Silences HDF5's own printing in this thread and forbids filter plug-ins in the process.
void enter();

// Throws for a failed call: Error(resource) when the file's channel has a write error,
// Error(corrupt) for files being read, Error(internal) otherwise.
[[noreturn]] void raise(const Hdf5FileState& file, std::string_view object, const char* call);
// Throws Error(resource) when a write has failed since, though HDF5 does not know.
void check_channel(const Hdf5FileState& file);
// Content of a file that we refuse: Error(corrupt).
[[noreturn]] void refuse(const Hdf5FileState& file, std::string_view object,
                         const std::string& why);

// Ids and statuses are negative on failure.
template <class T>
T check(T result, const Hdf5FileState& file, std::string_view object, const char* call) {
  if (result < 0) raise(file, object, call);
  return result;
}

// Closes an id of one kind. The calls below never leave one open, whatever is thrown.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& o) noexcept : id_(o.id_), close_(o.close_) { o.id_ = -1; }
  Handle& operator=(Handle&&) = delete;
  hid_t get() const { return id_; }
  hid_t release() {
    const hid_t id = id_;
    id_ = -1;
    return id;
  }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// The file type of an element; also the type in memory, so that bytes pass unchanged.
Handle element_type(DType dtype, const Hdf5FileState& file);

}  // namespace hdf5
}  // namespace longhaul::io
