// The resolver and the files of a model.
#include <gtest/gtest.h>

#include <functional>

#include "dequant/model.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

using Shape = std::vector<uint64_t>;

void ExpectError(const std::function<void()>& f,
                 std::vector<std::string> mentions) {
  try {
    f();
    ADD_FAILURE() << "no error; expected: " << mentions[0];
  } catch (const Error& e) {
    for (const std::string& m : mentions) {
      EXPECT_NE(std::string(e.what()).find(m), std::string::npos) << e.what();
    }
  }
}

class ShapesTest : public testing::Test {
 protected:
  ModelFiles Open(GgufBuilder b) {
    WriteFile(dir_ / "model.gguf", b.Build());
    return ModelFiles::Open(dir_ / "model.gguf");
  }
  /// The shape of the first tensor.
  ResolvedShape Resolve(GgufBuilder b, const ShapeReference* r = nullptr) {
    const ModelFiles model = Open(std::move(b));
    return ResolveShape(model, model.tensors()[0], r);
  }
  TempDir dir_;
};

TEST_F(ShapesTest, DimsAreReversed) {
  const auto r = Resolve(GgufBuilder().Tensor("t", {64, 3, 2}, 0));
  EXPECT_EQ(r.shape, (Shape{2, 3, 64}));
  EXPECT_EQ(r.source, ShapeSource::kDims);
  EXPECT_EQ(Resolve(GgufBuilder().Tensor("t", {}, 0)).shape, Shape{});
  EXPECT_EQ(Resolve(GgufBuilder().Tensor("t", {4, 0}, 0)).shape, (Shape{0, 4}));
}

TEST_F(ShapesTest, OrigShapeOfAnyWidth) {
  const auto check = [&](KvType type, auto one) {
    using T = decltype(one);
    GgufBuilder b;
    b.Array<T>("comfy.gguf.orig_shape.t", type, {T{1}, T{6}, T{8}})
        .Tensor("t", {8, 6}, 0);
    const auto r = Resolve(std::move(b));
    EXPECT_EQ(r.shape, (Shape{1, 6, 8}));  // not reversed
    EXPECT_EQ(r.source, ShapeSource::kOrigShape);
  };
  check(KvType::kUint8, uint8_t{1});
  check(KvType::kInt8, int8_t{1});
  check(KvType::kUint16, uint16_t{1});
  check(KvType::kInt16, int16_t{1});
  check(KvType::kUint32, uint32_t{1});
  check(KvType::kInt32, int32_t{1});
  check(KvType::kUint64, uint64_t{1});
  check(KvType::kInt64, int64_t{1});
}

TEST_F(ShapesTest, ReferenceComesFirst) {
  const ShapeReference ref{"ref.json", {{"t", {1, 48}}}};
  const ShapeReference other{"ref.json", {{"u", {1, 48}}}};
  GgufBuilder b;
  b.OrigShape("t", {6, 8}).Tensor("t", {48}, 0);
  auto r = Resolve(b, &ref);
  EXPECT_EQ(r.shape, (Shape{1, 48}));
  EXPECT_EQ(r.source, ShapeSource::kReference);
  EXPECT_EQ(r.file_shape, (Shape{6, 8}));
  EXPECT_EQ(r.file_source, ShapeSource::kOrigShape);
  r = Resolve(b, &other);  // a name that it lacks falls through
  EXPECT_EQ(r.shape, (Shape{6, 8}));
  EXPECT_EQ(r.source, ShapeSource::kOrigShape);
}

TEST_F(ShapesTest, CountsMustAgree) {
  GgufBuilder b;
  b.OrigShape("t", {1, 7, 8}).Tensor("t", {8, 6}, 0);
  ExpectError([&] { Resolve(b); }, {"tensor 't'", "[1, 7, 8]", "[6, 8]", "56",
                                    "48", "comfy.gguf.orig_shape.t"});
  const ShapeReference ref{"ref.json", {{"t", {2, 6, 8}}}};
  ExpectError([&] { Resolve(b, &ref); },
              {"tensor 't'", "[2, 6, 8]", "[6, 8]", "ref.json"});
  // A good reference mends a broken key.
  const ShapeReference good{"ref.json", {{"t", {1, 6, 8}}}};
  EXPECT_EQ(Resolve(b, &good).shape, (Shape{1, 6, 8}));

  GgufBuilder text;
  text.Kv("comfy.gguf.orig_shape.t", "1,2").Tensor("t", {2}, 0);
  ExpectError([&] { Resolve(text); }, {"not an array of integers"});
  GgufBuilder negative;
  negative.OrigShape("t", {-1, -2}).Tensor("t", {2}, 0);
  ExpectError([&] { Resolve(negative); }, {"negative"});
  GgufBuilder wrap;
  wrap.Array<uint64_t>("comfy.gguf.orig_shape.t", KvType::kUint64,
                       {1ull << 32, 1ull << 32})
      .Tensor("t", {0}, 0);
  ExpectError([&] { Resolve(wrap); }, {"2^63"});
}

