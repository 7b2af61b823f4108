#include "bench/contest.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

namespace dequant::bench {
namespace {

constexpr double kTurn = 50e-6;
// A call that takes longer than this works on more than a cache holds: there is
// nothing to warm.
constexpr double kLongCall = 2e-3;

double Time(const Contest::Run& run, size_t calls) {
  const auto start = std::chrono::steady_clock::now();
  run(calls);
  const std::chrono::duration<double> t =
      std::chrono::steady_clock::now() - start;
  return t.count();
}

// The value that a share of all are below.
double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto at =
      values.begin() +
      static_cast<ptrdiff_t>(static_cast<double>(values.size()) * share);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}
double Median(std::vector<double> values) {
  return Quantile(std::move(values), 0.5);
}

// A pulse this much slower than the fastest tenth means company.
constexpr double kQuiet = 1.03;
constexpr size_t kPulseTurns = 400;
constexpr size_t kUnrolled = 8;
constexpr double kPulseOperations = 6.0 * kUnrolled * kPulseTurns;

// As many additions as a core can start: three times two that no other waits
// for, and that the compiler may not add up beforehand.
double TakePulse() {
  size_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < kPulseTurns; ++i) {
    [&]<size_t... k>(std::index_sequence<k...>) {
      const auto add = [i](size_t& x, size_t& y) {
        benchmark::DoNotOptimize(x += i);
        benchmark::DoNotOptimize(y += x);
      };
      (((void)k, add(a, b), add(c, d), add(e, f)), ...);
    }
    (std::make_index_sequence<kUnrolled>());
  }
  const std::chrono::duration<double> t =
      std::chrono::steady_clock::now() - start;
  return t.count();
}

}  // namespace

void Contest::Add(std::string name, Run run, double work) {
  players_.push_back({std::move(name), std::move(run), work});
}

void Contest::Calibrate(Player& p) {
  size_t calls = 1;
  double t = Time(p.run, calls);  // cold: only a long call is timed well
  if (t < kLongCall) t = Time(p.run, calls);
  while (t < kTurn / 4) {
    calls *= 4;
    t = Time(p.run, calls);
  }
  t /= static_cast<double>(calls);
  p.cached = t < kLongCall;
  p.calls = static_cast<size_t>(std::max(1.0, std::round(kTurn / t)));
}

void Contest::TakeTurnsOf(const Contest& other) {
  for (size_t i = 0; i < players_.size(); ++i) {
    players_[i].calls = other.players_[i].calls;
    players_[i].cached = other.players_[i].cached;
  }
}

void Contest::Reset() {
  for (Player& p : players_) {
    if (p.calls == 0) Calibrate(p);
    p.seconds.clear();
  }
  pulses_.clear();
}

void Contest::Warm(Player& p) {
  if (p.cached) p.run(1);
}

void Contest::Turn(Player& p) {
  p.seconds.push_back(Time(p.run, p.calls) / static_cast<double>(p.calls));
}

void Contest::Others() {
  for (size_t i = 1; i < players_.size(); ++i) {
    Player& p = players_[forward_ ? i : players_.size() - i];
    Warm(p);
    Turn(p);
  }
  forward_ = !forward_;
  WarmUp();
}

void Contest::WarmUp() {
  pulses_.push_back(TakePulse());
  Warm(players_[0]);
}

std::vector<size_t> Contest::QuietRounds() const {
  const size_t rounds = players_[0].seconds.size();
  const double most = kQuiet * Quantile(pulses_, 0.1);
  std::vector<size_t> quiet, all(rounds);
  std::iota(all.begin(), all.end(), size_t{0});
  for (size_t k : all) {
    if (std::max(pulses_[k], pulses_[k + 1]) <= most) quiet.push_back(k);
  }
  return quiet.size() * 4 >= rounds ? quiet : all;
}

double Contest::Seconds() const {
  std::vector<double> seconds;
  for (size_t k : QuietRounds()) seconds.push_back(players_[0].seconds[k]);
  return Median(std::move(seconds));
}

double Contest::CoreSpeed() const { return kPulseOperations / Median(pulses_); }

std::vector<Contest::Score> Contest::Scores() const {
  const std::vector<size_t> rounds = QuietRounds();
  std::vector<Score> scores;
  for (size_t i = 1; i < players_.size(); ++i) {
    const Player& p = players_[i];
    std::vector<double> ratios;
    for (size_t k : rounds) {
      ratios.push_back(p.seconds[k] / p.work / players_[0].seconds[k]);
    }
    scores.push_back({p.name, Median(ratios)});
  }
  return scores;
}

}  // namespace dequant::bench
