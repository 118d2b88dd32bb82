// What an actor-critic network is made of: plain numbers, and offsets into one vector of parameters.
//
//   observation -> trunk -> (GRU) -> features -> policy tower -> outputs
//                                             -> value tower  -> value
//
// Each layer is dense, y = activation(W x + b), with W as torch.nn.Linear keeps it: [outputs, inputs], row by row. A
// shared trunk has towers of one linear layer each; separate networks have no trunk. The GRU is torch.nn.GRU's cell.
#pragma once

#include <cstdint>

namespace metafast {

enum class Activation : std::int32_t { identity, tanh, relu, silu };

struct DenseLayer {
  std::int64_t inputs;
  std::int64_t outputs;
  Activation activation;
  std::int64_t weight;  // where its parameters begin
  std::int64_t bias;    // or -1
};

struct GruLayer {
  std::int64_t inputs;
  std::int64_t width;  // 0: there is none
  std::int64_t input_weight;   // [3 width, inputs]: the rows of the reset gate, of the update gate, of the candidate
  std::int64_t hidden_weight;  // [3 width, width]
  std::int64_t input_bias;     // [3 width]
  std::int64_t hidden_bias;    // [3 width]
};

constexpr int kMaxLayers = 64;

struct Tower {
  std::int64_t num_layers;
  DenseLayer layers[kMaxLayers];
};

// What the outputs of the policy tower stand for.
enum class Head : std::int32_t {
  categorical,        // logits, for each component of the action a softmax over its choices
  bernoulli,          // logits of independent bits
  gaussian,           // means; log sigma is a parameter for each component
  squashed_gaussian,  // what tanh makes means of, then what softplus (and a floor) makes sigmas of
};

constexpr double kSigmaFloor = 1e-2;

struct ActionHead {
  Head kind;
  std::int64_t num_outputs;          // of the policy tower
  std::int64_t action_size;          // components of one action
  const std::int32_t* num_choices;   // categorical: [action_size], their sum is num_outputs
  std::int64_t log_sigma;            // gaussian: where the parameters begin
};

struct Network {
  std::int64_t observation_size;
  std::int64_t num_parameters;
  Tower trunk;
  GruLayer gru;
  Tower policy;
  Tower value;
  ActionHead head;
};

}  // namespace metafast