TEST_F(ShapesTest, ReferenceFiles) {
  const std::string path = dir_ / "shapes.json";
  WriteFile(path, R"({"a": [1, 6, 8], "b": []})");
  auto r = ShapeReference::FromJson(path);
  EXPECT_EQ(r.shapes.at("a"), (Shape{1, 6, 8}));
  EXPECT_TRUE(r.shapes.at("b").empty());
  const auto bad = [&](const char* text, const char* mention) {
    WriteFile(path, text);
    ExpectError([&] { ShapeReference::FromJson(path); }, {path, mention});
  };
  bad("", "not valid JSON");
  bad("[1]", "must be an object");
  bad(R"({"a": 3})", "tensor 'a'");
  bad(R"({"a": [1, -3]})", "tensor 'a'");
  bad(R"({"a": [1, 2.5]})", "tensor 'a'");
  bad(R"({"a": [18446744073709551616]})", "tensor 'a'");
  bad(R"({"a": [1], "a": [2]})", "occurs twice");

  const std::string header =
      R"({"a":{"dtype":"F16","shape":[1,4],"data_offsets":[0,8]}})";
  const std::string file = Bytes<uint64_t>(header.size()) + header;
  WriteFile(dir_ / "x-1.safetensors", file);  // without its data
  EXPECT_EQ(
      ShapeReference::FromSafetensors(dir_ / "x-1.safetensors").shapes.at("a"),
      (Shape{1, 4}));
  WriteFile(dir_ / "x.safetensors.index.json",
            R"({"weight_map": {"a": "x-1.safetensors"}})");
  EXPECT_EQ(ShapeReference::FromSafetensors(dir_ / "x.safetensors.index.json")
                .shapes.at("a"),
            (Shape{1, 4}));
  ExpectError([&] { ShapeReference::FromSafetensors(dir_ / "none"); },
              {kNoSuchFile});
}

TEST_F(ShapesTest, ReportsWhatAReferenceCorrects) {
  GgufBuilder b;
  b.OrigShape("key", {1, 8}).Tensor("key", {8}, 0);
  b.Tensor("same", {8}, 0).Tensor("wrong", {8}, 0);
  const ShapeReference ref{
      "ref", {{"key", {8, 1}}, {"same", {8}}, {"wrong", {1, 1, 8}}}};
  const ModelFiles model = Open(b);
  ShapeReport report;
  for (const ModelTensor& t : model.tensors()) {
    report.Add(t.info->name, ResolveShape(model, t, &ref));
  }
  EXPECT_EQ(report.counts.at(ShapeSource::kReference), 3u);
  ASSERT_EQ(report.corrected.size(), 2u);
  const auto lines = report.Lines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "shapes: 3 from the reference");
  EXPECT_NE(lines[1].find("1 tensor has only the dims to go by"),
            std::string::npos);
  EXPECT_NE(lines[1].find("wrong [8] -> [1, 1, 8]"), std::string::npos);
  EXPECT_NE(lines[2].find("key [1, 8] -> [8, 1]"), std::string::npos);
}

// ---------------------------------------------------------------------------
// Shards

class ShardsTest : public ShapesTest {
 protected:
  static GgufBuilder Shard(uint16_t no, uint16_t count, int32_t total) {
    GgufBuilder b;
    b.Kv("split.no", no).Kv("split.count", count);
    b.Kv("split.tensors.count", KvType::kInt32, Bytes(total));
    b.Tensor("t" + std::to_string(no), {uint64_t{4} + no}, 0);
    return b;
  }
  std::string Name(int n, int count = 3) {
    char text[64];
    std::snprintf(text, sizeof(text), "m-%05d-of-%05d.gguf", n, count);
    return dir_ / text;
  }
  void Write(int n, GgufBuilder b) { WriteFile(Name(n), b.Build()); }
  void WriteAll() {
    for (uint16_t i = 0; i < 3; ++i) Write(i + 1, Shard(i, 3, 3));
  }
  void ExpectReject(std::vector<std::string> mentions, int open = 1) {
    ExpectError([&] { ModelFiles::Open(Name(open)); }, std::move(mentions));
  }
};

