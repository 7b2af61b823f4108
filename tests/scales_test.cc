// NVFP4 scales: multiplied in before the one rounding, by every way through a
// model; and left apart where they do not fit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "dequant/model.h"
#include "tests/support/float_env.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

constexpr uint32_t kF32 = 0, kF16 = 1, kNvfp4 = 40;

std::string Floats(const std::vector<float>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)};
}

class ScalesTest : public testing::Test {
 protected:
  void Write(GgufBuilder b) { WriteFile(in_, b.Build()); }

  /// Block by block: the values of `name` times factors[i] in the i-th of as
  /// many equal parts, rounded to `dtype`.
  std::vector<uint8_t> Expected(const std::string& name, DType dtype,
                                const std::vector<float>& factors) {
    const GgufFile f = GgufFile::Open(in_);
    const TensorInfo& t = *f.FindTensor(name);
    std::vector<uint8_t> packed(t.bytes);
    f.Read(t, 0, packed);
    std::vector<float> values(t.elements);
    const auto n = static_cast<int64_t>(t.elements);
    EXPECT_EQ(
        Dequantize(t.type_id, packed.data(), DType::kF32, values.data(), n),
        Status::kOk);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] *= factors[i / (values.size() / factors.size())];
      if (std::isnan(values[i])) {
        values[i] = std::bit_cast<float>(0x7FC00000u);
      }
    }
    std::vector<uint8_t> out(t.elements * SizeOf(dtype));
    EXPECT_EQ(Dequantize(0, values.data(), dtype, out.data(), n), Status::kOk);
    return out;
  }
  std::vector<uint8_t> Written(const std::string& name) {
    const auto f = SafetensorsFile::Open(out_);
    for (const SafetensorsEntry& e : f.header().tensors) {
      if (e.name != name) continue;
      std::vector<uint8_t> bytes(e.end - e.begin);
      f.Read(e, 0, bytes);
      return bytes;
    }
    ADD_FAILURE() << name << " was not written";
    return {};
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& e : ReadSafetensorsHeader(out_).tensors) {
      names.push_back(e.name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TempDir dir_;
  const std::string in_ = dir_ / "in.gguf", out_ = dir_ / "out.safetensors";
};

/// Both spellings, experts, and what is no scale of an NVFP4 weight.
GgufBuilder Model() {
  GgufBuilder b;
  b.Tensor("a.weight", {128, 3}, kNvfp4)
      .Tensor("a.scale", {1}, kF32, Floats({1.0f / 3}))
      .Tensor("a.input_scale", {1}, kF32, Floats({7}))
      .Tensor("b.weight.scale", {}, kF32, Floats({-0.7f}))
      .Tensor("b.weight", {64}, kNvfp4)
      .Tensor("exps.weight", {192, 50, 4}, kNvfp4)
      .Tensor("exps.scale", {4}, kF32, Floats({3, 1e-5f, 0.1f, 1e30f}))
      .Tensor("alone.weight", {64, 2}, kNvfp4)
      .Tensor("other.weight", {32}, 8)
      .Tensor("other.scale", {1}, kF32, Floats({2}));
  return b;
}

TEST_F(ScalesTest, AreMultipliedInBeforeRounding) {
  Write(Model());
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    ConvertOptions o;
    o.dtype = dtype;
    o.force = true;
    const ConvertSummary s = Convert(in_, out_, o);
    EXPECT_EQ(Names(),
              (std::vector<std::string>{
                  "a.input_scale", "a.weight", "alone.weight", "b.weight",
                  "exps.weight", "other.scale", "other.weight"}));
    EXPECT_EQ(s.tensors, 7u);
    EXPECT_EQ(s.folded, (std::vector<std::pair<std::string, std::string>>{
                            {"a.weight", "a.scale"},
                            {"b.weight", "b.weight.scale"},
                            {"exps.weight", "exps.scale"}}));
    EXPECT_EQ(s.input_scales, std::vector<std::string>{"a.input_scale"});
    EXPECT_TRUE(s.warnings.empty());
    EXPECT_EQ(Written("a.weight"), Expected("a.weight", dtype, {1.0f / 3}));
    EXPECT_EQ(Written("b.weight"), Expected("b.weight", dtype, {-0.7f}));
    EXPECT_EQ(Written("exps.weight"),
              Expected("exps.weight", dtype, {3, 1e-5f, 0.1f, 1e30f}));
    EXPECT_EQ(Written("alone.weight"), Expected("alone.weight", dtype, {1}));
    EXPECT_TRUE(Verify(in_, out_, {}).ok());
  }
}

