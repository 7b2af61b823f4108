// A model in memory: the values of Convert, in memory of each tensor's own.
#include <gtest/gtest.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <filesystem>

#include "dequant/model.h"
#include "src/model/memory.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

namespace fs = std::filesystem;

class LoadTest : public testing::Test {
 protected:
  void Write(GgufBuilder b) { WriteFile(in_, b.Build()); }

  void ExpectError(const LoadOptions& o, std::vector<std::string> mentions) {
    try {
      LoadModel(in_, o);
      ADD_FAILURE() << "no error; expected: " << mentions[0];
    } catch (const Error& e) {
      for (const std::string& m : mentions) {
        EXPECT_NE(std::string(e.what()).find(m), std::string::npos) << e.what();
      }
    }
  }

  TempDir dir_;
  const std::string in_ = dir_ / "in.gguf", out_ = dir_ / "out.safetensors";
};

/// Every type, small and large, odd shapes.
GgufBuilder AllTypes() {
  GgufBuilder b;
  for (const TypeInfo& t : Types()) {
    const auto row = static_cast<uint64_t>(t.block_elements);
    b.Tensor(std::string(t.name), {row * 3, 2}, static_cast<uint32_t>(t.id));
  }
  b.Tensor("scalar", {}, 0)
      .Tensor("empty", {32, 0}, 8)
      .Tensor("rank5", {32, 1, 2, 1, 3}, 8)
      .Tensor("large", {1024, 1031}, 8)  // 2.1 MB as F16
      .Tensor("larger", {4096, 1536}, 2)
      .Tensor("copied", {1 << 20}, 26);
  return b;
}

TEST_F(LoadTest, GivesWhatConvertWrites) {
  Write(AllTypes());
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const int threads : {1, 3}) {
      ConvertOptions o;
      o.dtype = dtype;
      o.cast_all = threads == 1;
      o.force = true;
      o.threads = threads;
      o.reference = ShapeReference{"ref", {{"rank5", {1, 6, 32}}}};
      const ConvertSummary s = Convert(in_, out_, o);
      const LoadedModel m = LoadModel(in_, o);
      EXPECT_EQ(m.summary.tensors_per_type, s.tensors_per_type);
      EXPECT_EQ(m.summary.bytes_in, s.bytes_in);
      EXPECT_EQ(m.summary.bytes_out, s.bytes_out);
      ASSERT_EQ(m.tensors.size(), s.tensors);
      const auto f = SafetensorsFile::Open(out_);
      for (const LoadedTensor& t : m.tensors) {
        SCOPED_TRACE(t.name);
        const auto& entries = f.header().tensors;
        const auto e =
            std::find_if(entries.begin(), entries.end(),
                         [&](const auto& x) { return x.name == t.name; });
        ASSERT_NE(e, entries.end());
        EXPECT_EQ(t.dtype, e->dtype);
        EXPECT_EQ(t.shape, e->shape);
        EXPECT_EQ(t.shape_source, t.name == "rank5" ? ShapeSource::kReference
                                                    : ShapeSource::kDims);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data.data()) % 64, 0u);
        std::vector<uint8_t> want(e->end - e->begin);
        f.Read(*e, 0, want);
        EXPECT_TRUE(
            std::equal(t.data.begin(), t.data.end(), want.begin(), want.end()));
      }
    }
  }
}

TEST_F(LoadTest, DTypeFor) {
  Write(GgufBuilder()
            .Tensor("blk.0.norm", {32}, 1)
            .Tensor("blk.0.q", {32}, 8)
            .Tensor("blk.1.q", {32}, 8)
            .Tensor("plain", {32}, 0)
            .Tensor("int", {32}, 26));
  LoadOptions o;
  o.dtype_for = {{"norm$", DType::kF32},
                 {"^blk\\.1", DType::kBF16},
                 {"q$|int", DType::kF32}};
  std::map<std::string, std::string> dtypes;
  for (const LoadedTensor& t : LoadModel(in_, o).tensors) {
    dtypes[t.name] = t.dtype;
  }
  EXPECT_EQ(dtypes, (std::map<std::string, std::string>{{"blk.0.norm", "F32"},
                                                        {"blk.0.q", "F32"},
                                                        {"blk.1.q", "BF16"},
                                                        {"plain", "F32"},
                                                        {"int", "I32"}}));
  o.dtype_for = {{"[", DType::kF32}};
  ExpectError(o, {"'['", "regular expression"});
}

