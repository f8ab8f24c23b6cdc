// Which running sequences get rows in the next plan, and how many tokens the rows have.
//
// Pipelines. The decoding sequences are divided into as many micro-batches as there are stages, of
// the same predicted time, and the sequences that were planned least recently come first: so every
// stage has a micro-batch to work on. Several chunks of one prompt may be in flight, as they pass
// through the stages in order. While no sequence decodes, chunks are as long as lets the stages
// overlap best.
//
// Run-ahead. A plan may be made before the result of the plan before it is back: its decode rows go
// on from tokens that only the workers know. A sequence has at most one such row in flight. If the
// sequence turns out to have ended, one token too many was computed, which is dropped.
//
// Step time. While sequences decode, prompts get only as many tokens as fit the step's time budget
// beside the decode rows, by the cost model; the first chunk of a plan gets 16 tokens in any case,
// so that prompts get on even if decoding alone takes as long. The time of a step is the time of
// its way through all stages.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/scheduler/block_pool.h"
#include "coordinator/scheduler/running_sequences.h"
#include "coordinator/scheduler/sequence.h"
#include "coordinator/scheduler/step_cost_model.h"
#include "model/step/step_cost.h"

namespace bora {

// A row that a sequence gets if blocks can be found for it.
struct RowChoice {
  Sequence* sequence = nullptr;
  int32_t n_tokens = 0;
};

// What rows are chosen from. Refers, owns nothing.
struct RowSources {
  const RunningSequences& running;
  const BlockPool& blocks;
  const StepCostModel& cost_model;
};

// Prompt tokens of one sequence from `position` on.
struct PromptChunk {
  int32_t position = 0;
  int32_t n_tokens_max = 0;
  bool is_first = true;  // whether the plan has no other prompt chunk yet
};

// Pure. Owned by the engine thread. Holds no reference to its arguments.
class RowChooser {
 public:
  struct Options {
    int32_t n_stages = 1;
    int32_t n_plan_tokens_max = 0;  // tokens of a plan
    bool run_ahead = true;
    double step_time_budget_us = 0;  // of a step with decode rows; 0: no limit
  };
  explicit RowChooser(const Options& options) : options_(options) {}

  // Begins the plan step_id: all other functions speak of this plan. Returns how many tokens it has
  // at most. In a pipeline that may be fewer than n_plan_tokens_max, where stages would wait for a
  // long plan to come through. n_waiting_tokens: tokens that waiting sequences have to compute.
  int32_t BeginPlan(int64_t step_id, int64_t n_waiting_tokens, const RowSources& sources);

  // A row for each sequence whose turn it is to decode. A sequence whose last token will not have
  // come through the stages when the plan gets there is left out, unless any_distance is true.
  std::vector<RowChoice> ChooseDecodeRows(bool any_distance, const RowSources& sources);

  // Appends prompt chunks of running sequences, so that the rows have at most n_tokens_max tokens.
  // `next` is the waiting sequence that could be admitted now, or null. The first running sequence
  // that it goes before leaves half of its chunk to it, and no other sequence gets a chunk after.
  void AddPromptChunks(int32_t n_tokens_max, const Sequence* next, const RowSources& sources,
                       std::vector<RowChoice>* rows) const;

  // How many tokens of the chunk fit beside `work`, which the plan does already. 0 only if the
  // chunk is not the plan's first.
  int32_t FitTokens(const StepWork& work, const PromptChunk& chunk,
                    const StepCostModel& cost_model) const;

 private:
  // Whether the token that the sequence goes on from is known, or will have come through the stages
  // when the plan gets there.
  bool IsReady(const Sequence& sequence, bool any_distance) const;
  // The length of chunks that brings n_tokens prompt tokens through the pipeline first.
  int32_t BestChunkTokens(int64_t n_tokens, const StepCostModel& cost_model) const;

  const Options options_;
  // The plan that was begun last.
  int64_t step_id_ = 0;
  int32_t n_decoding_ = 0;  // sequences that decoded and were not held when it was begun
  // Prompt tokens of each micro-batch in this round of n_stages plans.
  int32_t prompt_share_ = 0;
  // Predicted microseconds by which the last micro-batch fell short of its share (negative:
  // exceeded it); the next one gets them. Before the cost model has learnt anything: rows.
  double decode_credit_ = 0;
};

}  // namespace bora
