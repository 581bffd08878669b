// What libtorch_python.so really calls in libtorch_cuda.so while it is loaded. Everything else is a generated stub that
// aborts (cuda_stubs.py); these few have to work, so they are written out against torch's own headers.

#include <malloc.h>

#include <cstring>

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace c10d {

// ProcessGroupNCCL.hpp: a variable that the Python bindings set.
typedef bool (*gil_checker_t)();
gil_checker_t& get_gil_checker() {
  static gil_checker_t checker = nullptr;
  return checker;
}

// The Python bindings make one Options object, the default argument of ProcessGroupNCCL.__init__, and delete it at exit.
// The real class has more members (its header needs NCCL's). Nobody reads them without NCCL, but libtorch_python.so's own
// copy of the destructor runs over them, and zero bytes are an empty pointer, vector and string to it.
struct ProcessGroupNCCL {
  struct Options : Backend::Options {
    explicit Options(bool is_high_priority_stream);
  };
};
ProcessGroupNCCL::Options::Options(bool) : Backend::Options("nccl") {
  char* const mine = reinterpret_cast<char*>(this);
  std::memset(mine + sizeof(*this), 0, malloc_usable_size(this) - sizeof(*this));
}

}  // namespace c10d
