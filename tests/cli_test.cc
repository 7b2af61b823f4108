// The program from outside: exit codes, messages, signals.
#include <gtest/gtest.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "dequant/safetensors.h"
#include "tests/support/gguf_builder.h"

namespace dequant {
namespace {

namespace fs = std::filesystem;

/// The program beside this test; DEQUANT_BIN may name another, also with an
/// emulator in front.
std::string Program() {
  if (const char* path = std::getenv("DEQUANT_BIN")) {
    return path;
  }
#ifdef _WIN32
  wchar_t self[MAX_PATH];
  ::GetModuleFileNameW(nullptr, self, MAX_PATH);
#else
  const fs::path self = fs::read_symlink("/proc/self/exe");
#endif
  return (fs::path(self).parent_path() / "dequant").string();
}

/// Runs the program through the shell, which may be given a variable. Returns
/// the exit code, 128 + n when killed by signal n.
int RunShell(const std::string& variable, const std::string& args) {
#ifdef _WIN32
  std::string line = Program() + " " + args;
  if (!variable.empty()) line = "set " + variable + "& " + line;
  std::replace(line.begin(), line.end(), '\'', '"');
  return std::system(line.c_str());
#else
  const int status =
      std::system((variable + " exec " + Program() + " " + args).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
#endif
}

/// What the program printed, with '\n' at the ends of lines.
std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Result {
  int code;  // 128 + n when killed by signal n
  std::string out, err;
};

class CliTest : public testing::Test {
 protected:
  /// `args` go through the shell.
  Result Run(const std::string& args, const std::string& environment = "") {
    const int code =
        RunShell(environment, args + " >'" + (scratch_ / "out") + "' 2>'" +
                                  (scratch_ / "err") + "'");
    return {code, ReadText(scratch_ / "out"), ReadText(scratch_ / "err")};
  }
  void ExpectFailure(int code, const std::string& args,
                     std::vector<std::string> mentions,
                     const std::string& environment = "") {
    const auto before = dir_.List();
    const Result r = Run(args, environment);
    EXPECT_EQ(r.code, code) << args << '\n' << r.err;
    EXPECT_TRUE(r.err.starts_with("dequant: ")) << r.err;
    if (code == 1) {
      EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    }
    for (const std::string& m : mentions) {
      EXPECT_NE(r.err.find(m), std::string::npos) << args << '\n' << r.err;
    }
    EXPECT_EQ(dir_.List(), before);
  }
  void WriteModel() { WriteFile(in_, Baseline().Build()); }

  TempDir dir_, scratch_;
  const std::string in_ = dir_ / "in.gguf", out_ = dir_ / "out.safetensors";
};

TEST_F(CliTest, HelpAndVersion) {
  for (const char* sub :
       {"", "info", "convert", "verify", "formats", "selftest"}) {
    const Result r = Run(std::string(sub) + " --help");
    EXPECT_EQ(r.code, 0);
    EXPECT_NE(r.out.find("Usage"), std::string::npos);
    if (*sub) {
      EXPECT_NE(r.out.find("Examples:"), std::string::npos);
    }
  }
  EXPECT_EQ(Run("--version").out.rfind("dequant ", 0), 0u);
}

TEST_F(CliTest, UsageErrors) {
  WriteModel();
  ExpectFailure(2, "", {"subcommand"});
  ExpectFailure(2, "frobnicate", {"frobnicate"});
  ExpectFailure(2, "convert " + in_, {"-o", "convert --help"});
  ExpectFailure(2, "convert", {"IN.gguf"});
  const std::string convert = "convert " + in_ + " -o " + out_;
  ExpectFailure(2, convert + " --dtype f8", {"f8"});
  ExpectFailure(2, convert + " --threads -1", {"-1"});
  ExpectFailure(2, convert + " --threads many", {"many"});
  ExpectFailure(2, convert + " --include '('", {"'('", "regular expression"});
  ExpectFailure(2, convert + " --dtype-for '(=f16'", {"regular expression"});
  ExpectFailure(2, convert + " --dtype-for a=f8", {"'a=f8'", "REGEX=bf16"});
  ExpectFailure(2, convert + " --dtype-for a", {"'a'", "REGEX=bf16"});
  ExpectFailure(2, convert + " --max-shard-size 5XB", {"xb unit"});
  ExpectFailure(2, convert + " --like a --shapes b", {"--like"});
  ExpectFailure(2, convert + " --bogus", {"--bogus"});
}

TEST_F(CliTest, Errors) {
  ExpectFailure(1, "info " + in_, {in_ + ": ", kNoSuchFile});
  WriteModel();
  const std::string convert = "convert " + in_ + " -o ";
  ExpectFailure(1, convert + in_ + " --force", {"is the input"});
  ExpectFailure(1, convert + dir_ / "absent/out", {"create it first"});
  ExpectFailure(1, convert + dir_ / "", {"is a directory"});
  ExpectFailure(1, convert + out_ + " --like " + dir_ / "absent", {"absent"});
  ExpectFailure(1, "info " + in_, {"DEQUANT_TARGET=foo"}, "DEQUANT_TARGET=foo");
#ifndef _WIN32
  ExpectFailure(1, convert + "/dev/full --force", {"is a device"});
  ExpectFailure(1, "info " + in_ + " >/dev/full 2>" + scratch_ / "err" + " #",
                {"standard output"});
#endif
  GgufBuilder b = Baseline();
  const std::string bytes = b.Build();
  WriteFile(in_, Patched<uint64_t>(bytes, b.At("t0.dim0"), 33));
  ExpectFailure(
      1, convert + out_,
      {"dequant: " + in_ + ": at byte " + std::to_string(b.At("t0.dim0")) +
       ": tensor 'quant.weight': a row of 33 elements is no multiple "
       "of the 32 of a Q8_0 block\n"});
  // A name on the terminal must not be able to act on it.
  WriteFile(in_, GgufBuilder().Tensor("\x1b[2J\n", {3}, 8, "x").Build());
  ExpectFailure(1, "info " + in_, {"\\x1B[2J\\x0A"});
}

#ifndef _WIN32  // where there is no such limit
TEST_F(CliTest, FileSizeLimit) {
  WriteModel();
  const Result r = Run("convert " + in_ + " -o " + out_, "ulimit -f 0;");
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_EQ(dir_.List(), std::vector<std::string>{"in.gguf"});
}
#endif

TEST_F(CliTest, ConvertAndInfo) {
  GgufBuilder b = Baseline();
  b.Tensor("odd\tname", {4}, 9999);
  WriteFile(in_, b.Build());
  Result r =
      Run("convert " + in_ + " -o " + out_ + " --dtype bf16 --threads 2");
  EXPECT_EQ(r.code, 0) << r.err;
  for (const char* text :
       {"3 tensors: 1 F32, 1 I8, 1 Q8_0", "from the file's dims", "GB/s",
        "target", "skipped 1 tensor"}) {
    EXPECT_NE(r.out.find(text), std::string::npos) << text << '\n' << r.out;
  }
  EXPECT_NE(r.err.find("warning: "), std::string::npos);
  EXPECT_EQ(ReadSafetensorsHeader(out_).tensors.size(), 3u);
  ExpectFailure(1, "convert " + in_ + " -o " + out_, {"--force"});
  r = Run("convert " + in_ + " -o " + out_ + " --force --quiet");
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.out, "");
  r = Run("convert " + in_ + " -o " + out_ + " --force --json");
  EXPECT_EQ(nlohmann::json::parse(r.out)["skipped"][0], "odd\tname");

  r = Run("info " + in_);
  EXPECT_EQ(r.code, 0);
  for (const char* text :
       {"general.architecture = \"test\"",
        "test.words = [\"one\", \"\", \"three\"]", "quant.weight", "[3, 64]",
        "unknown(9999)", "odd\\x09name"}) {
    EXPECT_NE(r.out.find(text), std::string::npos) << text << '\n' << r.out;
  }
  r = Run("info " + in_ + " --json --like " + out_);
  const auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json["tensors"].size(), 4u);
  EXPECT_EQ(json["tensors"][0]["shape"], (std::vector<int>{3, 64}));
  EXPECT_EQ(json["tensors"][0]["shape_source"], "reference");
  EXPECT_EQ(json["tensors"][3]["type"], "unknown(9999)");
  EXPECT_EQ(json["shapes"]["reference"], 3);
  EXPECT_EQ(json["files"][0]["metadata"]["test.numbers"]["value"]["first"],
            (std::vector<int>{1, 2, 65535}));
}

TEST_F(CliTest, Verify) {
  WriteModel();
  ASSERT_EQ(Run("convert " + in_ + " -o " + out_ + " --quiet").code, 0);
  Result r = Run("verify " + in_ + " " + out_);
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("3 of 3 tensors identical"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("written by dequant: ok"), std::string::npos) << r.out;
  std::string bytes = ReadFile(out_);
  bytes.back() ^= 1;
  WriteFile(out_, bytes);
  r = Run("verify " + in_ + " " + out_);
  EXPECT_EQ(r.code, 1);
  EXPECT_NE(r.out.find("2 of 3 tensors identical"), std::string::npos) << r.out;
  r = Run("verify " + in_ + " " + out_ + " --json");
  EXPECT_EQ(nlohmann::json::parse(r.out)["identical"], 2);
  ExpectFailure(1, "verify " + in_ + " " + in_, {in_, "safetensors"});
}

TEST_F(CliTest, Scales) {
  GgufBuilder b;
  b.Tensor("a.weight", {64, 2}, 40).Tensor("a.scale", {1}, 0);
  b.Tensor("a.input_scale", {1}, 0);
  WriteFile(in_, b.Build());
  Result r = Run("info " + in_);
  EXPECT_NE(r.out.find("1 NVFP4 weight with a scale that convert"),
            std::string::npos)
      << r.out;
  auto json = nlohmann::json::parse(Run("info --json " + in_).out);
  EXPECT_EQ(json["scales"][0]["weight"], "a.weight");
  EXPECT_EQ(json["scales"][0]["scale"], "a.scale");
  EXPECT_EQ(json["scales"][0]["factors"], 1);
  EXPECT_EQ(json["input_scales"][0], "a.input_scale");

  const std::string convert = "convert " + in_ + " -o " + out_ + " --force ";
  r = Run(convert);
  EXPECT_NE(r.out.find("multiplied scales into 1 NVFP4 weight"),
            std::string::npos)
      << r.out;
  EXPECT_NE(r.out.find("left alone 1 scale of inputs"), std::string::npos);
  EXPECT_EQ(Run("verify " + in_ + " " + out_).code, 0);
  json = nlohmann::json::parse(Run(convert + "--json").out);
  EXPECT_EQ(json["folded"][0]["scale"], "a.scale");
  EXPECT_EQ(json["input_scales"].size(), 1u);
  EXPECT_EQ(json["tensors"], 2);
  json = nlohmann::json::parse(Run(convert + "--json --no-fold").out);
  EXPECT_TRUE(json["folded"].empty());
  EXPECT_EQ(json["tensors"], 3);
  EXPECT_EQ(Run("verify " + in_ + " " + out_).code, 0);
}

TEST_F(CliTest, DTypeForAndSync) {
  WriteModel();
  const Result r = Run("convert " + in_ + " -o " + out_ +
                       " --sync --dtype-for '^plain=bf16' --dtype-for "
                       "'a=b|quant=F32' --dtype-for .=f16");
  EXPECT_EQ(r.code, 0) << r.err;
  std::map<std::string, std::string> dtypes;
  for (const auto& e : ReadSafetensorsHeader(out_).tensors) {
    dtypes[e.name] = e.dtype;
  }
  EXPECT_EQ(dtypes["plain.weight"], "BF16");
  EXPECT_EQ(dtypes["quant.weight"], "F32");
  EXPECT_EQ(dtypes["bytes"], "I8");
}

TEST_F(CliTest, Strict) {
  WriteFile(in_, Baseline().Build() + std::string(64, 'x'));
  EXPECT_EQ(Run("info " + in_).code, 0);
  ExpectFailure(1, "info " + in_ + " --strict",
                {in_, "behind the last tensor", "--strict"});
  ExpectFailure(1, "convert " + in_ + " -o " + out_ + " --strict",
                {in_, "behind the last tensor"});
  WriteModel();
  EXPECT_EQ(Run("info --strict " + in_).code, 0);
  EXPECT_EQ(Run("convert --strict " + in_ + " -o " + out_).code, 0);
}

TEST_F(CliTest, InfoShowsWhatContradicts) {
  WriteFile(in_, GgufBuilder()
                     .Tensor("lost.one", {8, 6}, 0)
                     .Tensor("wrong", {4}, 0)
                     .Build());
  WriteFile(dir_ / "shapes.json", R"({"lost.one": [1, 6, 8], "wrong": [5]})");
  const Result r = Run("info " + in_ + " --shapes " + dir_ / "shapes.json");
  EXPECT_EQ(r.code, 0);
  EXPECT_NE(r.out.find("1 tensor has only the dims to go by, and the reference "
                       "disagrees:\n  lost.one [6, 8] -> [1, 6, 8]"),
            std::string::npos)
      << r.out;
  EXPECT_NE(r.err.find("tensor 'wrong'"), std::string::npos) << r.err;
}

TEST_F(CliTest, Formats) {
  const Result r = Run("formats");
  EXPECT_EQ(static_cast<size_t>(std::count(r.out.begin(), r.out.end(), '\n')),
            Types().size() + 1);
  EXPECT_NE(r.out.find("Q4_K"), std::string::npos);
  EXPECT_TRUE(Run("formats --markdown").out.starts_with("| format |"));
}

/// One that takes a while.
GgufBuilder ManyTensors() {
  GgufBuilder b;
  for (int i = 0; i < 40; ++i) {
    b.Tensor("t" + std::to_string(i), {1024, 256}, 8);
  }
  return b;
}

#ifdef _WIN32
// Killed at any time: the target or nothing, and nothing else. Signals here
// are for the programs of one console, this one too.
TEST_F(CliTest, Killed) {
  WriteFile(in_, ManyTensors().Build());
  int killed = 0;
  for (DWORD delay = 0; delay < 300; delay += 15) {
    fs::remove(out_);
    std::string command = Program() + ".exe convert " + in_ + " -o " + out_ +
                          " --dtype f32 --threads 1 --quiet";
    STARTUPINFOA start = {};
    start.cb = sizeof(start);
    PROCESS_INFORMATION child;
    ASSERT_TRUE(::CreateProcessA(nullptr, command.data(), nullptr, nullptr,
                                 FALSE, 0, nullptr, nullptr, &start, &child));
    ::WaitForSingleObject(child.hProcess, delay);
    ::TerminateProcess(child.hProcess, 99);
    ::WaitForSingleObject(child.hProcess, INFINITE);
    DWORD code = 0;
    ::GetExitCodeProcess(child.hProcess, &code);
    ::CloseHandle(child.hThread);
    ::CloseHandle(child.hProcess);
    killed += code != 0;
    if (fs::exists(out_)) {
      EXPECT_EQ(ReadSafetensorsHeader(out_).tensors.size(), 40u);
      EXPECT_EQ(dir_.List().size(), 2u);
    } else {
      EXPECT_EQ(code, 99u);
      EXPECT_EQ(dir_.List().size(), 1u);
    }
  }
  EXPECT_GT(killed, 0);
}
#else
// A signal at any time: the old target or the new one, and nothing else.
TEST_F(CliTest, Signals) {
  WriteFile(in_, ManyTensors().Build());
  const std::string quiet = " >/dev/null 2>" + scratch_ / "err";
  int stopped = 0;
  int delay = 0;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    for (int i = 0; i < 6; ++i, delay += 3) {
      fs::remove(out_);
      const std::string command = "exec " + Program() + " convert " + in_ +
                                  " -o " + out_ + " --dtype f32 --threads 1" +
                                  quiet;
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
        ::_exit(127);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(delay));
      ::kill(child, signal);
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      const int code =
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (code == 0) {
        EXPECT_EQ(ReadSafetensorsHeader(out_).tensors.size(), 40u);
      } else {
        EXPECT_EQ(code, 128 + signal) << ReadFile(scratch_ / "err");
        ++stopped;
      }
      EXPECT_EQ(dir_.List().size(), code == 0 ? 2u : 1u);
    }
  }
  EXPECT_GT(stopped, 0);
}
#endif

}  // namespace
}  // namespace dequant
