#include "coformer/aggregation.hpp"

#include <limits>
#include <stdexcept>
#include <string>

namespace coformer {
namespace {

std::size_t checked_product(std::size_t left, std::size_t right, const char* what) {
  if (left != 0 && right > std::numeric_limits<std::size_t>::max() / sizeof(float) / left) {
    throw std::invalid_argument(std::string(what) + " do not fit into memory");
  }
  return left * right;
}

void require_size(const std::vector<float>& values, std::size_t size, const std::string& what) {
  if (values.size() != size) {
    throw std::invalid_argument(what + " has " + std::to_string(values.size()) + " values, expected " +
                                std::to_string(size));
  }
}

// One token of one sample: the concatenation of every member's row.
void concatenate(const AggregationShape& shape, const std::vector<std::vector<float>>& features, std::size_t row,
                 std::vector<double>& joined) {
  std::size_t column = 0;
  for (std::size_t member = 0; member < shape.widths.size(); ++member) {
    const std::size_t width = shape.widths[member];
    for (std::size_t i = 0; i < width; ++i) {
      joined[column++] += static_cast<double>(features[member][row * width + i]);
    }
  }
}

void apply_linear(const std::vector<float>& weight, const std::vector<float>& bias, const std::vector<double>& input,
                  std::vector<double>& output) {
  for (std::size_t out = 0; out < output.size(); ++out) {
    double sum = static_cast<double>(bias[out]);
    for (std::size_t in = 0; in < input.size(); ++in) {
      sum += static_cast<double>(weight[out * input.size() + in]) * input[in];
    }
    output[out] += sum;
  }
}

}  // namespace

std::size_t AggregationShape::total_width() const {
  std::size_t total = 0;
  for (const std::size_t width : widths) {
    if (width > std::numeric_limits<std::size_t>::max() - total) {
      throw std::invalid_argument("the widths do not fit into memory");
    }
    total += width;
  }
  return total;
}

void AggregationShape::check() const {
  if (batch == 0) throw std::invalid_argument("batch is 0");
  if (tokens == 0) throw std::invalid_argument("tokens is 0");
  if (outputs == 0) throw std::invalid_argument("outputs is 0");
  if (widths.empty()) throw std::invalid_argument("there are no members");
  for (const std::size_t width : widths) {
    if (width == 0) throw std::invalid_argument("a width is 0");
  }
  const std::size_t rows = checked_product(batch, tokens, "the features");
  checked_product(rows, total_width(), "the features");
  checked_product(outputs, total_width(), "the weights");
  checked_product(batch, outputs, "the results");
}

std::vector<float> aggregate(const AggregationShape& shape, const std::vector<std::vector<float>>& features,
                             const std::vector<float>& weight, const std::vector<float>& bias, PoolOrder order) {
  shape.check();
  if (features.size() != shape.widths.size()) {
    throw std::invalid_argument("there are features of " + std::to_string(features.size()) + " members, expected " +
                                std::to_string(shape.widths.size()));
  }
  for (std::size_t member = 0; member < features.size(); ++member) {
    require_size(features[member], shape.batch * shape.tokens * shape.widths[member],
                 "features of member " + std::to_string(member));
  }
  require_size(weight, shape.outputs * shape.total_width(), "weight");
  require_size(bias, shape.outputs, "bias");

  const double share = 1.0 / static_cast<double>(shape.tokens);
  std::vector<float> result(shape.batch * shape.outputs);
  std::vector<double> joined(shape.total_width());
  std::vector<double> mapped(shape.outputs);
  for (std::size_t sample = 0; sample < shape.batch; ++sample) {
    joined.assign(joined.size(), 0.0);
    mapped.assign(mapped.size(), 0.0);
    for (std::size_t token = 0; token < shape.tokens; ++token) {
      concatenate(shape, features, sample * shape.tokens + token, joined);
      if (order == PoolOrder::after_linear) {
        apply_linear(weight, bias, joined, mapped);
        joined.assign(joined.size(), 0.0);
      }
    }
    if (order == PoolOrder::before_linear) {
      for (double& value : joined) value *= share;
      apply_linear(weight, bias, joined, mapped);
    } else {
      for (double& value : mapped) value *= share;
    }
    for (std::size_t out = 0; out < shape.outputs; ++out) {
      result[sample * shape.outputs + out] = static_cast<float>(mapped[out]);
    }
  }
  return result;
}

}  // namespace coformer
