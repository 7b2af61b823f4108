// Fair ratios on a machine whose speed drifts and that others use as well:
// contestants take turns of some 50 us each, and a ratio is the median over
// rounds. Between turns a short loop of integers takes the pulse of the core:
// it shows a neighbour on the core's other thread best, who slows computing
// more than storing. Rounds in which it was slow do not count where there are
// others.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dequant::bench {

class Contest {
 public:
  /// Does its work `calls` times.
  using Run = std::function<void(size_t calls)>;

  /// The subject: all others are compared with it.
  explicit Contest(Run subject) { Add("", std::move(subject), 1); }

  /// A contestant. Its score is the subject's speed over its own, where one
  /// call of it does `work` times the work of one call of the subject.
  void Add(std::string name, Run run, double work);

  /// How many calls of the subject make one turn.
  size_t calls() const { return players_[0].calls; }

  /// Makes as many calls a turn as another contest of such players.
  void TakeTurnsOf(const Contest& other);

  /// Forgets the rounds; the first time, finds how many calls make a turn.
  void Reset();

  /// One turn of the subject, right after WarmUp() or Others().
  void Subject() { Turn(players_[0]); }
  /// One turn of each of the others; then the subject's data are warm again.
  void Others();
  void WarmUp();

  /// Median seconds of one call of the subject.
  double Seconds() const;
  /// Median integer operations per second between the turns.
  double CoreSpeed() const;

  struct Score {
    std::string name;
    double ratio;
  };
  std::vector<Score> Scores() const;

 private:
  struct Player {
    std::string name;
    Run run;
    double work;
    size_t calls = 0;  // of one turn
    bool cached = true;
    std::vector<double> seconds = {};  // of one call, one entry a round
  };
  static void Calibrate(Player& p);
  static void Warm(Player& p);
  static void Turn(Player& p);
  // The rounds that count.
  std::vector<size_t> QuietRounds() const;

  std::vector<Player> players_;
  std::vector<double> pulses_;  // seconds; before each round and after the last
  bool forward_ = true;
};

}  // namespace dequant::bench