TEST_F(ScalesTest, NoFoldKeepsThemApart) {
  Write(Model());
  ConvertOptions o;
  o.fold = false;
  const ConvertSummary s = Convert(in_, out_, o);
  EXPECT_EQ(s.tensors, 10u);
  EXPECT_TRUE(s.folded.empty());
  EXPECT_EQ(Written("a.weight"), Expected("a.weight", DType::kF16, {1}));
  EXPECT_EQ(Written("a.scale").size(), 4u);
  EXPECT_TRUE(Verify(in_, out_, {}).ok());
}

// Of a file without folding, verify knows it even where the scales are absent.
TEST_F(ScalesTest, VerifyKnowsWhatConvertDid) {
  Write(Model());
  for (const bool fold : {false, true}) {
    for (const char* include : {"weight$", "^a", "scale$", ""}) {
      SCOPED_TRACE(include);
      ConvertOptions o;
      o.fold = fold;
      o.force = true;
      o.include = include;
      Convert(in_, out_, o);
      VerifyOptions v;
      v.include = include;
      const VerifyReport r = Verify(in_, out_, v);
      EXPECT_TRUE(r.ok());
      EXPECT_TRUE(r.missing.empty());
      EXPECT_TRUE(r.extra.empty());
    }
  }
  // A wrong bit in a folded weight is found.
  Convert(in_, out_, [] {
    ConvertOptions o;
    o.force = true;
    return o;
  }());
  const auto header = ReadSafetensorsHeader(out_);
  std::string bytes = ReadFile(out_);
  for (const auto& e : header.tensors) {
    if (e.name == "exps.weight") bytes[header.data_offset + e.end - 1] ^= 1;
  }
  WriteFile(out_, bytes);
  const VerifyReport r = Verify(in_, out_, {});
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.tensors[0].name, "exps.weight");
  EXPECT_EQ(r.tensors[0].different, 1u);
}

TEST_F(ScalesTest, AScaleWhoseWeightStaysIsATensorLikeAnyOther) {
  Write(Model());
  ConvertOptions o;
  o.exclude = "weight$";
  Convert(in_, out_, o);
  EXPECT_EQ(Names(), (std::vector<std::string>{"a.input_scale", "a.scale",
                                               "b.weight.scale", "exps.scale",
                                               "other.scale"}));
  o.force = true;
  o.exclude = "scale$";  // no reason for a wrong weight
  Convert(in_, out_, o);
  EXPECT_EQ(Written("a.weight"), Expected("a.weight", DType::kF16, {1.0f / 3}));
}

TEST_F(ScalesTest, NotANumberIsCanonical) {
  const float nan = std::bit_cast<float>(0xFFF12345u);
  const float inf = std::numeric_limits<float>::infinity();
  Write(GgufBuilder()
            .Tensor("n.weight", {64, 2}, kNvfp4)
            .Tensor("n.scale", {2}, kF32, Floats({nan, -inf})));
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    ConvertOptions o;
    o.dtype = dtype;
    o.force = true;
    Convert(in_, out_, o);
    EXPECT_EQ(Written("n.weight"), Expected("n.weight", dtype, {nan, -inf}));
  }
  const auto bytes = Written("n.weight");
  uint32_t first;
  std::memcpy(&first, bytes.data(), sizeof(first));
  EXPECT_EQ(first, 0x7FC00000u);
}

TEST_F(ScalesTest, SubnormalsSurviveAnyFloatEnvironment) {
  Write(GgufBuilder()
            .Tensor("s.weight", {64, 40}, kNvfp4)
            .Tensor("s.scale", {1}, kF32, Floats({1e-40f})));
  const auto want = Expected("s.weight", DType::kF32, {1e-40f});
  ConvertOptions o;
  o.dtype = DType::kF32;
  {
    const HostileFloatEnv hostile;  // threads begin with that of their maker
    Convert(in_, out_, o);
    EXPECT_TRUE(hostile.StillSet());
  }
  EXPECT_EQ(Written("s.weight"), want);
  EXPECT_NE(want, std::vector<uint8_t>(want.size()));
}