/// Pages of `data` that are in memory.
size_t Resident(std::span<const uint8_t> data) {
#ifdef _WIN32  // of the first ones that are alike; none where they are free
  MEMORY_BASIC_INFORMATION info;
  return ::VirtualQuery(data.data(), &info, sizeof(info)) != 0 &&
                 info.State == MEM_COMMIT
             ? info.RegionSize
             : 0;
#else
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> in(data.size() / page);
  if (::mincore(const_cast<uint8_t*>(data.data()), in.size() * page,
                in.data()) != 0) {
    return 0;  // not mapped any more
  }
  return static_cast<size_t>(
      std::count_if(in.begin(), in.end(), [](auto b) { return b & 1; }));
#endif
}

TEST_F(LoadTest, ALargeTensorGivesItsPagesBackAlone) {
  Write(AllTypes());
  LoadedModel m = LoadModel(in_, {});
  std::span<uint8_t> freed, kept;
  for (LoadedTensor& t : m.tensors) {
    if (t.name == "larger") {
      freed = t.data;
      EXPECT_GT(Resident(freed), 0u);
      const std::shared_ptr<void> copy = t.memory;
      t.memory.reset();
      EXPECT_GT(Resident(freed), 0u);  // another owner
    }
    if (t.name == "large") kept = t.data;
  }
  EXPECT_EQ(Resident(freed), 0u);
  EXPECT_GT(Resident(kept), 0u);
  const std::vector<uint8_t> before(kept.begin(), kept.end());
  const std::shared_ptr<void> memory = [&] {
    for (LoadedTensor& t : m.tensors) {
      if (t.name == "large") return t.memory;
    }
    return std::shared_ptr<void>();
  }();
  m = {};
  EXPECT_TRUE(std::equal(kept.begin(), kept.end(), before.begin()));
}

TEST_F(LoadTest, SmallTensorsOutliveTheModelToo) {
  Write(AllTypes());
  LoadedTensor t = LoadModel(in_, {}).tensors[2];
  EXPECT_EQ(t.name, "Q4_0");
  ASSERT_EQ(t.data.size(), 32u * 3 * 2 * 2);
  std::fill(t.data.begin(), t.data.end(), uint8_t{1});  // ours to write
}

TEST_F(LoadTest, CancelledAndChanged) {
  Write(AllTypes());
  for (const int after : {0, 1}) {
    LoadOptions o;
    int calls = 0;
    o.progress = [&](uint64_t, uint64_t) { return calls++ < after; };
    EXPECT_THROW(LoadModel(in_, o), Cancelled);
  }
  LoadOptions o;
  const auto size = fs::file_size(in_);
  o.progress = [&](uint64_t done, uint64_t) {
    if (done == 0) fs::resize_file(in_, size / 2);
    return true;
  };
  ExpectError(o, {in_, "file changed while reading"});
}

TEST_F(LoadTest, ProgressEndsWithAll) {
  Write(AllTypes());
  LoadOptions o;
  uint64_t last = 0;
  o.progress = [&](uint64_t done, uint64_t) {
    EXPECT_GE(done, last);
    last = done;
    return true;
  };
  EXPECT_EQ(LoadModel(in_, o).summary.bytes_out, last);
}

TEST_F(LoadTest, StrictAndUnknownTypes) {
  Write(GgufBuilder().Tensor("odd", {4}, 9999).Tensor("t", {4}, 0));
  const LoadedModel m = LoadModel(in_, {});
  EXPECT_EQ(m.summary.skipped, std::vector<std::string>{"odd"});
  EXPECT_EQ(m.tensors.size(), 1u);
  LoadOptions o;
  o.strict = true;
  ExpectError(o, {in_, "unknown(9999)", "--strict"});
}

// A file may be sparse: 8 TB of Q1_0 is 228 TB of F32, more than all addresses.
TEST_F(LoadTest, WhatCannotFitIsAnErrorThatNamesTheTensor) {
  for (const uint64_t blocks : {uint64_t{1} << 32, (uint64_t{8} << 40) / 18}) {
    GgufBuilder b;
    b.Tensor("small", {32}, 8).Tensor("huge", {128}, 41);
    const std::string bytes = b.Build();
    WriteFile(in_, Patched<uint64_t>(bytes, b.At("t1.dim0"), blocks * 128));
    std::error_code error;
    fs::resize_file(in_, b.At("t1.data") + blocks * 18, error);
    if (error) GTEST_SKIP() << "no such sparse files here: " << error.message();
    LoadOptions o;
    o.dtype = DType::kF32;
    ExpectError(o, {in_ + ": at byte ", "tensor 'huge'", "no memory", "GB"});
  }
}

