// The declarations of kernels/nccl/nccl_abi.h are those of NCCL's header.
#include "kernels/nccl/nccl_abi.h"

#include <gtest/gtest.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

namespace bora {
namespace {

// Whether a caller that believes in Ours may call a function of Theirs: the same types,
// enumerations of the same width, and structures of the same size that are passed as memory.
template <typename Ours, typename Theirs>
struct IsSame : std::is_same<Ours, Theirs> {};
template <typename Ours, typename Theirs>
requires(std::is_enum_v<Ours>&& std::is_enum_v<Theirs>) struct IsSame<Ours, Theirs>
    : std::bool_constant<sizeof(Ours) == sizeof(Theirs)> {
};
template <>
struct IsSame<nccl::UniqueId, ncclUniqueId>
    : std::bool_constant<sizeof(nccl::UniqueId) == sizeof(ncclUniqueId) &&
                         alignof(nccl::UniqueId) == alignof(ncclUniqueId) &&
                         std::is_trivially_copyable_v<nccl::UniqueId>> {};
template <>
struct IsSame<nccl::Config, ncclConfig_t> : std::true_type {};  // compared below
template <typename Ours, typename Theirs>
struct IsSame<Ours*, Theirs*> : IsSame<Ours, Theirs> {};
template <typename Ours, typename Theirs>
struct IsSame<const Ours, const Theirs> : IsSame<Ours, Theirs> {};
template <typename Our, typename... Ours, typename Their, typename... Theirs>
requires(sizeof...(Ours) == sizeof...(Theirs)) struct IsSame<Our(Ours...), Their(Theirs...)>
    : std::bool_constant<IsSame<Our, Their>::value && (IsSame<Ours, Theirs>::value && ...)> {
};

#define EXPECT_SAME_FUNCTION(name) \
  static_assert(IsSame<decltype(nccl::Api::name), decltype(&nccl##name)>::value, #name)
EXPECT_SAME_FUNCTION(GetVersion);
EXPECT_SAME_FUNCTION(GetUniqueId);
EXPECT_SAME_FUNCTION(CommInitRankConfig);
EXPECT_SAME_FUNCTION(CommDestroy);
EXPECT_SAME_FUNCTION(CommAbort);
EXPECT_SAME_FUNCTION(CommGetAsyncError);
EXPECT_SAME_FUNCTION(GetErrorString);
EXPECT_SAME_FUNCTION(GetLastError);
EXPECT_SAME_FUNCTION(GroupStart);
EXPECT_SAME_FUNCTION(GroupEnd);
EXPECT_SAME_FUNCTION(AllReduce);
EXPECT_SAME_FUNCTION(AllGather);
EXPECT_SAME_FUNCTION(Broadcast);
EXPECT_SAME_FUNCTION(Send);
EXPECT_SAME_FUNCTION(Recv);

static_assert(static_cast<int>(nccl::Result::kSuccess) == ncclSuccess);
static_assert(static_cast<int>(nccl::Result::kUnhandledCudaError) == ncclUnhandledCudaError);
static_assert(static_cast<int>(nccl::Result::kSystemError) == ncclSystemError);
static_assert(static_cast<int>(nccl::Result::kInternalError) == ncclInternalError);
static_assert(static_cast<int>(nccl::Result::kInvalidArgument) == ncclInvalidArgument);
static_assert(static_cast<int>(nccl::Result::kInvalidUsage) == ncclInvalidUsage);
static_assert(static_cast<int>(nccl::Result::kRemoteError) == ncclRemoteError);
static_assert(static_cast<int>(nccl::Result::kInProgress) == ncclInProgress);
static_assert(static_cast<int>(nccl::DataType::kUint8) == ncclUint8);
static_assert(static_cast<int>(nccl::DataType::kFloat32) == ncclFloat32);
static_assert(static_cast<int>(nccl::RedOp::kSum) == ncclSum);

// The header may be of another version than what Config is of: it has at least the front that is
// set here.
static_assert(offsetof(nccl::Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(nccl::Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(nccl::Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(nccl::Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(nccl::Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(nccl::Config, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(nccl::Config, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(nccl::Config, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(nccl::Config, split_share) == offsetof(ncclConfig_t, splitShare));
#if NCCL_VERSION_CODE >= 22700
static_assert(offsetof(nccl::Config, traffic_class) == offsetof(ncclConfig_t, trafficClass));
static_assert(offsetof(nccl::Config, comm_name) == offsetof(ncclConfig_t, commName));
static_assert(offsetof(nccl::Config, collnet_enable) == offsetof(ncclConfig_t, collnetEnable));
static_assert(offsetof(nccl::Config, cta_policy) == offsetof(ncclConfig_t, CTAPolicy));
static_assert(offsetof(nccl::Config, shrink_share) == offsetof(ncclConfig_t, shrinkShare));
static_assert(offsetof(nccl::Config, nvls_ctas) == offsetof(ncclConfig_t, nvlsCTAs));
static_assert(sizeof(nccl::Config) <= sizeof(ncclConfig_t));
#endif

TEST(NcclAbiTest, ConfigStartsAsTheHeaderSays) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const nccl::Config ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(ours.blocking, theirs.blocking);
  EXPECT_EQ(ours.max_ctas, theirs.maxCTAs);
  EXPECT_EQ(ours.net_name, theirs.netName);
}

}  // namespace
}  // namespace bora
