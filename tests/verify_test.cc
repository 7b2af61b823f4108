// verify: what is equal passes, every kind of difference is found and named.
#include <gtest/gtest.h>

#include <cmath>

#include "dequant/model.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

class VerifyTest : public testing::Test {
 protected:
  static std::span<const uint8_t> Span(const void* p, size_t n) {
    return {static_cast<const uint8_t*>(p), n};
  }
  /// A safetensors file that Convert did not write.
  void WriteReference(std::vector<SafetensorsEntry> entries,
                      const std::vector<std::vector<float>>& values) {
    SafetensorsWriter w(out_, std::move(entries), {}, true);
    for (size_t i = 0; i < values.size(); ++i) {
      w.Write(w.entries()[i], 0,
              Span(values[i].data(), values[i].size() * sizeof(float)));
    }
    w.Commit();
  }
  VerifyReport Check(VerifyOptions o = {}) { return Verify(in_, out_, o); }

  TempDir dir_;
  const std::string in_ = dir_ / "in.gguf", out_ = dir_ / "out.safetensors";
};

std::string F32Data(const std::vector<float>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)};
}

TEST_F(VerifyTest, ConvertsOutputIsIdentical) {
  GgufBuilder b = Baseline();
  b.Tensor("large", {1024, 600}, 8).Tensor("empty", {32, 0}, 8);
  b.Tensor("unknown", {4}, 9999);
  WriteFile(in_, b.Build());
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    ConvertOptions c;
    c.dtype = dtype;
    c.cast_all = true;
    c.force = true;
    Convert(in_, out_, c);
    const VerifyReport r = Check();
    EXPECT_TRUE(r.ok());
    EXPECT_TRUE(r.by_dequant);
    EXPECT_EQ(r.identical, 5u);
    EXPECT_EQ(r.skipped, std::vector<std::string>{"unknown"});
  }
}

TEST_F(VerifyTest, FindsOneChangedBit) {
  GgufBuilder b = Baseline();
  b.Tensor("large", {1024, 600}, 8);
  WriteFile(in_, b.Build());
  ConvertOptions c;
  Convert(in_, out_, c);
  const auto header = ReadSafetensorsHeader(out_);
  const std::string good = ReadFile(out_);
  for (const SafetensorsEntry& e : header.tensors) {
    std::string bad = good;
    bad[header.data_offset + e.end - 1] ^= 1;
    WriteFile(out_, bad);
    const VerifyReport r = Check();
    EXPECT_FALSE(r.ok());
    EXPECT_EQ(r.identical, 3u);
    EXPECT_EQ(r.tensors[0].name, e.name);
    EXPECT_EQ(r.tensors[0].different, 1u);
  }
}

TEST_F(VerifyTest, ShapesNeedTheSameReference) {
  WriteFile(in_, GgufBuilder().Tensor("t", {32, 6}, 8).Build());
  ConvertOptions c;
  c.reference = ShapeReference{"ref", {{"t", {1, 6, 32}}}};
  Convert(in_, out_, c);
  VerifyReport r = Check();
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.tensors[0].different, 0u);
  EXPECT_EQ(r.tensors[0].theirs_shape, (std::vector<uint64_t>{1, 6, 32}));
  VerifyOptions o;
  o.reference = c.reference;
  EXPECT_TRUE(Check(o).ok());
}

TEST_F(VerifyTest, SubsetsAndShards) {
  WriteFile(in_, Baseline().Build());
  ConvertOptions c;
  c.include = "weight";
  c.max_shard_size = 1;
  const ConvertSummary s = Convert(in_, out_, c);
  ASSERT_EQ(s.outputs.size(), 3u);
  VerifyOptions o;
  VerifyReport r = Verify(in_, s.outputs[2], o);
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.missing, std::vector<std::string>{"bytes"});
  o.include = c.include;
  r = Verify(in_, s.outputs[2], o);
  EXPECT_TRUE(r.ok());
  EXPECT_EQ(r.identical, 2u);
}

