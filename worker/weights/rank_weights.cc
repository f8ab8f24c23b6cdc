#include "worker/weights/rank_weights.h"

#include <utility>
#include <variant>

#include "base/check.h"

namespace bora {

RankWeights::RankWeights(WeightPlan plan, std::unique_ptr<const WeightMemory> memory,
                         const WeightDigests& digests)
    : plan_(std::move(plan)),
      memory_(std::move(memory)),
      digests_(digests),
      layers_(plan_.shape.layers.n_layers()) {
  // The plan has every weight's type, layout and shape; only the address is missing.
  for (const PlannedWeight& planned : plan_.weights) {
    const uint8_t* const data = memory_->data() + planned.begin_bytes;
    if (const auto* const matrix = std::get_if<PackedWeight>(&planned.form)) {
      PackedWeight* const field = MatrixField(planned.field, planned.layer);
      *field = *matrix;
      field->data = data;
    } else {
      Weight* const field = PlainField(planned.field, planned.layer);
      *field = std::get<Weight>(planned.form);
      field->data = data;
    }
  }
}

Weight* RankWeights::PlainField(WeightField field, int64_t layer) {
  switch (field) {
    case WeightField::kTokEmbeddings:
      return &tok_embeddings_;
    case WeightField::kAttentionNorm:
      return &layers_.at(layer - plan_.shape.layers.begin).attention_norm;
    case WeightField::kFfnNorm:
      return &layers_.at(layer - plan_.shape.layers.begin).ffn_norm;
    case WeightField::kNorm:
      return &norm_;
    default:
      CHECK(false) << "field " << static_cast<int>(field) << " is a matrix";
      return nullptr;
  }
}

PackedWeight* RankWeights::MatrixField(WeightField field, int64_t layer) {
  switch (field) {
    case WeightField::kWqkv:
      return &layers_.at(layer - plan_.shape.layers.begin).wqkv;
    case WeightField::kWo:
      return &layers_.at(layer - plan_.shape.layers.begin).wo;
    case WeightField::kW13:
      return &layers_.at(layer - plan_.shape.layers.begin).w13;
    case WeightField::kW2:
      return &layers_.at(layer - plan_.shape.layers.begin).w2;
    case WeightField::kOutput:
      return &output_;
    default:
      CHECK(false) << "field " << static_cast<int>(field) << " is no matrix";
      return nullptr;
  }
}

}  // namespace bora
