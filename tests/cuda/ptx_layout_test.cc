// The instructions of kernels/cuda/runtime/ptx.h: layouts against the tables of the PTX ISA,
// products against float64. On the CPU this tests what stands in for them, on a GPU that both are
// the same.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/cuda/cuda_testing.h"
#include "tests/cuda_host/ptx_kernels.h"
#include "tests/kernels/op_testing.h"

namespace bora {
namespace {

class CudaPtxTest : public CudaTest {};
INSTANTIATE_TEST_SUITE_P(, CudaPtxTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

uint32_t Pack(uint16_t low, uint16_t high) { return low | uint32_t{high} << 16; }

TEST_P(CudaPtxTest, LoadMatricesFollowsTheTable) {
  std::vector<uint16_t> elements(32 * 8);
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<uint16_t>(i);
  const DeviceArray<uint16_t> elements_on_device(elements);
  DeviceArray<uint32_t> loaded(32 * 4);
  cuda_host::RunLoadMatrices(Device(), false, elements_on_device.data(), loaded.data());
  std::vector<uint32_t> out = loaded.ToHost();
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const int i = m * 64 + lane / 4 * 8 + lane % 4 * 2;
      EXPECT_EQ(out[lane * 4 + m], Pack(elements[i], elements[i + 1]));
    }
  }
  cuda_host::RunLoadMatrices(Device(), true, elements_on_device.data(), loaded.data());
  out = loaded.ToHost();
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const int i = m * 64 + lane % 4 * 2 * 8 + lane / 4;
      EXPECT_EQ(out[lane * 4 + m], Pack(elements[i], elements[i + 8]));
    }
  }
}

// Where element i of a lane's fragment lies, in the words of the PTX ISA (9.7.14, m16n8k16 with
// 16-bit types): groupID = laneid >> 2, threadID_in_group = laneid % 4.
int RowOfA(int lane, int i) { return (i < 2 || (i >= 4 && i < 6)) ? lane >> 2 : (lane >> 2) + 8; }
int ColOfA(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8); }
int RowOfB(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8); }
int ColOfB(int lane, int) { return lane >> 2; }
int RowOfC(int lane, int i) { return i < 2 ? lane >> 2 : (lane >> 2) + 8; }
int ColOfC(int lane, int i) { return lane % 4 * 2 + (i & 1); }

struct Tile {
  std::vector<Bf16> a;   // [16, 16]
  std::vector<Bf16> b;   // [16, 8]
  std::vector<float> c;  // [16, 8]

  explicit Tile(uint64_t seed)
      : a(ToBf16s(RandomFloats(16 * 16, seed))),
        b(ToBf16s(RandomFloats(16 * 8, seed + 100))),
        c(RandomFloats(16 * 8, seed + 200)) {}

  // Compares one element of c + A B. An instruction may truncate, as kernels/matmul.h counts it.
  void Check(WorstRatio& worst, int row, int col, float start, float got) const {
    double want = start, magnitude = std::abs(start);
    for (int k = 0; k < 16; ++k) {
      const double product = double{ToFloat(a[row * 16 + k])} * ToFloat(b[k * 8 + col]);
      want += product;
      magnitude += std::abs(product);
    }
    worst.Add(got, want, (2 * 16 + 1) * 0x1p-23 * magnitude);
  }
};

TEST_P(CudaPtxTest, MultiplyFollowsTheTables) {
  WorstRatio worst("mma");
  for (uint64_t seed : {1, 2, 3}) {
    const Tile tile(seed);
    std::vector<uint32_t> a(32 * 4), b(32 * 2);
    std::vector<float> c(32 * 4);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; i += 2) {
        a[lane * 4 + i / 2] = Pack(tile.a[RowOfA(lane, i) * 16 + ColOfA(lane, i)].bits,
                                   tile.a[RowOfA(lane, i + 1) * 16 + ColOfA(lane, i + 1)].bits);
      }
      for (int i = 0; i < 4; i += 2) {
        b[lane * 2 + i / 2] = Pack(tile.b[RowOfB(lane, i) * 8 + ColOfB(lane, i)].bits,
                                   tile.b[RowOfB(lane, i + 1) * 8 + ColOfB(lane, i + 1)].bits);
      }
      for (int i = 0; i < 4; ++i) {
        c[lane * 4 + i] = tile.c[RowOfC(lane, i) * 8 + ColOfC(lane, i)];
      }
    }
    const DeviceArray<uint32_t> a_on_device(a), b_on_device(b);
    DeviceArray<float> c_on_device(c);
    cuda_host::RunMultiply(Device(), a_on_device.data(), b_on_device.data(), c_on_device.data());
    c = c_on_device.ToHost();
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = RowOfC(lane, i), col = ColOfC(lane, i);
        tile.Check(worst, row, col, tile.c[row * 8 + col], c[lane * 4 + i]);
      }
    }
  }
}

TEST_P(CudaPtxTest, TileThroughSharedMemoryIsTheProduct) {
  WorstRatio worst("tile");
  for (uint64_t seed : {4, 5, 6}) {
    const Tile tile(seed);
    std::vector<Bf16> b_transposed(8 * 16);
    for (int i = 0; i < 8 * 16; ++i) b_transposed[i] = tile.b[i % 16 * 8 + i / 16];
    const DeviceArray<Bf16> a_on_device(tile.a), b_on_device(b_transposed);
    DeviceArray<float> d_on_device(16 * 8);
    cuda_host::RunTile(Device(), a_on_device.data(), b_on_device.data(), d_on_device.data());
    const std::vector<float> d = d_on_device.ToHost();
    for (int i = 0; i < 16 * 8; ++i) tile.Check(worst, i / 8, i % 8, 0, d[i]);
  }
}

}  // namespace
}  // namespace bora
