# The tokenizer needs neither gRPC nor protobuf.
bora_library(bora_tokenizer SRCS tokenizer.cc detokenizer.cc DEPS bora_base)
bora_library(bora_tokenizer_model SRCS tokenizer_model.cc DEPS bora_tokenizer)
bora_library(bora_added_tokens SRCS added_tokens.cc DEPS bora_model bora_tokenizer)