TEST_F(ShardsTest, AnyMemberOrTheFolderOpensAll) {
  WriteAll();
  for (const std::string& path : {Name(1), Name(2), Name(3), dir_ / ""}) {
    const ModelFiles m = ModelFiles::Open(path);
    ASSERT_EQ(m.files().size(), 3u);
    ASSERT_EQ(m.tensors().size(), 3u);
    EXPECT_EQ(m.tensors()[2].info->name, "t2");
    EXPECT_EQ(m.tensors()[2].file, &m.files()[2]);
    EXPECT_EQ(m.Holds(Name(2)), &m.files()[1]);
    EXPECT_EQ(m.Holds(dir_ / "absent"), nullptr);
    EXPECT_TRUE(m.warnings().empty());
  }
}

TEST_F(ShardsTest, FirstWithoutTensorsAndOtherAlignment) {
  GgufBuilder first;
  first.Kv("split.no", uint16_t{0}).Kv("split.count", uint16_t{2});
  first.Kv("general.architecture", "test");
  GgufBuilder second;
  second.alignment = 64;
  second.Kv("general.alignment", 64u)
      .Kv("split.no", uint16_t{1})
      .Kv("split.count", uint16_t{2})
      .Tensor("t", {3}, 0);
  WriteFile(Name(1, 2), first.Build());
  WriteFile(Name(2, 2), second.Build());
  const ModelFiles m = ModelFiles::Open(Name(2, 2));
  EXPECT_EQ(m.tensors().size(), 1u);
  EXPECT_EQ(m.Find("general.architecture")->AsString(), "test");
}

TEST_F(ShardsTest, RejectsBadSets) {
  WriteAll();
  std::filesystem::remove(Name(3));
  ExpectReject({Name(3), kNoSuchFile});  // split_missing_last
  Write(3, Shard(1, 3, 3));              // split_wrong_no
  ExpectReject({Name(3), "split.no", "is 1", "must say 2"});
  WriteAll();
  Write(2, Shard(2, 3, 3));
  Write(3, Shard(1, 3, 3));  // split_swapped
  ExpectReject({Name(2), "swapped"});
  WriteAll();
  Write(3, Shard(2, 4, 3));  // split_count_differs
  ExpectReject({Name(3), "split.count", "is 4", "set of 3"});
  WriteAll();
  Write(1, Shard(0, 65535, 3));  // split_count_vs_name
  ExpectReject({Name(1), "65535", "name says 3"});
  WriteAll();
  Write(1, Shard(0, 3, 4));  // split_total_high
  ExpectReject({Name(1), "split.tensors.count", "is 4", "3 tensors"});
  Write(1, Shard(0, 3, -1));
  ExpectReject({Name(1), "negative"});
  WriteAll();
  GgufBuilder twice = Shard(2, 3, 4);
  twice.Tensor("t0", {1}, 0);
  Write(3, twice);  // split_dup_tensor
  ExpectReject({Name(3), "tensor 't0'", "is also in " + Name(1)});
  WriteAll();
  Write(2, GgufBuilder().Tensor("x", {1}, 0));  // split_shard_not_split
  ExpectReject({Name(2), "no key split.count"});
  WriteFile(Name(2), "GGU");  // split_shard_truncated
  ExpectReject({Name(2), "truncated"});
  WriteFile(Name(2), "");
  ExpectReject({Name(2), "empty"});
  WriteAll();
  GgufBuilder text;
  text.Kv("split.count", "3").Kv("split.no", uint16_t{0});
  Write(1, text);  // split_count_string
  ExpectReject({Name(1), "split.count", "string"});
}

TEST_F(ShardsTest, PlainNames) {
  const std::string path = dir_ / "plain.gguf";
  WriteFile(path, Shard(0, 3, 3).Build());
  ExpectError([&] { ModelFiles::Open(path); }, {"one of 3 shards", "name"});
  WriteFile(path, Shard(0, 1, 1).Build());  // ok_split_count_1
  EXPECT_EQ(ModelFiles::Open(path).files().size(), 1u);
  WriteFile(path, Shard(0, 0, 1).Build());  // ok_split_count_0
  EXPECT_EQ(ModelFiles::Open(path).files().size(), 1u);
  WriteFile(Name(2), Baseline().Build());  // ok_split_name_only
  const ModelFiles m = ModelFiles::Open(Name(2));
  EXPECT_EQ(m.files().size(), 1u);
  EXPECT_EQ(m.warnings().size(), 1u);
}

TEST_F(ShardsTest, Folders) {
  const std::string folder = dir_ / "";
  ExpectError([&] { ModelFiles::Open(folder); }, {"without a .gguf file"});
  WriteFile(dir_ / "a.gguf", Baseline().Build());
  EXPECT_EQ(ModelFiles::Open(folder).files().size(), 1u);
  WriteAll();
  ExpectError([&] { ModelFiles::Open(folder); },
              {"2 models", "a.gguf", "m-00001-of-00003.gguf"});
}

}  // namespace
}  // namespace dequant
