// The part of NCCL's interface that is used, declared here because nccl.h comes only with the CUDA
// Toolkit, while programs that were built without the toolkit open the library too.
// tests/gpu/nccl_abi_test.cc compares these declarations with the header.
#pragma once

#include <climits>
#include <cstddef>

// These have CUDA's and NCCL's own names, so that the pointers to them are of the same type as
// theirs.
struct CUstream_st;
struct ncclComm;

namespace bora::nccl {

// ncclResult_t
enum class Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

// ncclDataType_t
enum class DataType : int { kUint8 = 1, kFloat32 = 7 };

// ncclRedOp_t
enum class RedOp : int { kSum = 0 };

// ncclUniqueId
struct UniqueId {
  char internal[128];
};

// The value of an attribute that leaves the choice to NCCL.
inline constexpr int kUndefined = INT_MIN;

// The front of ncclConfig_t, as of version 2.27. `size` tells a library which attributes the caller
// knows; it takes those that it knows itself and uses its own defaults for newer ones.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 22700;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
  int traffic_class = kUndefined;
  const char* comm_name = nullptr;
  int collnet_enable = kUndefined;
  int cta_policy = kUndefined;
  int shrink_share = kUndefined;
  int nvls_ctas = kUndefined;
};

// The NCCL functions in use. A member has the function's name without "nccl".
struct Api {
  Result (*GetVersion)(int* version) = nullptr;
  Result (*GetUniqueId)(UniqueId* id) = nullptr;
  Result (*CommInitRankConfig)(ncclComm** comm, int n_ranks, UniqueId id, int rank,
                               Config* config) = nullptr;
  Result (*CommDestroy)(ncclComm* comm) = nullptr;
  Result (*CommAbort)(ncclComm* comm) = nullptr;
  Result (*CommGetAsyncError)(ncclComm* comm, Result* error) = nullptr;
  const char* (*GetErrorString)(Result result) = nullptr;
  const char* (*GetLastError)(ncclComm* comm) = nullptr;
  Result (*GroupStart)() = nullptr;
  Result (*GroupEnd)() = nullptr;
  Result (*AllReduce)(const void* send, void* recv, size_t count, DataType type, RedOp op,
                      ncclComm* comm, CUstream_st* stream) = nullptr;
  Result (*AllGather)(const void* send, void* recv, size_t send_count, DataType type,
                      ncclComm* comm, CUstream_st* stream) = nullptr;
  Result (*Broadcast)(const void* send, void* recv, size_t count, DataType type, int root,
                      ncclComm* comm, CUstream_st* stream) = nullptr;
  Result (*Send)(const void* data, size_t count, DataType type, int peer, ncclComm* comm,
                 CUstream_st* stream) = nullptr;
  Result (*Recv)(void* data, size_t count, DataType type, int peer, ncclComm* comm,
                 CUstream_st* stream) = nullptr;
};

}  // namespace bora::nccl
