// Reading headers, and the writer's promise: complete or not at all.
#include "dequant/safetensors.h"

#include <gtest/gtest.h>
#ifndef _WIN32
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "src/file/atomic_file.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

namespace fs = std::filesystem;

class SafetensorsTest : public testing::Test {
 protected:
  static std::string Wrap(std::string_view header, std::string_view data = "") {
    return Bytes<uint64_t>(header.size()) + std::string(header) +
           std::string(data);
  }
  SafetensorsHeader Read(std::string_view bytes, bool need_data = true) {
    WriteFile(dir_ / "in", bytes);
    return ReadSafetensorsHeader(dir_ / "in", need_data);
  }
  static void ExpectError(const std::function<void()>& f,
                          std::string_view mention) {
    try {
      f();
      ADD_FAILURE() << "no error; expected: " << mention;
    } catch (const Error& e) {
      const std::string_view what = e.what();
      EXPECT_NE(what.find(mention), what.npos) << what;
      EXPECT_EQ(what.find('\n'), what.npos) << what;
    }
  }
  static std::span<const uint8_t> Span(std::string_view s) {
    return {reinterpret_cast<const uint8_t*>(s.data()), s.size()};
  }

  TempDir dir_;
};

TEST_F(SafetensorsTest, ReadsAHeader) {
  const auto h =
      Read(Wrap(R"({"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},)"
                R"("__metadata__":{"format":"pt"},)"
                R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )",
                "12345678"));
  ASSERT_EQ(h.tensors.size(), 2u);
  EXPECT_EQ(h.tensors[0].name, "a");
  EXPECT_TRUE(h.tensors[0].shape.empty());
  EXPECT_EQ(h.tensors[1].dtype, "F16");
  EXPECT_EQ(h.tensors[1].shape, (std::vector<uint64_t>{2, 1}));
  EXPECT_EQ(h.tensors[1].begin, 4u);
  EXPECT_EQ(h.metadata.at("format"), "pt");
}

