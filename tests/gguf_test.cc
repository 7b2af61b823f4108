// The reader: what it accepts, and that it rejects the rest with the right
// byte. The names of cases are those of the project's policy for hostile files.
#include "dequant/gguf.h"

#include <gtest/gtest.h>
#ifndef _WIN32
#include <sys/stat.h>
#endif

#include <chrono>
#include <functional>

#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

constexpr uint64_t k2p32 = uint64_t{1} << 32;
constexpr uint64_t k2p63 = uint64_t{1} << 63;
constexpr uint64_t kMax = ~uint64_t{0};

std::string Arr(uint32_t type, uint64_t count, std::string rest = "") {
  return Bytes(type) + Bytes(count) + rest;
}

class GgufTest : public testing::Test {
 protected:
  std::string Path(std::string_view bytes) {
    const std::string path = dir_ / "model.gguf";
    WriteFile(path, bytes);
    return path;
  }
  GgufFile Open(std::string_view bytes) { return GgufFile::Open(Path(bytes)); }

  /// Expects an error that names the file, the byte and, somewhere, `mention`.
  void ExpectReject(const std::string& name, std::string_view bytes,
                    int64_t offset, std::string_view mention) {
    const std::string path = Path(bytes);
    try {
      GgufFile::Open(path);
      ADD_FAILURE() << name << ": accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.file(), path) << name;
      if (offset >= 0) {
        EXPECT_EQ(e.offset(), offset) << name << ": " << e.what();
      }
      const std::string_view what = e.what();
      EXPECT_NE(what.find(mention), what.npos) << name << ": " << what;
      EXPECT_EQ(what.find('\n'), what.npos) << name;
    }
  }

  TempDir dir_;
};

TEST_F(GgufTest, ReadsEveryField) {
  GgufBuilder b = Baseline();
  const std::string bytes = b.Build();
  const GgufFile f = Open(bytes);
  EXPECT_EQ(f.version(), 3u);
  EXPECT_EQ(f.alignment(), 32u);
  EXPECT_EQ(f.size(), bytes.size());
  EXPECT_TRUE(f.warnings().empty());
  ASSERT_EQ(f.metadata().size(), 6u);
  EXPECT_EQ(f.Find("general.architecture")->AsString(), "test");
  EXPECT_EQ(f.Find("test.flag")->AsUint(), 1u);
  EXPECT_EQ(f.Find("test.float")->AsFloat(), 1.5);
  EXPECT_EQ(f.Find("test.words")->AsStrings(),
            (std::vector<std::string_view>{"one", "", "three"}));
  EXPECT_EQ(f.Find("test.numbers")->AsUint(2), 65535u);
  EXPECT_EQ(f.Find("test.numbers")->offset, b.At("kv5"));
  EXPECT_EQ(f.Find("test"), nullptr);

  ASSERT_EQ(f.tensors().size(), 3u);
  const TensorInfo& t = f.tensors()[0];
  EXPECT_EQ(t.name, "quant.weight");
  EXPECT_EQ(t.type->name, "Q8_0");
  EXPECT_EQ(t.dims, (std::vector<uint64_t>{64, 3}));
  EXPECT_EQ(t.elements, 192u);
  EXPECT_EQ(t.bytes, 6u * 34);
  EXPECT_EQ(t.offset, b.At("t0.data"));
  EXPECT_EQ(t.table_offset, b.At("t0"));
  EXPECT_EQ(f.FindTensor("bytes"), &f.tensors()[2]);
  EXPECT_EQ(f.FindTensor("absent"), nullptr);
  for (size_t i = 0; i < 3; ++i) {
    const TensorInfo& info = f.tensors()[i];
    std::vector<uint8_t> data(info.bytes);
    f.Read(info, 0, data);
    const std::string_view want =
        std::string_view(bytes).substr(info.offset, info.bytes);
    EXPECT_TRUE(std::equal(data.begin(), data.end(),
                           reinterpret_cast<const uint8_t*>(want.data())));
    const auto mapped = f.Map(info);
    EXPECT_TRUE(std::equal(data.begin(), data.end(), mapped.begin()));
  }
  std::vector<uint8_t> part(10);
  f.Read(t, 194, part);
  EXPECT_EQ(part[9], static_cast<uint8_t>(bytes[t.offset + 203]));
  EXPECT_THROW(f.Read(t, 195, part), Error);
  EXPECT_THROW(f.Read(t, kMax, part), Error);
}

