bora_fuzzer(
  tokenizer_model_fuzz
  SRCS tokenizer_model_fuzz.cc
  DEPS bora_tokenizer_model
  CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/tokenizer_model)
