// Advantages of samples over the others of their group, as language models are trained with: no recurrence in time.
//
//   grpo   (r - mean) / (std + 1e-6), std with Bessel's correction (Shao et al. 2024, section 4.1.2)
//   rloo   r - the mean of the group's other samples (Ahmadian et al. 2024, equation 7)
//
// A sample that is alone, or whose group has equal rewards, gets exactly 0: rewards are counted from the group's first.
// Sums are taken in double, a run of samples of one group at a time: groups mostly come in runs.
#pragma once

#include <cstdint>

namespace metafast::returns {

struct Group {
  double origin = 0;
  double sum = 0;
  double sum_of_squares = 0;  // of the differences from the mean
  std::int64_t count = 0;
  double mean = 0;  // from the origin, as the sum
  double scale = 0;
};

enum class GroupKind { grpo, rloo };

constexpr double kGroupEpsilon = 1e-6;

// `groups[index[i]]` is the group of sample i; the groups are as constructed.
template <class T, class Index>
void group_advantages(const T* rewards, const Index* index, std::int64_t count, Group* groups, std::int64_t num_groups,
                      GroupKind kind, T* advantages) {
  const auto for_each_run = [&](const auto& body) {
    for (std::int64_t begin = 0, end; begin < count; begin = end) {
      for (end = begin + 1; end < count && index[end] == index[begin]; ++end) {
      }
      body(groups[index[begin]], begin, end);
    }
  };
  for_each_run([&](Group& group, std::int64_t begin, std::int64_t end) {
    if (group.count == 0) group.origin = static_cast<double>(rewards[begin]);
    double sum = 0;
    for (std::int64_t i = begin; i < end; ++i) sum += static_cast<double>(rewards[i]) - group.origin;
    group.sum += sum;
    group.count += end - begin;
  });
  for (std::int64_t g = 0; g < num_groups; ++g)
    groups[g].mean = groups[g].count > 0 ? groups[g].sum / static_cast<double>(groups[g].count) : 0;
  if (kind == GroupKind::grpo) {
    for_each_run([&](Group& group, std::int64_t begin, std::int64_t end) {
      double sum = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        const double difference = static_cast<double>(rewards[i]) - group.origin - group.mean;
        sum += difference * difference;
      }
      group.sum_of_squares += sum;
    });
  }
  for (std::int64_t g = 0; g < num_groups; ++g) {
    Group& group = groups[g];
    const double others = static_cast<double>(group.count - 1);
    if (group.count < 2)
      group.scale = 0;
    else if (kind == GroupKind::rloo)
      group.scale = static_cast<double>(group.count) / others;
    else
      group.scale = 1 / (__builtin_sqrt(group.sum_of_squares / others) + kGroupEpsilon);
  }
  for_each_run([&](const Group& group, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double difference = static_cast<double>(rewards[i]) - group.origin - group.mean;
      advantages[i] = group.count < 2 ? T(0) : static_cast<T>(difference * group.scale);
    }
  });
}

}  // namespace metafast::returns