TEST_F(GgufTest, EveryValueType) {
  GgufBuilder b;
  b.Kv("u8", KvType::kUint8, Bytes<uint8_t>(255))
      .Kv("i8", KvType::kInt8, Bytes<int8_t>(-128))
      .Kv("u16", KvType::kUint16, Bytes<uint16_t>(65535))
      .Kv("i16", KvType::kInt16, Bytes<int16_t>(-32768))
      .Kv("u32", KvType::kUint32, Bytes<uint32_t>(4294967295u))
      .Kv("i32", KvType::kInt32, Bytes<int32_t>(-5))
      .Kv("u64", KvType::kUint64, Bytes<uint64_t>(kMax))
      .Kv("i64", KvType::kInt64, Bytes<int64_t>(INT64_MIN))
      .Kv("f32", KvType::kFloat32, Bytes(0.1f))
      .Kv("f64", KvType::kFloat64, Bytes(0.1))
      .Kv("no", KvType::kBool, Bytes<uint8_t>(0))
      .Kv("text", "a\n'b'\x1b[1m")
      .Kv("nested", KvType::kArray,
          Arr(9, 2, Arr(4, 1, Bytes(7u)) + Arr(8, 1, Str("x"))))
      .Array<int8_t>("many", KvType::kInt8, std::vector<int8_t>(100, -1));
  const GgufFile f = Open(b.Build());
  const auto text = [&](const char* key) { return f.Find(key)->ToString(); };
  EXPECT_EQ(text("u8"), "255");
  EXPECT_EQ(text("i8"), "-128");
  EXPECT_EQ(text("u16"), "65535");
  EXPECT_EQ(text("i16"), "-32768");
  EXPECT_EQ(text("u32"), "4294967295");
  EXPECT_EQ(text("i32"), "-5");
  EXPECT_EQ(text("u64"), "18446744073709551615");
  EXPECT_EQ(text("i64"), "-9223372036854775808");
  EXPECT_EQ(text("f32"), "0.1");
  EXPECT_EQ(text("f64"), "0.1");
  EXPECT_EQ(text("no"), "false");
  EXPECT_EQ(text("text"), "\"a\\x0A\\x27b\\x27\\x1B[1m\"");
  EXPECT_EQ(text("nested"), "[[7], [\"x\"]]");
  EXPECT_EQ(f.Find("many")->ToString(2), "[-1, -1, ... 100 in all]");

  EXPECT_EQ(f.Find("u64")->AsUint(), kMax);
  EXPECT_THROW(f.Find("u64")->AsInt(), Error);
  EXPECT_EQ(f.Find("i64")->AsInt(), INT64_MIN);
  EXPECT_EQ(f.Find("i8")->AsFloat(), -128.0);
  EXPECT_THROW(f.Find("i32")->AsUint(), Error);
  EXPECT_THROW(f.Find("f32")->AsUint(), Error);
  EXPECT_THROW(f.Find("text")->AsFloat(), Error);
  EXPECT_THROW(f.Find("u8")->AsString(), Error);
  EXPECT_THROW(f.Find("many")->AsStrings(), Error);
  EXPECT_THROW(f.Find("many")->AsInt(100), Error);
  EXPECT_THROW(f.Find("u8")->AsUint(1), Error);
}