TEST_F(ScalesTest, WhatDoesNotFitStaysApart) {
  struct Case {
    const char* what;
    GgufBuilder model;
    const char* mentions;
  };
  const GgufBuilder weight = GgufBuilder().Tensor("w.weight", {64, 3}, kNvfp4);
  const auto with = [&](const char* name, std::vector<uint64_t> dims,
                        uint32_t type) {
    GgufBuilder b = weight;
    b.Tensor(name, std::move(dims), type);
    return b;
  };
  GgufBuilder both = with("w.scale", {1}, kF32);
  both.Tensor("w.weight.scale", {1}, kF32);
  GgufBuilder vector;
  vector.Tensor("w.weight", {64}, kNvfp4).Tensor("w.scale", {64}, kF32);
  const std::vector<Case> cases = {
      {"F16", with("w.scale", {1}, kF16), "its type is F16, not F32"},
      {"unknown type", with("w.scale", {1}, 9999), "unknown(9999)"},
      {"two", with("w.scale", {2}, kF32), "2 elements, not 1 or 3"},
      {"none", with("w.weight.scale", {0}, kF32), "0 elements, not 1 or 3"},
      {"inner", with("w.scale", {64}, kF32), "64 elements, not 1 or 3"},
      {"one dimension", vector, "64 elements, not 1;"},
      {"both", both, "there is also tensor 'w.weight.scale'"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    Write(c.model);
    ConvertOptions o;
    o.force = true;
    const ConvertSummary s = Convert(in_, out_, o);
    EXPECT_TRUE(s.folded.empty());
    EXPECT_EQ(Written("w.weight"), Expected("w.weight", DType::kF16, {1}));
    ASSERT_GE(s.warnings.size(), 1u);
    EXPECT_NE(s.warnings.back().find(c.mentions), std::string::npos)
        << s.warnings.back();
    EXPECT_TRUE(Verify(in_, out_, {}).ok());
    o.strict = true;
    EXPECT_THROW(Convert(in_, out_, o), Error);
  }
}

TEST_F(ScalesTest, MayBeInAnotherShard) {
  for (uint16_t i = 0; i < 2; ++i) {
    GgufBuilder b;
    b.Kv("split.no", i).Kv("split.count", uint16_t{2});
    if (i == 0) {
      b.Tensor("w.scale", {1}, kF32, Floats({0.5f}));
    } else {
      b.Tensor("w.weight", {64, 2}, kNvfp4);
    }
    const std::string name =
        "m-0000" + std::to_string(i + 1) + "-of-00002.gguf";
    WriteFile(dir_ / name, b.Build());
    if (i == 1) WriteFile(in_, b.Build());  // for Expected()
  }
  const std::string set = dir_ / "m-00001-of-00002.gguf";
  const ConvertSummary s = Convert(set, out_, {});
  EXPECT_EQ(s.folded.size(), 1u);
  EXPECT_EQ(Written("w.weight"), [&] {
    GgufBuilder b;  // Expected() wants a model of one file
    b.Tensor("w.weight", {64, 2}, kNvfp4);
    const ModelFiles m = ModelFiles::Open(set);
    const ModelTensor& t = m.tensors()[1];
    std::vector<uint8_t> packed(t.info->bytes);
    t.file->Read(*t.info, 0, packed);
    WriteFile(in_, GgufBuilder()
                       .Tensor("w.weight", {64, 2}, kNvfp4,
                               {packed.begin(), packed.end()})
                       .Build());
    return Expected("w.weight", DType::kF16, {0.5f});
  }());
  EXPECT_TRUE(Verify(set, out_, {}).ok());
}

// The original of a quantized model has no scales: its weights are whole.
TEST_F(ScalesTest, AReferenceIsComparedWithTheFoldedWeight) {
  Write(GgufBuilder()
            .Tensor("w.weight", {64, 2}, kNvfp4)
            .Tensor("w.scale", {1}, kF32, Floats({0.25f})));
  const auto bytes = Expected("w.weight", DType::kF32, {0.25f});
  SafetensorsWriter w(out_, {{"w.weight", "F32", {2, 64}}}, {}, true);
  w.Write(w.entries()[0], 0, bytes);
  w.Commit();
  const VerifyReport r = Verify(in_, out_, {});
  EXPECT_FALSE(r.by_dequant);
  EXPECT_EQ(r.identical, 1u);
}

TEST_F(ScalesTest, LoadModelFolds) {
  Write(Model());
  for (const bool fold : {true, false}) {
    LoadOptions o;
    o.fold = fold;
    const LoadedModel m = LoadModel(in_, o);
    EXPECT_EQ(m.tensors.size(), fold ? 7u : 10u);
    EXPECT_EQ(m.summary.folded.size(), fold ? 3u : 0u);
    for (const LoadedTensor& t : m.tensors) {
      if (t.name != "exps.weight") continue;
      const std::vector<uint8_t> data(t.data.begin(), t.data.end());
      EXPECT_EQ(data, Expected(t.name, DType::kF16,
                               fold ? std::vector<float>{3, 1e-5f, 0.1f, 1e30f}
                                    : std::vector<float>{1}));
    }
  }
}

}  // namespace
}  // namespace dequant
