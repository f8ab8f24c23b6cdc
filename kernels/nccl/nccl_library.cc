#include "kernels/nccl/nccl_library.h"

#include <dlfcn.h>

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Version 2.18.0.
constexpr int kMinVersion = 21800;

// Opens the first of the files that can be opened. In the error, the loader's messages name each
// file and the reason.
absl::StatusOr<void*> OpenFirst(const std::vector<std::string>& files) {
  std::string errors;
  for (const std::string& file : files) {
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) {
      return library;
    }
    absl::StrAppend(&errors, errors.empty() ? "" : "; ", dlerror());
  }
  return absl::UnavailableError(absl::StrCat("NCCL: ", errors));
}

// Finds one function by its name; UNAVAILABLE if the library lacks it.
template <typename Function>
absl::Status Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("NCCL: ", dlerror()));
}

// All functions in use, or the first one that is missing.
absl::StatusOr<nccl::Api> FindAll(void* library) {
  nccl::Api api;
  RETURN_IF_ERROR(Find(library, "ncclGetVersion", &api.GetVersion));
  RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", &api.GetUniqueId));
  RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", &api.CommInitRankConfig));
  RETURN_IF_ERROR(Find(library, "ncclCommDestroy", &api.CommDestroy));
  RETURN_IF_ERROR(Find(library, "ncclCommAbort", &api.CommAbort));
  RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", &api.CommGetAsyncError));
  RETURN_IF_ERROR(Find(library, "ncclGetErrorString", &api.GetErrorString));
  RETURN_IF_ERROR(Find(library, "ncclGetLastError", &api.GetLastError));
  RETURN_IF_ERROR(Find(library, "ncclGroupStart", &api.GroupStart));
  RETURN_IF_ERROR(Find(library, "ncclGroupEnd", &api.GroupEnd));
  RETURN_IF_ERROR(Find(library, "ncclAllReduce", &api.AllReduce));
  RETURN_IF_ERROR(Find(library, "ncclAllGather", &api.AllGather));
  RETURN_IF_ERROR(Find(library, "ncclBroadcast", &api.Broadcast));
  RETURN_IF_ERROR(Find(library, "ncclSend", &api.Send));
  RETURN_IF_ERROR(Find(library, "ncclRecv", &api.Recv));
  return api;
}

// A version number as text. Up to 2.8 the numbers were major * 1000 + minor * 100 + patch.
std::string VersionText(int version) {
  const int major = version < 10000 ? version / 1000 : version / 10000;
  return absl::StrCat(major, ".", version / 100 % (version < 10000 ? 10 : 100), ".", version % 100);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclLibrary>> NcclLibrary::Open(const std::string& path) {
  const std::vector<std::string> files =
      path.empty() ? std::vector<std::string>{"libnccl.so.2", "libnccl.so"}
                   : std::vector<std::string>{path};
  ASSIGN_OR_RETURN(void* const handle, OpenFirst(files));
  ASSIGN_OR_RETURN(const nccl::Api api, FindAll(handle));
  int version = 0;
  if (const nccl::Result result = api.GetVersion(&version); result != nccl::Result::kSuccess) {
    return absl::UnavailableError(
        absl::StrCat("NCCL: ", files[0], ": no version: ", api.GetErrorString(result)));
  }
  if (version < kMinVersion) {
    return absl::UnavailableError(absl::StrCat("NCCL: ", files[0], " is version ",
                                               VersionText(version), ", at least ",
                                               VersionText(kMinVersion), " is needed"));
  }
  return std::unique_ptr<NcclLibrary>(new NcclLibrary(api, version));
}

std::string NcclLibrary::version_text() const { return VersionText(version_); }

absl::StatusOr<NcclId> NcclLibrary::MakeId() const {
  nccl::UniqueId unique_id;
  if (const nccl::Result result = api_.GetUniqueId(&unique_id); result != nccl::Result::kSuccess) {
    return Error("NCCL: ncclGetUniqueId", result, nullptr);
  }
  NcclId id;
  static_assert(sizeof(id) == sizeof(unique_id));
  std::memcpy(id.data(), &unique_id, sizeof(id));
  return id;
}

absl::Status NcclLibrary::Error(absl::string_view what, nccl::Result result, ncclComm* comm) const {
  const char* const last = api_.GetLastError(comm);
  std::string message = absl::StrCat(what, ": ", api_.GetErrorString(result));
  if (last != nullptr && last[0] != '\0') absl::StrAppend(&message, " (", last, ")");
  const bool is_unavailable =
      result == nccl::Result::kRemoteError || result == nccl::Result::kSystemError;
  return absl::Status(is_unavailable ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
                      message);
}

}  // namespace bora