TEST_F(SafetensorsTest, RejectsABadHeader) {
  const auto reject = [&](std::string bytes, const char* mention) {
    ExpectError([&] { Read(bytes); }, mention);
  };
  const auto tensor = [](const char* dtype, const char* shape,
                         const char* offsets) {
    return Wrap(std::string(R"({"a":{"dtype":")") + dtype + R"(","shape":)" +
                    shape + R"(,"data_offsets":)" + offsets + "}}",
                "1234");
  };
  EXPECT_NO_THROW(Read(tensor("F32", "[1]", "[0,4]")));
  reject("", "0 bytes");
  reject("1234567", "7 bytes");
  reject(Bytes(~uint64_t{0}) + "{}", "announce");
  reject(Bytes(uint64_t{3}) + "{}", "announce");
  reject(Bytes(uint64_t{0}), "does not start with");
  reject(Wrap(" {}"), "does not start with");
  reject(Wrap("{\"a\":"), "not valid JSON");
  reject(Wrap("{}x"), "not valid JSON");
  reject(Wrap("{}", "x"), "its header describes 0");
  reject(tensor("F32", "[1]", "[0,8]"), "span 8 bytes");
  reject(tensor("F32", "[2]", "[0,4]"), "takes 8");
  reject(tensor("F32", "[-1]", "[0,4]"), "integers");
  reject(tensor("F32", "[1.5]", "[0,4]"), "integers");
  reject(tensor("F32", "1", "[0,4]"), "not an array");
  reject(tensor("F32", "[4294967296,4294967296]", "[0,0]"), "2^63");
  reject(tensor("F32", "[4611686018427387904]", "[0,0]"), "2^63");
  reject(tensor("F32", "[1]", "[4,0]"), "backwards");
  reject(tensor("F32", "[1]", "[0]"), "two integers");
  reject(tensor("U8", "[2]", "[2,4]"), "behind a hole");
  reject(tensor("F32", "[0]", "[0,0]"), "holds 4 bytes");
  reject(Wrap(R"({"a":1})"), "object");
  reject(Wrap(R"({"__metadata__":{"a":1}})"), "more than strings");
  const std::string entry = R"("a":{"dtype":"U8","shape":[2],"data_offsets":)";
  reject(Wrap("{" + entry + "[0,2]}," + entry + "[2,4]}}", "1234"),
         "key 'a': occurs twice");
  reject(Wrap("{" + entry +
                  "[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
                  "\"data_offsets\":[1,3]}}",
              "123"),
         "inside another");
  reject(Wrap("{" + std::string(100000, '[')), "JSON");
  // A reference may come without its data.
  EXPECT_NO_THROW(Read(Wrap("{" + entry + "[0,2]}}"), /*need_data=*/false));
}

TEST_F(SafetensorsTest, WritesWhatItReads) {
  const std::string path = dir_ / "out.safetensors";
  std::vector<SafetensorsEntry> entries = {{"wide", "F32", {2, 1}, 0, 0},
                                           {"\"}\n\xC3\xBC", "F16", {3}, 0, 0},
                                           {"none", "F16", {0, 7}, 0, 0},
                                           {"scalar", "I8", {}, 0, 0}};
  SafetensorsWriter w(path, entries, {{"format", "pt"}, {"k", "\"v\""}}, false);
  EXPECT_TRUE(!fs::exists(path));
  const auto& e = w.entries();
  w.Write(e[3], 0, Span("s"));
  w.Write(e[1], 2, Span("cdef"));
  w.Write(e[1], 0, Span("ab"));
  w.Write(e[0], 0, Span("12345678"));
  w.Commit();
  EXPECT_EQ(dir_.List(), std::vector<std::string>{"out.safetensors"});
  const std::string bytes = ReadFile(path);
  EXPECT_EQ(bytes.size(), w.size());
  EXPECT_TRUE(bytes.ends_with("12345678abcdefs"));
  const auto h = ReadSafetensorsHeader(path);
  EXPECT_EQ(h.data_offset % 8, 0u);
  ASSERT_EQ(h.tensors.size(), 4u);
  EXPECT_EQ(h.tensors[0].name, "wide");
  EXPECT_EQ(h.metadata.at("k"), "\"v\"");
  uint64_t end = 0;
  for (const SafetensorsEntry& t : h.tensors) {
    EXPECT_EQ(t.begin, end);
    end = t.end;
    const auto it = std::find_if(entries.begin(), entries.end(),
                                 [&](auto& x) { return x.name == t.name; });
    ASSERT_NE(it, entries.end());
    EXPECT_EQ(it->shape, t.shape);
  }
}

TEST_F(SafetensorsTest, WithoutCommitNothingIsLeft) {
  const std::string path = dir_ / "out.safetensors";
  {
    SafetensorsWriter w(path, {{"a", "F32", {1000}, 0, 0}}, {}, false);
    w.Write(w.entries()[0], 0, Span("1234"));
  }
  EXPECT_TRUE(dir_.List().empty());
  WriteFile(path, "old");
  { SafetensorsWriter w(path, {{"a", "F32", {1000}, 0, 0}}, {}, true); }
  EXPECT_EQ(ReadFile(path), "old");
  EXPECT_EQ(dir_.List().size(), 1u);
}

TEST_F(SafetensorsTest, RefusesTargets) {
  const auto write = [&](const std::string& path, bool overwrite) {
    SafetensorsWriter w(path, {{"a", "U8", {1}, 0, 0}}, {}, overwrite);
    w.Write(w.entries()[0], 0, Span("x"));
    w.Commit();
  };
  const std::string out = dir_ / "out";
  WriteFile(out, "old");
  ExpectError([&] { write(out, false); }, "exists already; --force");
  EXPECT_EQ(ReadFile(out), "old");
  write(out, true);
  EXPECT_EQ(ReadFile(out).back(), 'x');

  fs::create_directory(dir_ / "folder");
  ExpectError([&] { write(dir_ / "folder", true); }, "is a directory");
  ExpectError([&] { write(dir_ / "folder/", true); }, "is a directory");
  ExpectError([&] { write(dir_ / "absent/out", false); }, "create it first");
  ExpectError([&] { write(out + "/out", false); }, "directory");
#ifdef _WIN32
  ExpectError([&] { write("NUL", true); }, "is a device");
  EXPECT_EQ(dir_.List(), (std::vector<std::string>{"folder", "out"}));
#else
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  ExpectError([&] { write(dir_ / "fifo", true); }, "is a FIFO");
  ExpectError([&] { write("/dev/full", true); }, "is a device");

  // A link is replaced, never written through.
  WriteFile(dir_ / "kept", "kept");
  fs::create_symlink("kept", dir_ / "link");
  ExpectError([&] { write(dir_ / "link", false); }, "exists already");
  write(dir_ / "link", true);
  EXPECT_EQ(ReadFile(dir_ / "kept"), "kept");
  EXPECT_FALSE(fs::is_symlink(dir_ / "link"));
  EXPECT_EQ(dir_.List(), (std::vector<std::string>{"fifo", "folder", "kept",
                                                   "link", "out"}));
#endif
}

TEST_F(SafetensorsTest, RefusesWhatTheFormatCannotHold) {
  const auto make = [&](SafetensorsEntry e) {
    SafetensorsWriter w(dir_ / "out", {std::move(e)}, {}, false);
  };
  ExpectError([&] { make({"__metadata__", "U8", {1}, 0, 0}); }, "reserved");
  ExpectError([&] { make({"a", "Q4_K", {1}, 0, 0}); }, "Q4_K");
  ExpectError([&] { make({"a", "F32", {1ull << 62}, 0, 0}); }, "2^63");
  std::vector<SafetensorsEntry> many;
  for (int i = 0; i < 1700; ++i) {
    many.push_back({std::to_string(i) + std::string(60000, 'n'), "U8", {1}});
  }
  ExpectError([&] { SafetensorsWriter(dir_ / "out", many, {}, false); },
              "100.0 MB");
  EXPECT_TRUE(dir_.List().empty());
}

TEST_F(SafetensorsTest, FullDiskIsFoundAtTheStart) {
  ExpectError(
      [&] {
        SafetensorsWriter(dir_ / "out", {{"a", "U8", {1ull << 50}, 0, 0}}, {},
                          false);
      },
      "1.13 PB");
  EXPECT_TRUE(dir_.List().empty());
}

#ifndef _WIN32  // where there is no such limit
TEST_F(SafetensorsTest, FileSizeLimitIsAnError) {
  struct rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit low = old;
  low.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  ExpectError(
      [&] {
        SafetensorsWriter(dir_ / "out", {{"a", "U8", {5000}, 0, 0}}, {}, false);
      },
      "ulimit -f");
  ::setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_TRUE(dir_.List().empty());
}
#endif

TEST_F(SafetensorsTest, ATargetThatAppearsMeanwhileIsKept) {
  AtomicFile file(dir_ / "out", 1, false);
  file.Write(0, Span("n"));
  WriteFile(dir_ / "out", "theirs");
  ExpectError([&] { file.Publish(); }, "exists already");
  EXPECT_EQ(ReadFile(dir_ / "out"), "theirs");
}

TEST_F(SafetensorsTest, RemovesADeadWritersFile) {
  const std::string dead = dir_ / ".out.abcdefghijkl.tmp";
  const std::string alive = dir_ / ".out.zbcdefghijkl.tmp";
  WriteFile(dead, "x");
  WriteFile(alive, "x");
  WriteFile(dir_ / ".outside.abcdefghijkl.tmp", "x");
#ifdef _WIN32
  std::ifstream writer(alive);
#else
  const Fd writer(::open(alive.c_str(), O_RDONLY));
  ASSERT_EQ(::flock(writer.get(), LOCK_EX), 0);
#endif
  { AtomicFile file(dir_ / "out", 1, false); }
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(dir_ / ".outside.abcdefghijkl.tmp"));
}

TEST_F(SafetensorsTest, ManyWritersOneTarget) {
  std::vector<std::jthread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const std::string text(1000, static_cast<char>('a' + i));
      AtomicFile file(dir_ / "out", text.size(), true);
      file.Write(0, Span(text));
      file.Publish();
    });
  }
  threads.clear();
  const std::string bytes = ReadFile(dir_ / "out");
  EXPECT_EQ(bytes, std::string(1000, bytes[0]));
  EXPECT_EQ(dir_.List(), std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace dequant