// One field of the baseline replaced: the error names the byte of that field.
TEST_F(GgufTest, RejectsABadField) {
  struct Case {
    const char* name;
    const char* mark;
    std::string value;
    const char* mention;
  };
  const auto u32 = [](uint32_t v) { return Bytes(v); };
  const auto u64 = [](uint64_t v) { return Bytes(v); };
  GgufBuilder b = Baseline();
  const std::string good = b.Build();
  const Case cases[] = {
      {"hdr_version_0", "version", u32(0), "version 0"},
      {"hdr_version_1", "version", u32(1), "version 1"},
      {"hdr_version_4", "version", u32(4), "version 4"},
      {"hdr_version_0x30000", "version", u32(0x30000), "version 196608"},
      {"hdr_version_max", "version", u32(~0u), "version 4294967295"},
      {"hdr_big_endian_gguf", "version", u32(0x03000000), "big-endian"},
      {"hdr_big_endian_v2", "version", u32(0x02000000), "big-endian"},
      {"hdr_n_tensors_minus1", "n_tensors", u64(kMax), "tensor count"},
      {"hdr_n_tensors_2p63", "n_tensors", u64(k2p63), "tensor count"},
      {"hdr_n_tensors_2p40", "n_tensors", u64(1ull << 40), "tensor count"},
      {"hdr_n_tensors_2p32", "n_tensors", u64(k2p32), "tensor count"},
      {"hdr_n_kv_minus1", "n_kv", u64(kMax), "metadata count"},
      {"hdr_n_kv_2p63", "n_kv", u64(k2p63), "metadata count"},
      {"hdr_n_kv_2p32", "n_kv", u64(k2p32), "metadata count"},
      {"hdr_n_kv_wrap_mul", "n_kv", u64(kMax / 14 + 2), "metadata count"},
      {"kv_keylen_max", "kv0", u64(kMax), "key length"},
      {"kv_keylen_2p63", "kv0", u64(k2p63), "key length"},
      {"kv_keylen_1gib_plus1", "kv0", u64((1 << 30) + 1), "key length"},
      {"kv_keylen_wrap_to_0", "kv0", u64(kMax - 7), "key length"},
      {"kv_key_empty", "kv0", u64(0), "key is empty"},
      {"kv_type_13", "kv0.type", u32(13), "13"},
      {"kv_type_14", "kv0.type", u32(14), "14"},
      {"kv_type_2p31", "kv0.type", u32(0x80000000), "2147483648"},
      {"kv_type_max", "kv0.type", u32(~0u), "4294967295"},
      {"kv_strlen_max", "kv0.value", u64(kMax), "string's length"},
      {"kv_strlen_2p63", "kv0.value", u64(k2p63), "string's length"},
      {"kv_strlen_past_eof", "kv0.value", u64(1 << 20), "string's length"},
      {"kv_bool_2", "kv2.value", Bytes<uint8_t>(2), "bool is 2"},
      {"kv_bool_255", "kv2.value", Bytes<uint8_t>(255), "bool is 255"},
      {"arr_type_13", "kv4.value", u32(13), "element type 13"},
      {"arr_type_max", "kv4.value", u32(~0u), "element type"},
      {"align_0", "kv1.value", u32(0), "power of two"},
      {"align_3", "kv1.value", u32(3), "power of two"},
      {"align_13", "kv1.value", u32(13), "is 13"},
      {"align_33", "kv1.value", u32(33), "power of two"},
      {"align_24", "kv1.value", u32(24), "power of two"},
      {"align_2097152", "kv1.value", u32(2097152), "1048576"},
      {"align_2147483648", "kv1.value", u32(0x80000000), "1048576"},
      {"align_4294967295", "kv1.value", u32(~0u), "power of two"},
      {"align_type_i32", "kv1.type", u32(5), "uint32"},
      {"align_type_f32", "kv1.type", u32(6), "uint32"},
      {"align_type_str", "kv1.type", u32(8), "uint32"},
      {"align_type_arr", "kv1.type", u32(9), "uint32"},
      {"tn_len_max", "t0", u64(kMax), "tensor name length"},
      {"tn_len_2p63", "t0", u64(k2p63), "tensor name length"},
      {"tn_empty", "t0", u64(0), "tensor name is empty"},
      {"ndims_9", "t0.rank", u32(9), "9 dimensions"},
      {"ndims_16", "t0.rank", u32(16), "16 dimensions"},
      {"ndims_1000000", "t0.rank", u32(1000000), "1000000"},
      {"ndims_max", "t0.rank", u32(~0u), "4294967295"},
      {"dim_minus1", "t0.dim0", u64(kMax), "2^63"},
      {"dim_2p63", "t0.dim0", u64(k2p63), "2^63"},
      {"row_q8_0_31", "t0.dim0", u64(31), "31 elements"},
      {"row_q8_0_33", "t0.dim0", u64(33), "32 of a Q8_0 block"},
      {"row_q8_0_1", "t0.dim0", u64(1), "1 element "},
      {"off_1", "t0.offset", u64(1), "alignment"},
      {"off_16", "t0.offset", u64(16), "alignment"},
      {"off_max", "t0.offset", u64(kMax), "alignment"},
      {"off_max_aligned", "t0.offset", u64(kMax - 31), "outside the file"},
      {"off_2p62", "t0.offset", u64(1ull << 62), "outside the file"},
      {"off_2p63", "t0.offset", u64(k2p63), "outside the file"},
      {"off_2p32", "t0.offset", u64(k2p32), "outside the file"},
      {"off_tail", "t0.offset", u64(160), "outside the file"},
      {"off_wrap_to_header", "t2.offset", u64(kMax - 63), "outside the file"},
      {"off_overlap_same", "t1.offset", u64(0), "overlaps"},
      {"off_overlap_partial", "t1.offset", u64(192), "overlaps"},
      {"off_overlap_contained", "t2.offset", u64(32), "overlaps"},
  };
  for (const Case& c : cases) {
    std::string bytes = good;
    bytes.replace(b.At(c.mark), c.value.size(), c.value);
    ExpectReject(c.name, bytes, static_cast<int64_t>(b.At(c.mark)), c.mention);
  }
}

