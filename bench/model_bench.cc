// model_bench MODEL.gguf FOLDER [ROUNDS [THREADS]]
//
// How long a whole model takes, and where the time goes; JSON on stdout, all
// times in seconds, one per round. The contestants take turns, so that a round
// is fair to all on a machine that others use too:
//
//   open        the tensor table and the metadata
//   load        LoadModel to F16
//   loop        what no loader can do without: reads the same input bytes and
//               writes as many output bytes into equally fresh memory
//   read        reads the input, into buffers that stay in the caches
//   dequantize  from and to buffers that stay in the caches
//   from_pread  reads the input as LoadModel does and dequantizes it to buffers
//               that stay in the caches
//   from_map    the same from a fresh mapping of the input
//   fault       touches every page of fresh memory
//   pwrite      writes the output to a file in FOLDER from such buffers
//   mapped      writes it into a mapped file instead
//   cold_...    with the input dropped from the page cache first
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dequant/model.h"
#include "src/file/io.h"
#include "src/model/memory.h"
#include "src/model/plan.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceBytes = 2 << 20;    // as LoadModel
constexpr uint64_t kWriteBytes = 512 << 10;  // as Convert

/// A file without a name, of that size.
class TempFile {
 public:
  TempFile(const std::string& folder, uint64_t size) {
    std::string path = folder + "/model_bench_XXXXXX";
    fd_ = Fd(::mkstemp(path.data()));
    ::unlink(path.c_str());
    if (!fd_ || ::posix_fallocate(fd_.get(), 0, static_cast<off_t>(size))) {
      throw Error(path, Error::kNoOffset, "", "no room for the output");
    }
  }
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
};

/// The parts of a model's way, each on its own.
class Parts {
 public:
  Parts(const ModelFiles& model, const LoadOptions& options, std::string folder)
      : options_(options), folder_(std::move(folder)) {
    plan_ = PlanTensors(model, options_, RulesOf(options_), summary_);
    uint64_t begin = 0;
    for (const PlannedTensor& t : plan_) {
      begin_.push_back(begin);
      begin += t.out_bytes();
      std::vector<uint8_t>& sample = samples_[t.info().type_id];
      const uint64_t bytes = std::min<uint64_t>(
          t.info().bytes, kPiece / t.block_bytes() * t.block_bytes());
      if (bytes <= sample.size()) continue;
      sample.resize(bytes);
      t.source.file->Read(t.info(), 0, sample);
    }
  }

  uint64_t bytes_in() const { return summary_.bytes_in; }
  uint64_t bytes_out() const { return summary_.bytes_out; }
  uint64_t tensors() const { return plan_.size(); }

