// The aggregation module: Pool(W · Concat(X_1, …, X_N) + b), eq. (2) of the CoFormer paper.
#pragma once

#include <cstddef>
#include <vector>

namespace coformer {

// The shapes of one aggregation. Features already pooled have tokens == 1.
struct AggregationShape {
  std::size_t batch;
  std::size_t tokens;
  std::size_t outputs;              // width of the aggregated features
  std::vector<std::size_t> widths;  // d_n of every member, in the order of the concatenation

  // Width of the concatenated features, d_agg.
  std::size_t total_width() const;

  // Throws std::invalid_argument naming the first dimension that is zero or the product that overflows.
  void check() const;
};

// When the average over the tokens is taken. Eq. (2) says after the linear map; because both are linear, pooling
// before it gives the same, and each device then sends d_n numbers instead of tokens × d_n.
enum class PoolOrder { after_linear, before_linear };

// Aggregates the members' features.
//
//   features[n]: (batch, tokens, widths[n]), row-major
//   weight:      (outputs, total_width), row-major, as torch.nn.Linear keeps it; the paper's W is its transpose
//   bias:        (outputs)
//   returns      (batch, outputs)
//
// Sums are taken in double precision: this is the reference that faster code is compared with.
// Throws std::invalid_argument where a size does not fit the shape.
std::vector<float> aggregate(const AggregationShape& shape, const std::vector<std::vector<float>>& features,
                             const std::vector<float>& weight, const std::vector<float>& bias, PoolOrder order);

}  // namespace coformer
