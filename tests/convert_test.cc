// Conversion: right bytes in the right place, for any number of threads and
// shards; and nothing left behind when something is wrong.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "dequant/model.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

namespace fs = std::filesystem;

class ConvertTest : public testing::Test {
 protected:
  void WriteModel(GgufBuilder b) { WriteFile(in_, b.Build()); }

  /// Every tensor of the output must be what Dequantize() says, or a copy.
  void ExpectRight(const std::string& out, DType dtype, bool cast_all = false) {
    const auto header = ReadSafetensorsHeader(out);
    const std::string bytes = ReadFile(out);
    const ModelFiles model = ModelFiles::Open(in_);
    for (const SafetensorsEntry& e : header.tensors) {
      SCOPED_TRACE(e.name);
      const TensorInfo* t = model.files()[0].FindTensor(e.name);
      ASSERT_NE(t, nullptr);
      std::vector<uint8_t> packed(t->bytes), want;
      model.files()[0].Read(*t, 0, packed);
      if (t->type->kind == TypeKind::kBlock ||
          (t->type->kind == TypeKind::kFloat && cast_all)) {
        EXPECT_EQ(e.dtype, Name(dtype));
        want.resize(t->elements * SizeOf(dtype));
        ASSERT_EQ(Dequantize(t->type_id, packed.data(), dtype, want.data(),
                             static_cast<int64_t>(t->elements)),
                  Status::kOk);
      } else {
        EXPECT_EQ(e.dtype, t->type->name);
        want = packed;
      }
      ASSERT_EQ(e.end - e.begin, want.size());
      EXPECT_TRUE(std::equal(want.begin(), want.end(),
                             reinterpret_cast<const uint8_t*>(bytes.data()) +
                                 header.data_offset + e.begin));
    }
  }
  void ExpectError(const ConvertOptions& o, std::vector<std::string> mentions) {
    const auto before = dir_.List();
    try {
      Convert(in_, out_, o);
      ADD_FAILURE() << "no error; expected: " << mentions[0];
    } catch (const Error& e) {
      for (const std::string& m : mentions) {
        EXPECT_NE(std::string(e.what()).find(m), std::string::npos) << e.what();
      }
    }
    EXPECT_EQ(dir_.List(), before);
  }

  TempDir dir_;
  const std::string in_ = dir_ / "in.gguf", out_ = dir_ / "out.safetensors";
};

/// One tensor of every type that can be read, and odd shapes.
GgufBuilder AllTypes() {
  GgufBuilder b;
  b.Kv("general.architecture", "test").Kv("test.width", 7u);
  b.Kv("general.bytes", std::string_view("\xFF\xFE"));
  for (const TypeInfo& t : Types()) {
    const auto row = static_cast<uint64_t>(t.block_elements);
    b.Tensor(std::string(t.name), {row * 3, 2}, static_cast<uint32_t>(t.id));
  }
  b.Tensor("scalar", {}, 0)
      .Tensor("empty", {32, 0}, 8)
      .Tensor("rank5", {32, 1, 2, 1, 3}, 8)
      .Tensor("odd", {7}, 24)
      .Tensor("large", {1024, 1031}, 8);
  return b;
}

TEST_F(ConvertTest, EveryTypeEveryOutput) {
  WriteModel(AllTypes());
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const bool cast_all : {false, true}) {
      ConvertOptions o;
      o.dtype = dtype;
      o.cast_all = cast_all;
      o.force = true;
      const ConvertSummary s = Convert(in_, out_, o);
      EXPECT_EQ(s.tensors, Types().size() + 5);
      EXPECT_EQ(s.outputs, std::vector<std::string>{out_});
      ExpectRight(out_, dtype, cast_all);
      const auto h = ReadSafetensorsHeader(out_);
      EXPECT_EQ(h.tensors.size(), s.tensors);
      EXPECT_EQ(h.tensors.back().end, s.bytes_out);
      for (const SafetensorsEntry& e : h.tensors) {
        EXPECT_EQ(e.begin % SafetensorsSizeOf(e.dtype), 0u) << e.name;
        if (e.name == "rank5") {
          EXPECT_EQ(e.shape, (std::vector<uint64_t>{3, 1, 2, 1, 32}));
        }
      }
      EXPECT_EQ(h.metadata.at("format"), "pt");
      EXPECT_EQ(h.metadata.at("gguf.test.width"), "7");
      EXPECT_EQ(h.metadata.at("dequant.source"), "in.gguf");
      EXPECT_FALSE(h.metadata.contains("gguf.general.bytes"));
    }
  }
  EXPECT_EQ(dir_.List(),
            (std::vector<std::string>{"in.gguf", "out.safetensors"}));
}

