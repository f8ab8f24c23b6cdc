bora_test(
  tokenizer_test
  SRCS tokenizer_test.cc tokenizer_decode_test.cc tokenizer_model_test.cc
  DEPS bora_tokenizer_model
  LABEL unit
  TIMEOUT 600)
