// Runs the reference aggregation on raw float32 values (the machine's byte order), read from a file or standard input:
// the features of each member (batch, tokens, d_n) one after the other, the weight (outputs, d_agg), the bias (outputs).
// Writes (batch, outputs) likewise. Exit code 2: the user's mistake; 1: reading or writing failed.
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "coformer/aggregation.hpp"

namespace {

constexpr const char* usage =
    "usage: coformer-aggregate --widths D1,D2,... --outputs D [--tokens T] [--batch B]\n"
    "                          [--pool after|before] [--input FILE] [--output FILE]\n";

struct Options {
  coformer::AggregationShape shape{1, 1, 0, {}};
  coformer::PoolOrder order = coformer::PoolOrder::after_linear;
  std::string input;   // empty: standard input
  std::string output;  // empty: standard output
};

std::size_t parse_count(const std::string& text, const std::string& flag) {
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || text.size() > 12 || std::stoull(text) == 0) {
    throw std::invalid_argument(flag + " is '" + text + "'; give a positive whole number");
  }
  return static_cast<std::size_t>(std::stoull(text));
}

std::vector<std::size_t> parse_widths(const std::string& text) {
  std::vector<std::size_t> widths;
  std::size_t start = 0;
  while (true) {
    const std::size_t comma = text.find(',', start);
    widths.push_back(parse_count(text.substr(start, comma - start), "--widths"));
    if (comma == std::string::npos) return widths;
    start = comma + 1;
  }
}

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    const std::string& flag = arguments[i];
    if (i + 1 == arguments.size()) throw std::invalid_argument("no value after '" + flag + "'");
    const std::string& value = arguments[i + 1];
    if (flag == "--widths") {
      options.shape.widths = parse_widths(value);
    } else if (flag == "--outputs") {
      options.shape.outputs = parse_count(value, flag);
    } else if (flag == "--tokens") {
      options.shape.tokens = parse_count(value, flag);
    } else if (flag == "--batch") {
      options.shape.batch = parse_count(value, flag);
    } else if (flag == "--pool" && (value == "after" || value == "before")) {
      options.order = value == "after" ? coformer::PoolOrder::after_linear : coformer::PoolOrder::before_linear;
    } else if (flag == "--pool") {
      throw std::invalid_argument("--pool is '" + value + "'; give 'after' or 'before'");
    } else if (flag == "--input") {
      options.input = value;
    } else if (flag == "--output") {
      options.output = value;
    } else {
      throw std::invalid_argument("unknown option '" + flag + "'");
    }
  }
  if (options.shape.widths.empty()) throw std::invalid_argument("--widths is missing");
  if (options.shape.outputs == 0) throw std::invalid_argument("--outputs is missing");
  options.shape.check();
  return options;
}

std::vector<float> read_values(std::istream& stream, std::size_t count, const std::string& what) {
  std::vector<float> values(count);
  const auto bytes = static_cast<std::streamsize>(count * sizeof(float));
  stream.read(reinterpret_cast<char*>(values.data()), bytes);
  if (stream.gcount() != bytes) {
    throw std::runtime_error("the input ends within " + what + ": " + std::to_string(stream.gcount()) + " of " +
                             std::to_string(bytes) + " bytes");
  }
  return values;
}

void run(const Options& options) {
  std::ifstream file;
  if (!options.input.empty()) {
    file.open(options.input, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read '" + options.input + "'");
  }
  std::istream& input = options.input.empty() ? std::cin : file;
  const coformer::AggregationShape& shape = options.shape;
  std::vector<std::vector<float>> features;
  for (std::size_t member = 0; member < shape.widths.size(); ++member) {
    features.push_back(read_values(input, shape.batch * shape.tokens * shape.widths[member],
                                   "the features of member " + std::to_string(member)));
  }
  const std::vector<float> weight = read_values(input, shape.outputs * shape.total_width(), "the weight");
  const std::vector<float> bias = read_values(input, shape.outputs, "the bias");
  if (input.peek() != std::istream::traits_type::eof()) {
    throw std::runtime_error("the input goes on after the bias; check --widths, --outputs, --tokens and --batch");
  }

  const std::vector<float> result = coformer::aggregate(shape, features, weight, bias, options.order);
  const auto bytes = static_cast<std::streamsize>(result.size() * sizeof(float));
  if (options.output.empty()) {
    std::cout.write(reinterpret_cast<const char*>(result.data()), bytes).flush();
    if (!std::cout) throw std::runtime_error("cannot write to standard output");
    return;
  }
  std::ofstream output(options.output, std::ios::binary);
  output.write(reinterpret_cast<const char*>(result.data()), bytes).flush();
  if (!output) throw std::runtime_error("cannot write '" + options.output + "'");
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(parse_options(std::vector<std::string>(arguments + 1, arguments + count)));
    return 0;
  } catch (const std::invalid_argument& error) {
    std::cerr << "coformer-aggregate: " << error.what() << "\n" << usage;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "coformer-aggregate: " << error.what() << "\n";
    return 1;
  }
}