// Whole files; the offset is that of a mark, or -1 where it is not checked.
TEST_F(GgufTest, RejectsABadFile) {
  struct Case {
    std::string name;
    std::function<void(GgufBuilder&)> make;
    std::string mark;
    uint64_t plus;
    const char* mention;
  };
  std::vector<Case> cases;
  const auto kv = [&](const char* name, const char* key, KvType type,
                      std::string value, uint64_t plus, const char* mention) {
    cases.push_back({name, [=](auto& b) { b.Kv(key, type, value); },
                     "kv0.value", plus, mention});
  };
  const auto array = [&](const char* name, std::string value, uint64_t plus,
                         const char* mention) {
    kv(name, "k", KvType::kArray, std::move(value), plus, mention);
  };
  array("arr_type_bad_len0", Arr(13, 0), 0, "element type 13");
  array("arr_len_u8_max", Arr(0, kMax), 4, "array's length");
  array("arr_len_u8_2p63", Arr(0, k2p63), 4, "array's length");
  array("arr_len_u8_2p40", Arr(0, 1ull << 40), 4, "array's length");
  array("arr_len_u16_wrap0", Arr(2, k2p63), 4, "array's length");
  array("arr_len_u32_wrap0", Arr(4, 1ull << 62), 4, "array's length");
  array("arr_len_u64_wrap0", Arr(10, 1ull << 61), 4, "array's length");
  array("arr_len_u64_wrap8", Arr(10, (1ull << 61) + 1, Bytes(1ull)), 4,
        "array's length");
  array("arr_len_f64_max", Arr(12, kMax), 4, "array's length");
  array("arr_len_str_wrap0", Arr(8, 1ull << 61), 4, "array's length");
  array("arr_len_bool_2p33", Arr(7, 1ull << 33), 4, "array's length");
  array("arr_f64_fits_count_not_bytes", Arr(12, 16, std::string(64, '\0')), 4,
        "array's length");
  array("arr_eof_minus1", Arr(4, 2, std::string(7, '\0')), 4, "array's length");
  array("arr_str_elem_len_max", Arr(8, 1, Bytes(kMax)), 12, "string's length");
  array("arr_str_elem_past_eof", Arr(8, 1, Bytes(9ull) + "12345678"), 12,
        "string's length");
  array("arr_str_zero_len_flood", Arr(8, 1000, std::string(7999, '\0')), 4,
        "array's length");
  array("arr_bool_2", Arr(7, 3, std::string("\0\1\2", 3)), 14, "bool is 2");
  array("arr_len_arr_max", Arr(9, kMax), 4, "array's length");
  array("arr_len_arr_2p60", Arr(9, 1ull << 60), 4, "array's length");
  array("arr_nested_inner_max", Arr(9, 1, Arr(0, kMax)), 16, "array's length");
  std::string nested = Arr(0, 1, "x");
  for (int depth = 1; depth < 9; ++depth) nested = Arr(9, 1, nested);
  array("arr_nested_9", nested, 8 * 12, "nested");
  std::string deep;
  for (int depth = 0; depth < 100000; ++depth) deep += Arr(9, 1);
  array("arr_nested_100000", deep, 8 * 12, "nested");
  kv("kv_strlen_eof_plus1", "k", KvType::kString, Bytes(4ull) + "abc", 0,
     "string's length");

  const auto key = [&](const char* name, std::string k, uint64_t plus,
                       const char* mention) {
    cases.push_back(
        {name, [=](auto& b) { b.Kv(k, 1u); }, "kv0", plus, mention});
  };
  key("kv_key_65536", std::string(65536, 'k'), 0, "65536 bytes");
  key("kv_key_nul", std::string("a\0b", 3), 9, "NUL");
  key("kv_key_utf8_ff", "a\xFF", 9, "UTF-8");
  key("kv_key_utf8_overlong", "\xC0\x80", 8, "UTF-8");
  key("kv_key_utf8_surrogate", "\xED\xA0\x80", 8, "UTF-8");
  key("kv_key_utf8_trunc", "ab\xE2\x82", 10, "UTF-8");
  key("kv_key_utf8_above", "\xF4\x90\x80\x80", 8, "UTF-8");

  const auto name = [&](const char* id, std::string n, uint64_t plus,
                        const char* mention) {
    cases.push_back(
        {id, [=](auto& b) { b.Tensor(n, {1}, 0); }, "t0", plus, mention});
  };
  name("tn_65536", std::string(65536, 'n'), 0, "65536 bytes");
  name("tn_nul", std::string("a\0b", 3), 9, "NUL");
  name("tn_nul_trailing", std::string("ab\0", 3), 10, "NUL");
  name("tn_utf8_ff", "\xFF", 8, "UTF-8");
  name("tn_utf8_overlong", "\xE0\x80\x80", 8, "UTF-8");
  name("tn_utf8_surrogate", "\xED\xBF\xBF", 8, "UTF-8");
  name("tn_utf8_trunc", "\xF0\x9F\x98", 8, "UTF-8");

  const auto dims = [&](const char* id, std::vector<uint64_t> d, uint32_t type,
                        const char* mark, const char* mention) {
    cases.push_back(
        {id, [=](auto& b) { b.Tensor("t", d, type, ""); }, mark, 0, mention});
  };
  dims("dims_wrap_to_0", {k2p32, k2p32}, 0, "t0.dim0", "2^63");
  dims("dims_wrap_to_0_q8", {k2p32, k2p32}, 8, "t0.dim0", "2^63");
  dims("dims_wrap_to_0_4d", {65536, 65536, 65536, 65536}, 0, "t0.dim0", "2^63");
  dims("dims_wrap_neg", {k2p32, 1ull << 31}, 24, "t0.dim0", "2^63");
  dims("dims_wrap_to_1", {kMax, kMax}, 24, "t0.dim0", "2^63");
  dims("dims_wrap_to_4", {(k2p63 >> 1) + 1, 4}, 24, "t0.dim0", "2^63");
  dims("dims_int64max_x2", {k2p63 - 1, 2}, 24, "t0.dim0", "2^63");
  dims("dims_ne_too_big", {8589934588, 8589934588}, 0, "t0.dim0", "2^63");
  dims("dims_nbytes_too_big", {1ull << 60, 2}, 27, "t0.dim0", "bytes of I64");
  dims("dims_nbytes_2p63", {1ull << 61}, 0, "t0.dim0", "bytes of F32");
  dims("dim_2p63_minus1", {k2p63 - 1}, 24, "t0.offset", "outside the file");
  dims("dims_pad_wrap", {(1ull << 62) - 1}, 0, "t0.dim0", "bytes of F32");
  dims("dims_q8_mul_wrap", {32 * (kMax / 1088 + 1)}, 8, "t0.offset",
       "outside the file");
  dims("dims_zero_hides_overflow", {0, k2p32, k2p32}, 0, "t0.dim0", "2^63");
  dims("dims_zero_then_minus1", {0, kMax}, 0, "t0.dim0", "2^63");
  dims("dims_1tib", {1ull << 38}, 0, "t0.offset", "outside the file");
  dims("dims_i32_trunc", {k2p32 + 1}, 24, "t0.offset", "outside the file");
  dims("ndims_0_q8_0", {}, 8, "t0.type", "Q8_0");
  dims("row_q4_k_255", {255}, 12, "t0.dim0", "256 of a Q4_K block");
  dims("row_q4_k_128", {128, 2}, 12, "t0.dim0", "256 of a Q4_K block");
  dims("row_total_multiple_only", {16, 16}, 12, "t0.dim0", "256");
  dims("data_absent", {8}, 0, "t0.offset", "outside the file");

  cases.push_back({"kv_dup",
                   [](auto& b) { b.Kv("a", 1u).Kv("b", 1u).Kv("a", 2u); },
                   "kv2", 0, "key 'a': occurs twice"});
  cases.push_back({"kv_dup_other_type",
                   [](auto& b) { b.Kv("a", 1u).Kv("a", "x"); }, "kv1", 0,
                   "key 'a'"});
  cases.push_back(
      {"align_dup",
       [](auto& b) {
         b.Kv("general.alignment", 32u).Kv("general.alignment", 32u);
       },
       "kv1", 0, "twice"});
  cases.push_back({"tn_dup",
                   [](auto& b) { b.Tensor("a", {1}, 0).Tensor("a", {1}, 0); },
                   "t1", 0, "tensor 'a': occurs twice"});
  cases.push_back({"tn_dup_far",
                   [](auto& b) {
                     for (int i = 0; i < 50; ++i) {
                       b.Tensor("n" + std::to_string(i), {1}, 0);
                     }
                     b.Tensor("n0", {1}, 0);
                   },
                   "t50", 0, "tensor 'n0'"});
  cases.push_back({"align_inconsistent",
                   [](auto& b) {
                     b.alignment = 1;
                     b.Tensor("a", {5}, 24).Tensor("b", {64}, 24);
                   },
                   "t1.offset", 0, "alignment 32"});
  cases.push_back({"data_short_1",
                   [](auto& b) {
                     b.pad_end = false;
                     b.Tensor("a", {9}, 24, std::string(8, 'x'));
                   },
                   "t0.offset", 0, "outside the file"});
  for (const Case& c : cases) {
    GgufBuilder b;
    c.make(b);
    const std::string bytes = b.Build();
    ExpectReject(c.name, bytes, static_cast<int64_t>(b.At(c.mark) + c.plus),
                 c.mention);
  }
}

