#include "bench/contest.h"

#include <algorithm>
#include <chrono>
#include <cmath>

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

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle =
      values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
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

void Contest::Reset() {
  for (Player& p : players_) {
    if (p.calls == 0) Calibrate(p);
    p.seconds.clear();
  }
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

double Contest::Seconds() const { return Median(players_[0].seconds); }

std::vector<Contest::Score> Contest::Scores() const {
  std::vector<Score> scores;
  for (size_t i = 1; i < players_.size(); ++i) {
    const Player& p = players_[i];
    std::vector<double> ratios;
    for (size_t k = 0; k < p.seconds.size(); ++k) {
      ratios.push_back(p.seconds[k] / p.work / players_[0].seconds[k]);
    }
    scores.push_back({p.name, Median(ratios)});
  }
  return scores;
}

}  // namespace dequant::bench
