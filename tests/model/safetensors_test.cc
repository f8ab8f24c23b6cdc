// A well-formed file reads back; each way of being malformed is refused with a message that names
// the file and the problem, quickly and without large allocations.
#include "model/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <functional>

#include "absl/time/clock.h"
#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Two tensors that fill 24 bytes of data.
constexpr char kGoodHeader[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}})";

std::string Good() { return SafetensorsBytes(kGoodHeader, 24); }

// One tensor "a" with these fields as JSON text.
std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t n_data_bytes) {
  return SafetensorsBytes(absl::StrCat(R"({"a":{"dtype":)", dtype, R"(,"shape":)", shape,
                                       R"(,"data_offsets":)", offsets, "}}"),
                          n_data_bytes);
}

// Two F32 vectors of 4 bytes each at these offsets.
std::string Two(const std::string& a_offsets, const std::string& b_offsets, size_t n_data_bytes) {
  return SafetensorsBytes(
      absl::StrCat(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)", a_offsets,
                   R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)", b_offsets, "}}"),
      n_data_bytes);
}

std::string Repeated(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

struct MalformedCase {
  const char* name;
  std::string bytes;
  const char* message;  // must be part of the error
};

std::vector<MalformedCase> LengthCases() {
  return {
      {"empty_file", "", "file is empty"},
      {"seven_bytes", std::string(7, '\1'), "file of 7 bytes has no room"},
      {"length_0", LittleEndian64(0) + "{}", "header of 0 bytes does not start with '{'"},
      {"length_1", LittleEndian64(1) + "{}", "header is not valid JSON"},
      {"length_1_no_brace", LittleEndian64(1) + "}", "does not start with '{'"},
      {"length_is_file", LittleEndian64(10) + "{}", "header length is 10, the file has 2"},
      {"length_file_plus_1", LittleEndian64(3) + "{}", "header length is 3, the file has 2"},
      {"length_100mb", LittleEndian64(100'000'000) + "{}", "the file has 2 bytes left"},
      {"length_over_100mb", LittleEndian64(100'000'001) + "{}",
       "header length is 100000001, the limit is 100000000"},
      {"length_2_32", LittleEndian64(uint64_t{1} << 32) + "{}", "the limit is 100000000"},
      {"length_2_63", LittleEndian64(uint64_t{1} << 63) + "{}",
       "header length is 9223372036854775808"},
      {"length_max", LittleEndian64(~uint64_t{0}) + "{}", "header length is 18446744073709551615"},
      {"length_max_minus_7", LittleEndian64(~uint64_t{0} - 7) + "{}", "the limit is 100000000"},
      {"length_cuts_header", LittleEndian64(20) + kGoodHeader, "header is not valid JSON"},
      {"length_eats_data",
       LittleEndian64(sizeof(kGoodHeader) + 3) + kGoodHeader + std::string(24, '\0'),
       "it holds a NUL byte"},
  };
}

std::vector<MalformedCase> JsonCases() {
  return {
      {"array", SafetensorsBytes("[]", 0), "does not start with '{'"},
      {"string", SafetensorsBytes("\"x\"", 0), "does not start with '{'"},
      {"leading_space", SafetensorsBytes(" {}", 0), "does not start with '{'"},
      {"byte_order_mark", SafetensorsBytes("\xEF\xBB\xBF{}", 0), "does not start with '{'"},
      {"not_json", SafetensorsBytes("{a:1}", 0), "header is not valid JSON at byte"},
      {"unfinished", SafetensorsBytes("{\"a\":", 0), "header is not valid JSON"},
      {"trailing_comma", SafetensorsBytes("{\"__metadata__\":{},}", 0), "not valid JSON"},
      {"second_value", SafetensorsBytes("{}{}", 0), "not valid JSON"},
      {"nul_padding", SafetensorsBytes(std::string("{}\0\0", 4), 0), "it holds a NUL byte"},
      {"bad_utf8_name", SafetensorsBytes("{\"\xff\xfe\":{}}", 0), "not valid JSON"},
      {"bad_utf8_outside", SafetensorsBytes("{\xc3\x28}", 0), "not valid JSON"},
      {"lone_surrogate", SafetensorsBytes(R"({"\ud800":{}})", 0), "not valid JSON"},
      {"number_too_large", One("\"F32\"", "[1e999]", "[0,4]", 4), "not valid JSON"},
      {"deep_arrays", One("\"F32\"", Repeated("[", 100'000), "[0,4]", 4), "shape holds an array"},
      {"deep_objects", SafetensorsBytes(Repeated("{\"a\":", 100'000), 0), "unknown field"},
      {"tensor_is_null", SafetensorsBytes(R"({"a":null})", 0), R"(tensor "a": is null)"},
      {"tensor_is_number", SafetensorsBytes(R"({"a":1})", 0), "is the number 1, must be an object"},
      {"tensor_is_array", SafetensorsBytes(R"({"a":[]})", 0), "is an array, must be an object"},
      {"tensor_is_string", SafetensorsBytes(R"({"a":"x"})", 0), "is a string, must be an object"},
      {"metadata_number", SafetensorsBytes(R"({"__metadata__":{"x":1}})", 0),
       "only strings are allowed"},
      {"metadata_object", SafetensorsBytes(R"({"__metadata__":{"x":{}}})", 0),
       "only strings are allowed"},
      {"metadata_twice", SafetensorsBytes(R"({"__metadata__":{},"__metadata__":{}})", 0),
       R"(tensor "__metadata__": appears twice)"},
      {"metadata_key_twice", SafetensorsBytes(R"({"__metadata__":{"x":"1","x":"2"}})", 0),
       R"(key "x" twice)"},
      {"tensor_twice",
       SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                        R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                        8),
       R"(tensor "a": appears twice)"},
      {"tensor_twice_escaped",
       SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                        R"("\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                        8),
       R"(tensor "a": appears twice)"},
      {"field_twice",
       SafetensorsBytes(R"({"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}})",
                        4),
       R"(tensor "a": key "dtype" twice)"},
      {"unknown_field",
       SafetensorsBytes(R"({"a":{"dtype":"F32","strides":[1],"shape":[1],"data_offsets":[0,4]}})",
                        4),
       R"(unknown field "strides")"},
      {"name_too_long", SafetensorsBytes(absl::StrCat("{\"", std::string(2000, 'x'), "\":{}}"), 0),
       "name of 2000 bytes, the limit is 1024"},
      {"hostile_name", SafetensorsBytes("{\"a\\n\\u001b[31m\":{}}", 0), R"(\n\u001b[31m)"},
  };
}

std::vector<MalformedCase> FieldCases() {
  return {
      {"no_dtype", SafetensorsBytes(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4),
       R"(tensor "a": has no dtype)"},
      {"no_shape", SafetensorsBytes(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       "has no shape"},
      {"no_offsets", SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1]}})", 4),
       "has no data_offsets"},
      {"empty_tensor", SafetensorsBytes(R"({"a":{}})", 0), "has no dtype"},
      {"unknown_dtype", One("\"F31\"", "[1]", "[0,4]", 4), R"(dtype "F31" is not known)"},
      {"lower_case_dtype", One("\"f32\"", "[1]", "[0,4]", 4), R"(dtype "f32" is not known)"},
      {"dtype_number", One("32", "[1]", "[0,4]", 4), "dtype is the number 32"},
      {"dtype_array", One("[\"F32\"]", "[1]", "[0,4]", 4), "dtype is an array"},
      {"rank_9", One("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]", 4), "more than 8 dimensions"},
      {"rank_33", One("\"F32\"", "[" + Repeated("1,", 32) + "1]", "[0,4]", 4),
       "more than 8 dimensions"},
      {"zero_dimension", One("\"F32\"", "[0]", "[0,0]", 0), "dimension 0 of its shape is 0"},
      {"zero_second_dimension", One("\"F32\"", "[4,0]", "[0,0]", 0), "dimension 1 of its shape is"},
      {"negative_dimension", One("\"F32\"", "[-1]", "[0,4]", 4), "shape holds the number -1"},
      {"fraction_dimension", One("\"F32\"", "[1.0]", "[0,4]", 4), "shape holds the number 1.0"},
      {"huge_dimension", One("\"F32\"", "[9223372036854775808]", "[0,4]", 4), "larger than 2^63"},
      {"larger_than_64_bits", One("\"F32\"", "[99999999999999999999]", "[0,4]", 4),
       "shape holds the number 99999999999999999999"},
      {"string_dimension", One("\"F32\"", "[\"1\"]", "[0,4]", 4), "shape holds a string"},
      {"null_dimension", One("\"F32\"", "[null]", "[0,4]", 4), "shape holds null"},
      {"bool_dimension", One("\"F32\"", "[true]", "[0,4]", 4), "shape holds a boolean"},
      {"object_dimension", One("\"F32\"", "[{}]", "[0,4]", 4), "shape holds an object"},
      {"shape_number", One("\"F32\"", "1", "[0,4]", 4), "shape is the number 1"},
      {"offsets_number", One("\"F32\"", "[1]", "4", 4), "data_offsets is the number 4"},
      {"no_offset", One("\"F32\"", "[1]", "[]", 4), "data_offsets has 0 numbers"},
      {"one_offset", One("\"F32\"", "[1]", "[0]", 4), "data_offsets has 1 numbers"},
      {"three_offsets", One("\"F32\"", "[1]", "[0,4,8]", 4), "more than 2 numbers"},
      {"negative_offset", One("\"F32\"", "[1]", "[-4,0]", 4), "data_offsets holds the number -4"},
      {"fraction_offset", One("\"F32\"", "[1]", "[0,4.5]", 4), "data_offsets holds the number 4.5"},
      {"string_offset", One("\"F32\"", "[1]", "[\"0\",4]", 4), "data_offsets holds a string"},
  };
}