#ifndef _WIN32
// A sparse file of 2^60 bytes, where there is such a thing: as F32 it would
// wrap.
TEST(LoadModelTest, OutputBeyondAllNumbersIsAnError) {
  const std::string path =
      "/dev/shm/dequant_test_" + std::to_string(::getpid()) + ".gguf";
  GgufBuilder b;
  b.Tensor("small", {32}, 8).Tensor("huge", {128}, 41);
  const std::string bytes = b.Build();
  const uint64_t blocks = (uint64_t{1} << 60) / 18;
  std::error_code error;
  try {
    WriteFile(path, Patched<uint64_t>(bytes, b.At("t1.dim0"), blocks * 128));
    fs::resize_file(path, b.At("t1.data") + blocks * 18, error);
  } catch (const std::runtime_error&) {
    error = std::make_error_code(std::errc::no_such_file_or_directory);
  }
  std::string what = "no error";
  if (!error) {
    try {
      LoadOptions o;
      o.dtype = DType::kF32;
      LoadModel(path, o);
    } catch (const Error& e) {
      what = e.what();
    }
  }
  fs::remove(path);
  if (error) GTEST_SKIP() << "no such file here: " << error.message();
  EXPECT_NE(what.find("tensor 'huge': with it the output would pass"),
            std::string::npos)
      << what;
}
#endif

TEST(ArenaTest, IsNullWhenTheSystemHasNoMore) {
  Arena arena(SIZE_MAX / 4);
  for (const size_t n : {SIZE_MAX, SIZE_MAX / 2, size_t{1} << 60}) {
    EXPECT_EQ(arena.Get(n), nullptr);
    EXPECT_EQ(errno, ENOMEM);
  }
}

TEST(ArenaTest, PiecesAreApart) {
  constexpr size_t kMiB = 1 << 20;
  std::vector<std::pair<std::shared_ptr<uint8_t>, size_t>> pieces;
  {
    Arena arena(100 * kMiB);
    for (int round = 0; round < 20; ++round) {
      for (const size_t n : {size_t{0}, size_t{1}, size_t{65}, kMiB - 1, kMiB,
                             kMiB + 1, 5 * kMiB, 40 * kMiB, 300 * kMiB}) {
        if (n > 5 * kMiB && round % 10 > 0) continue;
        pieces.emplace_back(arena.Get(n), n);
        uint8_t* const p = pieces.back().first.get();
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
        if (n > 0) p[0] = p[n - 1] = static_cast<uint8_t>(pieces.size());
      }
    }
  }
  for (size_t i = 0; i < pieces.size(); i += 2) pieces[i].first.reset();
  for (size_t i = 1; i < pieces.size(); i += 2) {
    const auto& [p, n] = pieces[i];
    if (n == 0) continue;
    EXPECT_EQ(p.get()[0], static_cast<uint8_t>(i + 1));
    EXPECT_EQ(p.get()[n - 1], static_cast<uint8_t>(i + 1));
  }
}

#ifndef _WIN32  // where a process cannot limit itself like that
// rt_alloc_fail: with little address space, it is mmap that says no.
TEST_F(LoadTest, MemoryThatIsRefusedIsAnError) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer needs all addresses";
#endif
  Write(AllTypes());
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // All that is mapped now, and 4 MB.
    std::ifstream statm("/proc/self/statm");
    uint64_t pages = 0;
    statm >> pages;
    statm.close();
    const rlim_t most =
        pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + (4 << 20);
    const struct rlimit limit = {most, most};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
    if (Arena(0).Get(8 << 20)) ::_exit(5);  // an emulator may not care
    try {
      LoadOptions o;
      o.threads = 1;
      LoadModel(in_, o);
    } catch (const Error& e) {
      ::_exit(e.subject().starts_with("tensor '") &&
                      e.reason().find("no memory") != std::string::npos
                  ? 0
                  : 1);
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(4);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 5) GTEST_SKIP() << "no limit on addresses here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}
#endif

TEST_F(LoadTest, BadInput) {
  WriteFile(in_, "GGUF");
  ExpectError({}, {in_, "truncated"});
  Write(GgufBuilder().Tensor("t", {4}, 0));
  LoadOptions o;
  o.threads = -1;
  ExpectError(o, {"threads"});
}

}  // namespace
}  // namespace dequant