  void Loop() {
    memory_ = Arena(0).Get(bytes_out());
    Each(kSliceBytes, [&](const PlannedTensor& t, const Slice& s, uint8_t* out,
                          uint64_t n, Scratch& scratch) {
      ReadPieces(t, s, scratch);
      std::memset(out, 1, n);
    });
  }
  void Read() {
    memory_ = nullptr;
    Each(kSliceBytes,
         [&](const PlannedTensor& t, const Slice& s, uint8_t*, uint64_t,
             Scratch& scratch) { ReadPieces(t, s, scratch); });
  }
  void Dequantize() {
    memory_ = nullptr;
    Each(kSliceBytes, [&](const PlannedTensor& t, const Slice& s, uint8_t*,
                          uint64_t, Scratch& scratch) {
      if (!t.dtype) return;
      const auto& sample = samples_.at(t.info().type_id);
      const uint64_t most = sample.size() / t.block_bytes();
      const auto out = scratch.out.Get(most * t.block_out());
      for (uint64_t done = 0; done < s.blocks; done += most) {
        const uint64_t blocks = std::min(most, s.blocks - done);
        DequantizeOrThrow(t.source, t.info().type_id, sample.data(), *t.dtype,
                          out.data(), blocks * t.block_elements());
      }
    });
  }
  void FromPread() {
    memory_ = nullptr;
    Each(kSliceBytes, [&](const PlannedTensor& t, const Slice& s, uint8_t*,
                          uint64_t, Scratch& scratch) {
      ForPieces(t, s, [&](uint64_t block, uint64_t blocks) {
        const auto out = scratch.out.Get(blocks * t.block_out());
        ReadBlocks(t, t.dtype, block, blocks, out, scratch);
      });
    });
  }
  void FromMap() {
    memory_ = nullptr;
    std::map<const GgufFile*, std::shared_ptr<uint8_t>> maps;
    for (const PlannedTensor& t : plan_) {
      const GgufFile* file = t.source.file;
      if (!maps.contains(file)) maps[file] = Map(file->fd(), file->size());
    }
    Each(kSliceBytes, [&](const PlannedTensor& t, const Slice& s, uint8_t*,
                          uint64_t, Scratch& scratch) {
      const uint8_t* const data =
          maps.at(t.source.file).get() + t.info().offset;
      ForPieces(t, s, [&](uint64_t block, uint64_t blocks) {
        const auto out = scratch.out.Get(blocks * t.block_out());
        const uint8_t* const from = data + block * t.block_bytes();
        if (t.dtype) {
          DequantizeOrThrow(t.source, t.info().type_id, from, *t.dtype,
                            out.data(), blocks * t.block_elements());
        } else {
          std::memcpy(out.data(), from, out.size());
        }
      });
    });
  }
  void Fault() {
    memory_ = Arena(0).Get(bytes_out());
    Each(kSliceBytes, [](const PlannedTensor&, const Slice&, uint8_t* out,
                         uint64_t n, Scratch&) {
      for (uint64_t i = 0; i < n; i += 4096) out[i] = 1;
    });
  }
  void Pwrite() {
    const TempFile file(folder_, bytes_out());
    memory_ = nullptr;
    Each(kWriteBytes, [&](const PlannedTensor& t, const Slice& s, uint8_t*,
                          uint64_t n, Scratch& scratch) {
      const auto values = scratch.out.Get(n);
      const uint64_t at = begin_[s.tensor] + s.block * t.block_out();
      if (const auto error = WriteAt(file.fd(), at, values)) {
        throw Error(folder_, Error::kNoOffset, "", ErrorText(error));
      }
    });
  }
  void Mapped() {
    const TempFile file(folder_, bytes_out());
    memory_ = Map(file.fd(), bytes_out(), PROT_READ | PROT_WRITE);
    Each(kWriteBytes, [](const PlannedTensor&, const Slice&, uint8_t* out,
                         uint64_t n, Scratch&) { std::memset(out, 1, n); });
    memory_ = nullptr;
  }
  void Free() { memory_ = nullptr; }

 private:
  static constexpr uint64_t kPiece = 128 << 10;  // as ReadBlocks