TEST_F(ConvertTest, SameBytesForAnyNumberOfThreads) {
  WriteModel(AllTypes());
  std::string first;
  for (const int threads : {1, 2, 3, 7, 0}) {
    ConvertOptions o;
    o.threads = threads;
    o.force = true;
    Convert(in_, out_, o);
    const std::string bytes = ReadFile(out_);
    if (first.empty()) first = bytes;
    EXPECT_EQ(bytes, first) << threads;
  }
}

TEST_F(ConvertTest, Shapes) {
  WriteModel(GgufBuilder()
                 .OrigShape("keyed", {1, 6, 32})
                 .Tensor("keyed", {32, 6}, 8)
                 .Tensor("plain", {32, 6}, 8)
                 .Tensor("like", {32, 6}, 8));
  ConvertOptions o;
  o.reference = ShapeReference{"ref", {{"like", {1, 192}}, {"x", {1}}}};
  const ConvertSummary s = Convert(in_, out_, o);
  std::map<std::string, std::vector<uint64_t>> shapes;
  for (const auto& e : ReadSafetensorsHeader(out_).tensors) {
    shapes[e.name] = e.shape;
  }
  EXPECT_EQ(shapes["keyed"], (std::vector<uint64_t>{1, 6, 32}));
  EXPECT_EQ(shapes["plain"], (std::vector<uint64_t>{6, 32}));
  EXPECT_EQ(shapes["like"], (std::vector<uint64_t>{1, 192}));
  EXPECT_EQ(s.shapes.counts.at(ShapeSource::kReference), 1u);
  EXPECT_EQ(s.shapes.counts.at(ShapeSource::kOrigShape), 1u);
  EXPECT_EQ(s.shapes.counts.at(ShapeSource::kDims), 1u);
  EXPECT_EQ(s.shapes.corrected.size(), 1u);

  o.force = true;
  o.reference = ShapeReference{"ref", {{"plain", {1, 191}}}};
  ExpectError(o, {"tensor 'plain'", "[1, 191]", "[6, 32]", "ref"});
  o.reference = ShapeReference{"ref", {{"nobody", {1}}}};
  EXPECT_EQ(Convert(in_, out_, o).warnings.size(), 1u);
}

TEST_F(ConvertTest, FiltersAndUnknownTypes) {
  WriteModel(GgufBuilder()
                 .Tensor("blk.0.a", {4}, 0)
                 .Tensor("blk.0.b", {4}, 9999)
                 .Tensor("blk.1.a", {4}, 0)
                 .Tensor("blk.10.a", {4}, 0)
                 .Tensor("__metadata__", {4}, 0));
  ConvertOptions o;
  o.include = "^blk\\.";
  o.exclude = "blk\\.1\\.";
  const ConvertSummary s = Convert(in_, out_, o);
  EXPECT_EQ(s.tensors, 2u);
  EXPECT_EQ(s.skipped, std::vector<std::string>{"blk.0.b"});
  EXPECT_EQ(s.warnings.size(), 1u);
  EXPECT_EQ(ReadSafetensorsHeader(out_).tensors[1].name, "blk.10.a");

  o.include = "(";
  ExpectError(o, {"'('", "regular expression"});
  o = {};
  o.force = true;
  ExpectError(o, {"tensor '__metadata__'", "--exclude"});  // tn_metadata
  o.include = "^$";
  EXPECT_EQ(Convert(in_, out_, o).tensors, 0u);
  EXPECT_TRUE(ReadSafetensorsHeader(out_).tensors.empty());
}

