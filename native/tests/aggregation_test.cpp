// The aggregation by hand on small numbers, its linearity, and what it refuses.
#include "coformer/aggregation.hpp"

#include <cmath>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using coformer::AggregationShape;
using coformer::PoolOrder;
using coformer::aggregate;
using Values = std::vector<float>;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (!holds) {
    std::cerr << "FAILED: " << what << "\n";
    ++failures;
  }
}

void expect_near(const Values& actual, const Values& expected, float tolerance, const std::string& what) {
  bool near = actual.size() == expected.size();
  for (std::size_t i = 0; near && i < actual.size(); ++i) near = std::abs(actual[i] - expected[i]) <= tolerance;
  expect(near, what);
}

void expect_refusal(const AggregationShape& shape, const std::vector<Values>& features, const Values& weight,
                    const Values& bias, const std::string& message) {
  try {
    aggregate(shape, features, weight, bias, PoolOrder::after_linear);
    expect(false, "accepted, although: " + message);
  } catch (const std::invalid_argument& error) {
    expect(error.what() == message, "refused with '" + std::string(error.what()) + "' instead of '" + message + "'");
  }
}

void by_hand() {
  // Two members of widths 2 and 1, two tokens: means (2, 3) and (10); W = [[1, 0, 1], [0, 2, -1]], b = [0.5, 100].
  const AggregationShape shape{1, 2, 2, {2, 1}};
  const std::vector<Values> features{{1, 2, 3, 4}, {5, 15}};
  const Values weight{1, 0, 1, 0, 2, -1}, bias{0.5F, 100};
  for (const PoolOrder order : {PoolOrder::after_linear, PoolOrder::before_linear}) {
    expect_near(aggregate(shape, features, weight, bias, order), {12.5F, 96}, 0, "two members by hand");
  }
}

void samples_do_not_mix() {
  const AggregationShape shape{2, 1, 1, {1, 1}};
  const Values result = aggregate(shape, {{1, 2}, {10, 20}}, {1, 1}, {0}, PoolOrder::after_linear);
  expect_near(result, {11, 22}, 0, "each sample has its own result");
}

void pooling_commutes() {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  const AggregationShape shape{3, 17, 24, {8, 13, 5}};
  const auto draw = [&](std::size_t count) {
    Values values(count);
    for (float& value : values) value = normal(random);
    return values;
  };
  std::vector<Values> features;
  for (const std::size_t width : shape.widths) features.push_back(draw(shape.batch * shape.tokens * width));
  const Values weight = draw(shape.outputs * shape.total_width()), bias = draw(shape.outputs);
  expect_near(aggregate(shape, features, weight, bias, PoolOrder::after_linear),
              aggregate(shape, features, weight, bias, PoolOrder::before_linear), 1e-5F, "pooling before and after");
}

void refusals() {
  expect_refusal({1, 1, 1, {}}, {}, {}, {0}, "there are no members");
  expect_refusal({0, 1, 1, {1}}, {{}}, {1}, {0}, "batch is 0");
  expect_refusal({1, 0, 1, {1}}, {{}}, {1}, {0}, "tokens is 0");
  expect_refusal({1, 1, 0, {1}}, {{1}}, {}, {}, "outputs is 0");
  expect_refusal({1, 1, 1, {1, 0}}, {{1}, {}}, {1}, {0}, "a width is 0");
  expect_refusal({1, 1, 1, {1}}, {}, {1}, {0}, "there are features of 0 members, expected 1");
  expect_refusal({1, 2, 1, {1}}, {{1}}, {1}, {0}, "features of member 0 has 1 values, expected 2");
  expect_refusal({1, 1, 1, {1}}, {{1}}, {1, 1}, {0}, "weight has 2 values, expected 1");
  expect_refusal({1, 1, 1, {1}}, {{1}}, {1}, {}, "bias has 0 values, expected 1");
  expect_refusal({1, static_cast<std::size_t>(-1), 1, {2}}, {{1}}, {1, 1}, {0}, "the features do not fit into memory");
}

}  // namespace

int main() {
  by_hand();
  samples_do_not_mix();
  pooling_commutes();
  refusals();
  if (failures == 0) std::cout << "aggregation: all checks hold\n";
  return failures == 0 ? 0 : 1;
}