  using Work = std::function<void(const PlannedTensor&, const Slice&,
                                  uint8_t* out, uint64_t n, Scratch&)>;
  void Each(uint64_t slice_bytes, const Work& work) {
    const std::vector<Slice> slices = CutIntoSlices(plan_, slice_bytes);
    ParallelFor(slices.size(), options_.threads, bytes_out(), nullptr,
                [&](size_t i, Scratch& scratch) {
                  const Slice& s = slices[i];
                  const PlannedTensor& t = plan_[s.tensor];
                  const uint64_t n = s.blocks * t.block_out();
                  uint8_t* const out = memory_
                                           ? memory_.get() + begin_[s.tensor] +
                                                 s.block * t.block_out()
                                           : nullptr;
                  work(t, s, out, n, scratch);
                  return n;
                });
  }
  static std::shared_ptr<uint8_t> Map(int fd, uint64_t n, int how = PROT_READ) {
    void* const map = ::mmap(nullptr, n, how, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      throw Error("", Error::kNoOffset, "", "mmap: " + ErrorText(LastError()));
    }
    return {static_cast<uint8_t*>(map), [n](uint8_t* p) { ::munmap(p, n); }};
  }
  /// Calls `work` for pieces of a slice: the first block and their number.
  template <class Work>
  static void ForPieces(const PlannedTensor& t, const Slice& s,
                        const Work& work) {
    const uint64_t step = kPiece / t.block_bytes();
    for (uint64_t b = 0; b < s.blocks; b += step) {
      work(s.block + b, std::min(step, s.blocks - b));
    }
  }
  static void ReadPieces(const PlannedTensor& t, const Slice& s,
                         Scratch& scratch) {
    const uint64_t end = s.blocks * t.block_bytes();
    for (uint64_t at = 0; at < end; at += kPiece) {
      const uint64_t n = std::min(kPiece, end - at);
      t.source.file->Read(t.info(), s.block * t.block_bytes() + at,
                          scratch.in.Get(n));
    }
  }

  const LoadOptions& options_;
  const std::string folder_;
  std::vector<PlannedTensor> plan_;
  LoadSummary summary_;
  std::vector<uint64_t> begin_;  // of each tensor in the output
  std::map<int32_t, std::vector<uint8_t>> samples_;
  std::shared_ptr<uint8_t> memory_;
};

/// Drops the model from the page cache, if the system listens.
void Forget(const ModelFiles& model) {
  for (const GgufFile& f : model.files()) {
    ::posix_fadvise(f.fd(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

int Run(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: %s MODEL.gguf FOLDER [ROUNDS [THREADS]]\n",
                 argv[0]);
    return 2;
  }
  const std::string path = argv[1];
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 5;
  LoadOptions options;
  options.threads = argc > 4 ? std::atoi(argv[4]) : 0;
  const ModelFiles model = ModelFiles::Open(path);
  Parts parts(model, options, argv[2]);
  LoadedModel loaded;

  nlohmann::ordered_json out = {{"target", Target()},
                                {"threads", options.threads},
                                {"tensors", parts.tensors()},
                                {"bytes_in", parts.bytes_in()},
                                {"bytes_out", parts.bytes_out()}};
  using Contestants =
      std::vector<std::pair<const char*, std::function<void()>>>;
  const auto measure = [&](const Contestants& contestants, bool cold) {
    for (int round = 0; round <= rounds; ++round) {
      for (const auto& [name, run] : contestants) {
        if (cold) Forget(model);
        const auto start = std::chrono::steady_clock::now();
        run();
        const std::chrono::duration<double> seconds =
            std::chrono::steady_clock::now() - start;
        // The first round warms up.
        if (round > 0) out["seconds"][name].push_back(seconds.count());
        loaded = {};
        parts.Free();
      }
    }
  };
  measure({{"fault", [&] { parts.Fault(); }},
           {"open", [&] { const ModelFiles again = ModelFiles::Open(path); }},
           {"load", [&] { loaded = LoadModel(path, options); }},
           {"loop", [&] { parts.Loop(); }},
           {"read", [&] { parts.Read(); }},
           {"dequantize", [&] { parts.Dequantize(); }},
           {"from_pread", [&] { parts.FromPread(); }},
           {"from_map", [&] { parts.FromMap(); }}},
          false);
  // Apart: the pages of a file that was removed are small ones, and what comes
  // next would have to make huge ones of them.
  measure({{"pwrite", [&] { parts.Pwrite(); }},
           {"mapped", [&] { parts.Mapped(); }}},
          false);
  measure({{"cold_read", [&] { parts.Read(); }},
           {"cold_load", [&] { loaded = LoadModel(path, options); }}},
          true);
  std::puts(out.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace dequant

int main(int argc, char** argv) {
  try {
    return dequant::Run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "model_bench: %s\n", e.what());
    return 1;
  }
}