std::vector<MalformedCase> RangeCases() {
  return {
      {"reversed", One("\"F32\"", "[1]", "[4,0]", 4), "begins at byte 4 but ends at 0"},
      {"past_end", One("\"F32\"", "[2]", "[0,8]", 4), "ends at byte 8, the data has 4"},
      {"past_end_by_1", One("\"F32\"", "[1]", "[1,5]", 4), "ends at byte 5, the data has 4"},
      {"huge_end", One("\"F32\"", "[1]", "[0,18446744073709551615]", 4),
       "ends at byte 18446744073709551615"},
      {"huge_both", One("\"F32\"", "[1]", "[18446744073709551612,18446744073709551615]", 4),
       "the data has 4"},
      {"too_few_bytes", One("\"F32\"", "[2]", "[0,4]", 4), "takes 8 bytes, data_offsets say 4"},
      {"too_many_bytes", One("\"F32\"", "[1]", "[0,8]", 8), "takes 4 bytes, data_offsets say 8"},
      {"scalar_too_long", One("\"F32\"", "[]", "[0,8]", 8), "takes 4 bytes, data_offsets say 8"},
      {"wrong_dtype_width", One("\"F64\"", "[1]", "[0,4]", 4), "F64 of shape [1] takes 8 bytes"},
      {"product_overflows", One("\"F32\"", "[4294967296,4294967296]", "[0,4]", 4),
       "overflows 64 bits"},
      {"product_overflows_to_4", One("\"F32\"", "[4611686018427387905]", "[0,4]", 4),
       "overflows 64 bits"},
      {"product_overflows_to_0", One("\"F32\"", "[4294967296,4294967296,4]", "[0,0]", 0),
       "overflows 64 bits"},
      {"width_overflows", One("\"I64\"", "[2305843009213693952]", "[0,0]", 0), "overflows 64 bits"},
      {"eight_factors", One("\"U8\"", "[256,256,256,256,256,256,256,256]", "[0,0]", 0),
       "overflows 64 bits"},
      {"hole_at_start", Two("[4,8]", "[8,12]", 12),
       R"(tensor "a": begins at byte 4, which leaves)"},
      {"hole_between", Two("[0,4]", "[8,12]", 12), R"(tensor "b": begins at byte 8, which leaves)"},
      {"overlap", Two("[0,4]", "[2,6]", 6), R"(tensor "b": begins at byte 2 and overlaps)"},
      {"same_bytes", Two("[0,4]", "[0,4]", 4), "begins at byte 0 and overlaps"},
      {"overlap_out_of_order", Two("[2,6]", "[0,4]", 6), R"(tensor "a": begins at byte 2 and)"},
      {"trailing_byte", Good() + '\0', "the tensors end at byte 24 of the data, which has 25"},
      {"data_without_tensors", SafetensorsBytes("{}", 5), "end at byte 0 of the data, which has 5"},
  };
}