TEST_F(ConvertTest, DTypeFor) {
  WriteModel(GgufBuilder()
                 .Tensor("a", {32}, 8)
                 .Tensor("b", {32}, 0)
                 .Tensor("c", {32}, 1)
                 .Tensor("i", {32}, 26));
  ConvertOptions o;
  o.dtype_for = {{"a", DType::kF32}, {"a|b|i", DType::kBF16}};
  Convert(in_, out_, o);
  std::map<std::string, std::string> dtypes;
  for (const auto& e : ReadSafetensorsHeader(out_).tensors) {
    dtypes[e.name] = e.dtype;
  }
  EXPECT_EQ(dtypes,
            (std::map<std::string, std::string>{
                {"a", "F32"}, {"b", "BF16"}, {"c", "F16"}, {"i", "I32"}}));
  EXPECT_TRUE(Verify(in_, out_, {}).ok());
  o.force = true;
  o.dtype_for = {{"(", DType::kF32}};
  ExpectError(o, {"'('", "regular expression"});
}

TEST_F(ConvertTest, StrictRejectsWhatIsWarnedAbout) {
  ConvertOptions o;
  o.strict = true;
  const std::string good = Baseline().Build();
  WriteFile(in_, good + std::string(100, 'x'));  // ok_trailing_garbage
  ExpectError(o, {in_, "behind the last tensor", "--strict"});
  WriteFile(in_, good + good);  // ok_concat_twice
  ExpectError(o, {in_, "behind the last tensor"});
  WriteModel(GgufBuilder().Tensor("odd", {4}, 9999).Tensor("t", {4}, 0));
  ExpectError(o, {in_, "unknown(9999)"});
  WriteModel(Baseline());
  EXPECT_EQ(Convert(in_, out_, o).tensors, 3u);
}

TEST_F(ConvertTest, Sync) {
  WriteModel(Baseline());
  ConvertOptions o;
  o.sync = true;
  o.max_shard_size = 1;
  EXPECT_EQ(Convert(in_, out_, o).outputs.size(), 4u);
  EXPECT_TRUE(Verify(in_, out_ + ".index.json", {}).ok());
}

TEST_F(ConvertTest, LongNamesDoNotExhaustTheStack) {
  WriteModel(GgufBuilder().Tensor(std::string(65535, 'n'), {4}, 0));
  ConvertOptions o;
  o.include = "(n|m)*x?";
  EXPECT_EQ(Convert(in_, out_, o).tensors, 1u);
}

TEST_F(ConvertTest, Shards) {
  WriteModel(GgufBuilder()
                 .Tensor("a", {64}, 8)
                 .Tensor("b", {3}, 0)
                 .Tensor("c", {32, 32}, 8)
                 .Tensor("d", {5}, 0));
  ConvertOptions o;
  o.max_shard_size = 144;
  const ConvertSummary s = Convert(in_, out_, o);
  EXPECT_EQ(dir_.List(), (std::vector<std::string>{
                             "in.gguf", "out-00001-of-00003.safetensors",
                             "out-00002-of-00003.safetensors",
                             "out-00003-of-00003.safetensors",
                             "out.safetensors.index.json"}));
  EXPECT_EQ(s.outputs.size(), 4u);
  const auto index = nlohmann::json::parse(ReadFile(s.outputs[3]));
  EXPECT_EQ(index["metadata"]["total_size"], 128 + 12 + 2048 + 20);
  EXPECT_EQ(index["weight_map"].size(), 4u);
  EXPECT_EQ(index["weight_map"]["c"], "out-00002-of-00003.safetensors");
  size_t tensors = 0;
  for (size_t i = 0; i < 3; ++i) {
    ExpectRight(s.outputs[i], DType::kF16);
    tensors += ReadSafetensorsHeader(s.outputs[i]).tensors.size();
  }
  EXPECT_EQ(tensors, 4u);
  // The whole is also a reference for --like.
  EXPECT_EQ(ShapeReference::FromSafetensors(s.outputs[3]).shapes.size(), 4u);

  ExpectError(o, {"out-00001-of-00003.safetensors", "exists already"});
  fs::remove(s.outputs[0]);
  ExpectError(o, {"out-00002-of-00003.safetensors", "exists already"});

  o.max_shard_size = 1 << 20;  // one shard needs no index
  EXPECT_EQ(Convert(in_, out_, o).outputs, std::vector<std::string>{out_});
}