TEST_F(GgufTest, SaysWhatAFileIsInstead) {
  const auto reject = [&](const char* name, std::string bytes,
                          const char* mention) {
    ExpectReject(name, bytes, 0, mention);
  };
  reject("hdr_empty_file", "", "empty");
  reject("hdr_one_byte", "G", "truncated");
  ExpectReject("hdr_magic_only", "GGUF", 4, "truncated");
  reject("hdr_magic_lower", "gguf" + std::string(60, '\0'), "lower case");
  reject("hdr_magic_ggml", "lmgg" + std::string(60, '\0'), "ggml");
  reject("hdr_magic_ggjt", "tjgg" + std::string(60, '\0'), "ggjt");
  reject("hdr_magic_fugg", "FUGG" + std::string(60, '\0'), "big-endian");
  reject("hdr_magic_zip", "PK\x03\x04" + std::string(60, '\0'), "ZIP");
  reject("hdr_lfs_pointer", "version https://git-lfs.github.com/spec/v1\noid",
         "git lfs pull");
  reject("hdr_html", "\n<!DOCTYPE html><html>", "HTML");
  reject("hdr_safetensors", Bytes(16ull) + "{\"a\":1}         ", "safetensors");
  reject("prefix_utf8_bom", "\xEF\xBB\xBFGGUF", "byte order mark");
  reject("prefix_7_bytes", "1234567GGUF", "starts with '1234'");
  reject("hdr_garbage", std::string("\x01\x02\x00\xFF", 4), "\\x01\\x02");
}