std::vector<MalformedCase> AllCases() {
  std::vector<MalformedCase> cases;
  for (const auto& group : {LengthCases(), JsonCases(), FieldCases(), RangeCases()}) {
    cases.insert(cases.end(), group.begin(), group.end());
  }
  return cases;
}

class MalformedSafetensorsTest : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(MalformedSafetensorsTest, IsRefusedNamingFileAndProblem) {
  const TempDir dir;
  const std::string path = dir.File("model.safetensors");
  WriteFile(path, GetParam().bytes);
  const absl::Time start = absl::Now();
  const auto file = SafetensorsFile::Open(path);
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file.status().message()), StartsWith(path + ": "));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(GetParam().message));
  EXPECT_LT(file.status().message().size(), path.size() + 500);
}

INSTANTIATE_TEST_SUITE_P(Corpus, MalformedSafetensorsTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsTest, CorpusHasAtLeastSixtyCases) { EXPECT_GE(AllCases().size(), 60u); }

TEST(SafetensorsTest, ReadsAWellFormedFile) {
  const TempDir dir;
  std::string bytes = Good();
  bytes[bytes.size() - 24] = 'x';
  bytes[bytes.size() - 1] = 'y';
  WriteFile(dir.File("m.safetensors"), bytes);
  auto opened = SafetensorsFile::Open(dir.File("m.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  const SafetensorsFile file = *std::move(opened);
  ASSERT_EQ(file.tensors().size(), 2u);
  const TensorInfo* a = file.Find("a");
  const TensorInfo* b = file.Find("b");
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(file.Find("__metadata__"), nullptr);
  EXPECT_EQ(a->dtype, FileDType::kF32);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(file.Bytes(*a).size(), 16u);
  EXPECT_EQ(file.Bytes(*a)[0], 'x');
  EXPECT_EQ(b->dtype, FileDType::kBf16);
  EXPECT_EQ(file.Bytes(*b).size(), 8u);
  EXPECT_EQ(file.Bytes(*b)[7], 'y');
}

TEST(SafetensorsTest, AcceptsTensorsListedInAnyOrder) {
  const std::string bytes = Two("[4,8]", "[0,4]", 8);
  const auto header =
      ParseSafetensorsHeader({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[0].name, "b");
  EXPECT_EQ(header->tensors[1].name, "a");
}

TEST(SafetensorsTest, AcceptsScalarsEmptyFilesAndPaddedHeaders) {
  for (const std::string& bytes :
       {One("\"F32\"", "[]", "[0,4]", 4), SafetensorsBytes("{}", 0), SafetensorsBytes("{}   ", 0),
        One("\"F8_E4M3\"", "[1,1,1,1,1,1,1,4]", "[0,4]", 4)}) {
    const auto header =
        ParseSafetensorsHeader({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    EXPECT_TRUE(header.ok()) << header.status();
  }
}

TEST(SafetensorsTest, RefusesAFileTruncatedAnywhere) {
  const std::string good = Good();
  const TempDir dir;
  const std::string path = dir.File("m.safetensors");
  for (size_t sixteenth = 0; sixteenth < 16; ++sixteenth) {
    WriteFile(path, good.substr(0, good.size() * sixteenth / 16));
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok()) << sixteenth;
    EXPECT_THAT(std::string(file.status().message()), StartsWith(path + ": ")) << sixteenth;
  }
  for (size_t n = 0; n < good.size(); ++n) {
    const auto header = ParseSafetensorsHeader({reinterpret_cast<const uint8_t*>(good.data()), n});
    EXPECT_FALSE(header.ok()) << n << " of " << good.size() << " bytes";
  }
}

TEST(SafetensorsTest, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::Open(dir.File("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(SafetensorsFile::Open(dir.path()).status().message()),
              HasSubstr("not a regular file"));
  const std::string fifo = dir.File("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(std::string(SafetensorsFile::Open(fifo).status().message()),
              HasSubstr("not a regular file"));
}

// A header of 100,000,000 bytes inside a larger, sparse file: refused at its first byte.
TEST(SafetensorsTest, RefusesAHugeHeaderWithoutReadingIt) {
  const TempDir dir;
  const std::string path = dir.File("m.safetensors");
  WriteFile(path, LittleEndian64(100'000'000));
  std::filesystem::resize_file(path, 200'000'000);
  struct rusage before;
  struct rusage after;
  getrusage(RUSAGE_SELF, &before);
  const auto file = SafetensorsFile::Open(path);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("does not start with '{'"));
  EXPECT_LE(after.ru_maxrss - before.ru_maxrss, 16 * 1024);  // KiB
}

// 4 MB of header that names more tensors than any model has: the list stays bounded.
TEST(SafetensorsTest, BoundsTheNumberOfTensors) {
  std::string header = "{";
  for (int i = 0; i <= 100'000; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i,
                    R"(":{"dtype":"U8","shape":[1],"data_offsets":[)", i, ",", i + 1, "]}");
  }
  const std::string bytes = SafetensorsBytes(header + "}", 100'001);
  const auto parsed =
      ParseSafetensorsHeader({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("more than 100000 tensors"));
}

}  // namespace
}  // namespace bora