TEST_F(ConvertTest, ShardsIn) {
  for (uint16_t i = 0; i < 2; ++i) {
    GgufBuilder b;
    b.Kv("split.no", i).Kv("split.count", uint16_t{2});
    b.Tensor("t" + std::to_string(i), {64}, 8);
    WriteFile(dir_ / ("m-0000" + std::to_string(i + 1) + "-of-00002.gguf"),
              b.Build());
  }
  const ConvertSummary s =
      Convert(dir_ / "m-00002-of-00002.gguf", out_, ConvertOptions());
  EXPECT_EQ(s.tensors, 2u);
  EXPECT_EQ(ReadSafetensorsHeader(out_).tensors.size(), 2u);
  ConvertOptions o;
  o.force = true;
  for (const char* shard : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    try {
      Convert(dir_ / "m-00001-of-00002.gguf", dir_ / shard, o);
      ADD_FAILURE() << "overwrote a shard";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("the input"), std::string::npos);
    }
  }
}

TEST_F(ConvertTest, TheInputIsNeverTheOutput) {
  WriteModel(Baseline());
  const std::string before = ReadFile(in_);
  std::vector<std::string> outs = {in_, dir_ / "hard", dir_ / "./in.gguf"};
  fs::create_hard_link(in_, dir_ / "hard");
#ifndef _WIN32  // where links need a privilege
  fs::create_symlink(in_, dir_ / "soft");
  outs.push_back(dir_ / "soft");
#endif
  ConvertOptions o;
  o.force = true;
  for (const std::string& out : outs) {
    try {
      Convert(in_, out, o);
      ADD_FAILURE() << "overwrote " << out;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("is the input"), std::string::npos)
          << e.what();
    }
  }
  EXPECT_EQ(ReadFile(in_), before);
}

TEST_F(ConvertTest, Cancelled) {
  WriteModel(AllTypes());
  for (const int after : {0, 1}) {
    ConvertOptions o;
    int calls = 0;
    o.progress = [&](uint64_t done, uint64_t total) {
      EXPECT_LE(done, total);
      return calls++ < after;
    };
    EXPECT_THROW(Convert(in_, out_, o), Cancelled);
    EXPECT_EQ(dir_.List(), std::vector<std::string>{"in.gguf"});
  }
}

TEST_F(ConvertTest, ProgressEndsWithAll) {
  WriteModel(AllTypes());
  ConvertOptions o;
  uint64_t last = 0, all = 0;
  o.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    last = done;
    all = total;
    return true;
  };
  const ConvertSummary s = Convert(in_, out_, o);
  EXPECT_EQ(last, s.bytes_out);
  EXPECT_EQ(all, s.bytes_out);
}

// rt_truncate_before_read, rt_rewrite_in_place
TEST_F(ConvertTest, AFileThatChangesIsAnError) {
  WriteModel(AllTypes());
  const auto size = fs::file_size(in_);
  ConvertOptions o;
  bool done_once = false;
  o.progress = [&](uint64_t, uint64_t) {
    if (!done_once) fs::resize_file(in_, size / 2);
    done_once = true;
    return true;
  };
  ExpectError(o, {in_, "file changed while reading"});

  WriteModel(AllTypes());
  done_once = false;
  o.progress = [&](uint64_t, uint64_t) {
    if (!done_once) {
      fs::last_write_time(
          in_, fs::file_time_type::clock::now() + std::chrono::seconds(5));
    }
    done_once = true;
    return true;
  };
  ExpectError(o, {in_, "file changed while reading"});
}

TEST_F(ConvertTest, NamesAreUtf8) {
  const std::string folder = dir_ / "modèles 模型", in = folder + "/один.gguf",
                    out = folder + "/два.safetensors";
  fs::create_directory(U8Path(folder));
  WriteModel(Baseline());
  fs::rename(in_, U8Path(in));
  ConvertOptions o;
  o.max_shard_size = 150;
  const ConvertSummary s = Convert(in, out, o);
  for (const std::string& path : s.outputs) {
    EXPECT_TRUE(fs::exists(U8Path(path))) << path;
  }
  EXPECT_TRUE(Verify(folder, s.outputs.back(), {}).ok());
  EXPECT_EQ(ReadSafetensorsHeader(s.outputs[0]).metadata.at("dequant.source"),
            "один.gguf");
}

TEST_F(ConvertTest, BadInputLeavesNothing) {
  WriteFile(in_, "GGUF");
  ExpectError({}, {in_, "truncated"});
  fs::remove(in_);
  ExpectError({}, {in_, kNoSuchFile});
  WriteModel(Baseline());
  ConvertOptions o;
  o.threads = -1;
  ExpectError(o, {"threads"});
}

}  // namespace
}  // namespace dequant