TEST_F(GgufTest, AcceptsOddFiles) {
  const auto accept = [&](const char* name, GgufBuilder b,
                          size_t warnings = 0) {
    SCOPED_TRACE(name);
    try {
      const GgufFile f = Open(b.Build());
      EXPECT_EQ(f.warnings().size(), warnings);
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  };
  accept("ok_header_only", GgufBuilder());
  accept("ok_kv_only", GgufBuilder().Kv("a", 1u));
  GgufBuilder v2 = Baseline();
  v2.version = 2;
  accept("ok_v2", v2);
  accept("ok_kv_key_65535", GgufBuilder().Kv(std::string(65535, 'k'), 1u));
  accept("ok_kv_key_utf8",
         GgufBuilder().Kv("schl\xC3\xBCssel \xF0\x9F\x94\x91", 1u));
  accept("ok_kv_str_empty", GgufBuilder().Kv("k", ""));
  accept("ok_kv_str_non_utf8",
         GgufBuilder().Kv("k", std::string_view("\xFF\0", 2)));
  accept("ok_kv_1mib_string", GgufBuilder().Kv("k", std::string(1 << 20, 'x')));
  accept("ok_kv_wrong_types", GgufBuilder().Kv("general.architecture", 1u));
  accept("ok_arr_empty", GgufBuilder().Kv("k", KvType::kArray, Arr(8, 0)));
  std::string nested = Arr(0, 1, "x");
  for (int depth = 1; depth < 8; ++depth) nested = Arr(9, 1, nested);
  accept("ok_arr_nested_8", GgufBuilder().Kv("k", KvType::kArray, nested));
  for (const uint32_t a : {1u, 2u, 4u, 8u, 64u, 65536u, 1u << 20}) {
    GgufBuilder b;
    b.alignment = a;
    b.Kv("general.alignment", a).Tensor("a", {3}, 24).Tensor("b", {5}, 0);
    accept("ok_align", b);
  }
  for (const size_t n : {63, 64, 127, 128, 1024, 65535}) {
    accept("ok_tn", GgufBuilder().Tensor(std::string(n, 'n'), {2}, 0));
  }
  accept("ok_tn_utf8", GgufBuilder().Tensor("\xE5\xB1\xA4", {2}, 0));
  accept("ok_tn_json_hostile", GgufBuilder().Tensor("\"}\\\n", {2}, 0));
  accept("ok_tn_case", GgufBuilder().Tensor("a", {2}, 0).Tensor("A", {2}, 0));
  accept("ok_ndims_0", GgufBuilder().Tensor("scalar", {}, 0));
  accept("ok_ndims_8", GgufBuilder().Tensor("t", {2, 1, 2, 1, 2, 1, 2, 1}, 0));
  accept("ok_dim_zero",
         GgufBuilder().Tensor("t", {4, 0}, 0).Tensor("u", {2}, 0));
  accept("ok_dim_zero_first", GgufBuilder().Tensor("t", {0, 4}, 8));
  accept("ok_dim_all_zero_tensors",
         GgufBuilder().Tensor("t", {0}, 0).Tensor("u", {0}, 0));
  GgufBuilder gap = Baseline();
  gap.gap = 64;
  accept("ok_off_gap_first", gap);
  GgufBuilder open_end = Baseline();
  open_end.pad_end = false;
  accept("ok_no_final_padding", open_end);
}

TEST_F(GgufTest, OutOfOrderAndSharedZeroSize) {
  GgufBuilder b;
  b.Tensor("a", {8}, 0).Tensor("b", {8}, 0).Tensor("z", {0}, 0);
  std::string bytes = b.Build();
  bytes = Patched<uint64_t>(bytes, b.At("t0.offset"), 32);
  bytes = Patched<uint64_t>(bytes, b.At("t1.offset"), 0);
  bytes = Patched<uint64_t>(bytes, b.At("t2.offset"), 32);
  const GgufFile f = Open(bytes);
  EXPECT_EQ(f.tensors()[0].offset, b.At("data") + 32);
  EXPECT_EQ(f.tensors()[1].offset, b.At("data"));
}

TEST_F(GgufTest, TrailingBytesWarn) {
  const GgufFile f = Open(Baseline().Build() + std::string(100, '\0'));
  ASSERT_EQ(f.warnings().size(), 1u);
  EXPECT_NE(f.warnings()[0].find("100 bytes"), std::string::npos);
}

TEST_F(GgufTest, UnknownTypesAreListed) {
  GgufBuilder b;
  b.Tensor("old", {8}, 4).Tensor("new1", {8}, 9999).Tensor("new2", {3}, 9999);
  b.Tensor("far", {8}, 0xFFFFFFFF).Tensor("known", {8}, 0);
  const std::string bytes = b.Build();
  const GgufFile f = Open(bytes);
  ASSERT_EQ(f.tensors().size(), 5u);
  EXPECT_EQ(f.tensors()[0].type, nullptr);
  EXPECT_EQ(f.tensors()[0].bytes, 0u);
  EXPECT_EQ(f.tensors()[0].elements, 8u);
  EXPECT_EQ(TypeName(f.tensors()[0].type_id), "removed type Q4_2 (4)");
  EXPECT_EQ(TypeName(f.tensors()[1].type_id), "unknown(9999)");
  EXPECT_EQ(TypeName(f.tensors()[3].type_id), "unknown(4294967295)");
  EXPECT_EQ(TypeName(f.tensors()[4].type_id), "F32");
  ASSERT_EQ(f.warnings().size(), 3u);
  EXPECT_EQ(f.warnings()[1].find("2 tensors of unknown(9999), first tensor "
                                 "'new1' at byte " +
                                 std::to_string(b.At("t1"))),
            0u);
  ExpectReject("type_unknown_far_offset",
               Patched<uint64_t>(bytes, b.At("t1.offset"), 1 << 20),
               static_cast<int64_t>(b.At("t1.offset")), "tensor 'new1'");
}

// Every prefix is refused with a proper error, up to the one that lacks nothing
// but the padding at the end.
TEST_F(GgufTest, EveryTruncation) {
  GgufBuilder b = Baseline();
  const std::string bytes = b.Build();
  const size_t complete = b.At("t2.data") + 7;
  for (size_t n = 0; n < complete; ++n) {
    try {
      Open(bytes.substr(0, n));
      ADD_FAILURE() << "accepted " << n << " of " << bytes.size() << " bytes";
    } catch (const Error& e) {
      EXPECT_GE(e.offset(), 0) << n;
      EXPECT_LE(e.offset(), static_cast<int64_t>(bytes.size())) << n;
    }
  }
  for (size_t n = complete; n <= bytes.size(); ++n) {
    EXPECT_NO_THROW(Open(bytes.substr(0, n))) << n;
  }
}

// Any byte of the front changed to a few others: an error or a file, and what
// is accepted can be read to the last byte.
TEST_F(GgufTest, EveryByteChanged) {
  GgufBuilder b = Baseline();
  const std::string bytes = b.Build();
  for (size_t i = 0; i < b.At("data"); ++i) {
    for (const int v : {0x00, 0x01, 0x7F, 0x80, 0xFF}) {
      try {
        const GgufFile f = Open(Patched(bytes, i, static_cast<char>(v)));
        for (const KeyValue& kv : f.metadata()) kv.ToString();
        for (const TensorInfo& t : f.tensors()) {
          std::vector<uint8_t> data(t.bytes);
          f.Read(t, 0, data);
        }
      } catch (const Error&) {
      }
    }
  }
}

TEST_F(GgufTest, LongFrontIsReadInPieces) {
  GgufBuilder b;
  std::vector<std::string> words;
  for (int i = 0; i < 300000; ++i) words.push_back("word" + std::to_string(i));
  b.Array("tokens", KvType::kString, words).Kv("after", 5u);
  for (int i = 0; i < 2000; ++i) b.Tensor("t" + std::to_string(i), {4}, 0);
  const std::string path = Path(b.Build());
  const auto start = std::chrono::steady_clock::now();
  const GgufFile f = GgufFile::Open(path);
  const auto time = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(f.Find("tokens")->AsStrings()[299999], "word299999");
  EXPECT_EQ(f.Find("after")->AsUint(), 5u);
  EXPECT_EQ(f.FindTensor("t1999")->offset, b.At("t1999.data"));
  // A bound that only a quadratic reader breaks, also under an emulator.
  EXPECT_LT(std::chrono::duration<double>(time).count(), 5.0);
}

TEST_F(GgufTest, ManyKeysAreLinear) {
  GgufBuilder b;
  for (int i = 0; i < 65536; ++i) b.Kv("key" + std::to_string(i), 1u);
  const std::string path = Path(b.Build());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(GgufFile::Open(path).metadata().size(), 65536u);
  b.Kv("key7", 1u);
  const std::string twice = b.Build();
  ExpectReject("dos_dup_last_of_65536", twice,
               static_cast<int64_t>(b.At("kv65536")), "key 'key7'");
  EXPECT_LT(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count(),
      5.0);
}

TEST_F(GgufTest, NotAFile) {
  const auto reject = [](const std::string& path, const char* mention) {
    try {
      GgufFile::Open(path);
      ADD_FAILURE() << path << ": accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(mention), std::string::npos)
          << e.what();
    }
  };
  reject(dir_ / "missing.gguf", kNoSuchFile);
  reject(dir_ / ".", "is a directory");
#ifdef _WIN32
  reject("NUL", "device");
#else
  reject("/dev/null", "device");
  reject("/dev/zero", "device");
  const std::string fifo = dir_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  reject(fifo, "FIFO");
  const std::string loop = dir_ / "loop";
  std::filesystem::create_symlink("loop", loop);
  reject(loop, "symbolic links");
  WriteFile(dir_ / "real.gguf", Baseline().Build());
  std::filesystem::create_symlink("real.gguf", dir_ / "link.gguf");
  EXPECT_NO_THROW(GgufFile::Open(dir_ / "link.gguf"));
#endif
}

TEST_F(GgufTest, NoticesThatTheFileChanges) {
  const std::string path = Path(Baseline().Build());
  const GgufFile f = GgufFile::Open(path);
  EXPECT_NO_THROW(f.CheckUnchanged());
  std::vector<uint8_t> data(f.tensors()[2].bytes);
  f.Read(f.tensors()[2], 0, data);
  std::filesystem::resize_file(path, f.tensors()[2].offset + 3);
  EXPECT_THROW(f.CheckUnchanged(), Error);
  try {
    f.Read(f.tensors()[2], 0, data);
    ADD_FAILURE() << "read beyond the end";
  } catch (const Error& e) {
    EXPECT_EQ(e.offset(), static_cast<int64_t>(f.tensors()[2].offset + 3));
    EXPECT_NE(std::string(e.what()).find("changed while reading"),
              std::string::npos);
  }
}

TEST_F(GgufTest, ReadsTheOldFileAfterARename) {
  const std::string path = Path(Baseline().Build());
  const GgufFile f = GgufFile::Open(path);
  WriteFile(dir_ / "other", "short");
#ifdef _WIN32
  std::error_code error;
  std::filesystem::rename(dir_ / "other", path, error);
  if (error) GTEST_SKIP() << "an open file is not replaced here";
#else
  std::filesystem::rename(dir_ / "other", path);
#endif
  std::vector<uint8_t> data(f.tensors()[2].bytes);
  EXPECT_NO_THROW(f.Read(f.tensors()[2], 0, data));
  EXPECT_NO_THROW(f.CheckUnchanged());
}

TEST_F(GgufTest, CanBeMoved) {
  GgufFile a = Open(Baseline().Build());
  const TensorInfo* t = &a.tensors()[0];
  GgufFile b = std::move(a);
  EXPECT_EQ(&b.tensors()[0], t);
  EXPECT_EQ(b.tensors()[0].name, "quant.weight");
  EXPECT_EQ(b.Find("test.words")->file, b.path());
}

TEST(EscapeTest, NamesStayOnOneLine) {
  EXPECT_EQ(Tensor("a.b"), "tensor 'a.b'");
  EXPECT_EQ(Escape("a\nb\x7F'\\"), "a\\x0Ab\\x7F\\x27\\x5C");
  EXPECT_EQ(Escape("\xC3\xBC \xFF \xC2\x9B"), "\xC3\xBC \\xFF \\xC2\\x9B");
  EXPECT_EQ(Escape(std::string(300, 'x')), std::string(200, 'x') + "...");
  EXPECT_EQ(Escape(std::string(199, 'x') + "\xC3\xBC" + "yy"),
            std::string(199, 'x') + "...");
  EXPECT_STREQ(Error("f\n", 7, Key("k"), "r").what(),
               "f\\x0A: at byte 7: key 'k': r");
  EXPECT_STREQ(Error("", Error::kNoOffset, "", "r").what(), "r");
}

}  // namespace
}  // namespace dequant