TEST_F(VerifyTest, FiguresAgainstAReference) {
  const float inf = INFINITY, nan = NAN;
  WriteFile(in_, GgufBuilder()
                     .Tensor("a", {4}, 0, F32Data({1, 2, 3, 4}))
                     .Tensor("special", {4}, 0, F32Data({1, nan, inf, 4}))
                     .Tensor("count", {4}, 0)
                     .Tensor("ints", {4}, 26)
                     .Tensor("same", {2}, 0, F32Data({5, 6}))
                     .Tensor("gone", {2}, 0)
                     .Build());
  WriteReference({{"a", "F32", {4}, 0, 0},
                  {"special", "F32", {4}, 0, 0},
                  {"count", "F32", {5}, 0, 0},
                  {"ints", "F32", {4}, 0, 0},
                  {"same", "F32", {2}, 0, 0},
                  {"new", "F32", {1}, 0, 0}},
                 {{1, 2, 3, 8}, {1, 2, nan, 4}, {1, 1, 1, 1, 1}, {}, {5, 6}});
  const VerifyReport r = Check();
  EXPECT_FALSE(r.ok());
  EXPECT_FALSE(r.by_dequant);
  EXPECT_EQ(r.missing, std::vector<std::string>{"gone"});
  EXPECT_EQ(r.extra, std::vector<std::string>{"new"});
  EXPECT_EQ(r.identical, 1u);
  std::map<std::string, TensorCheck> by_name;
  for (const TensorCheck& c : r.tensors) by_name[c.name] = c;
  const TensorCheck& a = by_name["a"];
  EXPECT_EQ(a.different, 1u);
  EXPECT_EQ(a.max_error, 4);
  EXPECT_EQ(a.rms_error, 2);
  EXPECT_NEAR(a.snr_db, 10 * std::log10(78.0 / 16), 1e-9);
  const TensorCheck& s = by_name["special"];
  EXPECT_EQ(s.nans, 1u);
  EXPECT_EQ(s.infs, 1u);
  EXPECT_EQ(s.theirs_nans, 1u);
  EXPECT_EQ(s.theirs_infs, 0u);
  EXPECT_EQ(s.max_error, 0);
  EXPECT_NE(by_name["count"].not_compared, "");
  EXPECT_NE(by_name["ints"].not_compared, "");
  EXPECT_EQ(r.tensors.back().name, "same");
}

TEST_F(VerifyTest, HintsAtPermutedRows) {
  constexpr size_t kRows = 16, kRow = 32;
  std::vector<float> ours, theirs(kRows * kRow), noise;
  for (size_t i = 0; i < kRows * kRow; ++i) {
    const double scale = 1 + static_cast<double>((i / kRow) * 7 % kRows);
    ours.push_back(static_cast<float>(std::sin(i * 1.7) * scale));
    noise.push_back(static_cast<float>(std::cos(i * 0.9)));
  }
  for (size_t row = 0; row < kRows; ++row) {  // halves interleaved
    const size_t from = row % 2 * (kRows / 2) + row / 2;
    std::copy_n(ours.begin() + from * kRow, kRow, theirs.begin() + row * kRow);
  }
  WriteFile(in_, GgufBuilder()
                     .Tensor("q", {kRow, kRows}, 0, F32Data(ours))
                     .Tensor("x", {kRow, kRows}, 0, F32Data(ours))
                     .Build());
  WriteReference(
      {{"q", "F32", {kRows, kRow}, 0, 0}, {"x", "F32", {kRows, kRow}, 0, 0}},
      {theirs, noise});
  const VerifyReport r = Check();
  EXPECT_TRUE(r.ok());  // a reference may differ in values
  for (const TensorCheck& c : r.tensors) {
    EXPECT_EQ(c.rows_permuted, c.name == "q") << c.name;
  }
}

TEST_F(VerifyTest, SameReportForAnyNumberOfThreads) {
  WriteFile(in_, GgufBuilder().Tensor("t", {1024, 700}, 8).Build());
  std::vector<float> other(1024 * 700);
  for (size_t i = 0; i < other.size(); ++i) {
    other[i] = static_cast<float>(i % 100) * 0.25f;
  }
  WriteReference({{"t", "F32", {700, 1024}, 0, 0}}, {other});
  VerifyOptions o;
  o.threads = 1;
  const TensorCheck one = Check(o).tensors[0];
  o.threads = 3;
  const TensorCheck three = Check(o).tensors[0];
  EXPECT_EQ(one.rms_error, three.rms_error);
  EXPECT_EQ(one.snr_db, three.snr_db);
  EXPECT_EQ(one.different, three.different);
}

}  // namespace
}  // namespace dequant
